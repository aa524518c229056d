"""A corpus of nasties: input that is out to hurt, made by code, each with what must come of it.

    python -m tests.support.nasties.nasty            every nasty in a process of its own: outcome, seconds, peak MB
    python -m tests.support.nasties.nasty --full     the huge ones, at their full size

What may come of one: rows embedded, rows with a reason, units that failed by name with exit code 1, or one clear error
before anything is embedded. Never a traceback, a hang, a lost row, or memory in proportion to the input. The small
ones are in files.py, folders.py, types.py and tables.py beside; tests/pipelines/corpus/test_nasties.py runs them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import VectormillError
from tests.support.jobs import Said, job, rows, run


@dataclass(frozen=True)
class Nasty:
    """make: fills an empty folder, the corpus. corpus: fields of the job's corpus section; `uri` is below the folder.
    outcome: see `outcome`; after `refused:` and `failed:` a regular expression."""

    name: str
    make: Callable[[Path], object]
    outcome: str
    corpus: dict[str, Any] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def job(self, folder: Path) -> Any:
        """Its job over `folder`/corpus, with the fake model in this process. Fills the corpus."""
        (folder / "corpus").mkdir()
        self.make(folder / "corpus")
        fields = {"id": None, "columns": (), **self.corpus}
        fields["uri"] = str(folder / "corpus") + fields.get("uri", "")
        return job(folder, corpus=fields, run={"rows_per_unit": 4, "max_bad_rows": 1e9, **self.run})

    def is_met_by(self, found: str) -> bool:
        kind, colon, words = self.outcome.partition(": ")
        if not colon:
            return found == self.outcome
        return found.startswith(f"{kind}: ") and re.search(words, found.partition(": ")[2]) is not None


def outcome(config: Any) -> str:
    """What comes of a job: `3 embedded, 1 undecodable`, or `failed: UNIT: WHY` when units failed, or `refused: WHY`
    when nothing was begun. Whatever else it raises is a defect, as are rows that do not add up."""
    said = Said()
    try:
        certificate = run(config, display=said)
    except VectormillError as bad:
        begun = Path(config.table.location).exists() and rows(config)
        return f"refused with rows in the table: {bad}" if begun else f"refused: {bad}"
    found = rows(config)
    assert certificate.rows == certificate.embedded_rows + certificate.bad_rows + certificate.missing_rows
    assert len({(row["_shard"], row["_row"]) for row in found}) == len(found), "a row is in twice"
    for row in found:
        assert (row["vector"] is None) == (row["_reason"] is not None) == (row["_detail"] is not None)
    if certificate.failures or certificate.broken_files:
        assert not certificate.adds_up
        return f"failed: {'; '.join(map(str, (*certificate.failures, *certificate.broken_files)))}"
    assert certificate.adds_up
    assert len(found) == certificate.rows
    counts = Counter(row["_reason"] or "embedded" for row in found)
    return ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts, key=lambda k: (k != "embedded", k)))


def measured(name: str) -> tuple[str, float, float]:
    """(what came of it, seconds, peak MB) of one nasty, in a process of its own."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "tests.support.nasties.nasty", "--one", name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    found = found or f"exit code {process.returncode}"
    return found, time.perf_counter() - started, usage.ru_maxrss / 1024


def main(arguments: list[str] | None = None) -> int:
    from tests.support.nasties import files as nasty_files
    from tests.support.nasties import folders as nasty_folders
    from tests.support.nasties import full as nasty_full
    from tests.support.nasties import tables as nasty_tables
    from tests.support.nasties import types as nasty_types

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the huge ones at their full size; 11 GB of temporary disk")
    parser.add_argument("--only", default="", help="those with this in their names")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    small = (*nasty_files.ALL, *nasty_folders.ALL, *nasty_types.ALL, *nasty_tables.ALL)
    known = {nasty.name: nasty for nasty in (*small, *nasty_full.ALL)}
    if options.one:
        with tempfile.TemporaryDirectory(prefix="nasty-") as folder:
            print(outcome(known[options.one].job(Path(folder))).replace(folder, "FOLDER"))
        return 0
    chosen = nasty_full.ALL if options.full else small
    wrong = 0
    for nasty in (one for one in chosen if options.only in one.name):
        found, seconds, megabytes = measured(nasty.name)
        met = nasty.is_met_by(found)
        wrong += not met
        line = f"{'ok' if met else 'WRONG':5} {seconds:7.1f} s {megabytes:7,.0f} MB  {nasty.name}: {found}"
        print(line if met else f"{line}; wanted {nasty.outcome}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
