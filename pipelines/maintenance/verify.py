"""`vectormill verify`: prove that the table holds each row of the corpus once, by this model, and nothing else.

Trusts neither run records nor the count cache: the corpus is listed and counted again, the table is scanned, and a
random sample is read from the corpus and embedded again by the slow reference path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from actors.checks.check import Check
from pipelines.config import JobConfig
from pipelines.corpus.broken import named
from pipelines.engine.open import open_executor
from pipelines.engine.stage import Executor
from pipelines.maintenance.samples import bad_sample, sample_again
from pipelines.maintenance.scan import Scan, scan
from pipelines.progress import Progress
from pipelines.run.certificate import PAIRS, Certificate, account, differences, parse
from pipelines.run.prepare import prepare
from pipelines.storage.files import read_bytes
from pipelines.table.contents import count
from pipelines.table.digests import as_text
from pipelines.table.files import TableAddress, reading
from pipelines.table.table import LanceTable, open_table
from pipelines.tasks.registry import task_of
from pipelines.tasks.task import JobTask, Soundness

IDS_NAMED = 5
RECORDS_PER_PASS = 20_000_000  # of a GROUP BY over all records: bounds its memory to a few GB
Vectors = Literal["exact", "rounded"]
ONLY_PAIRS = (
    "right after two runs with a real model, which round differently (accept it with --vectors rounded), wrong of one "
    "table at two times"
)


@dataclass(frozen=True)
class Other:
    """A certificate to compare with. vectors: whether they must be equal in every bit (two looks at one table; runs
    with the fake model), or may be rounded otherwise, as by two runs on GPUs."""

    name: str
    vectors: Vectors
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Verdict:
    checks: tuple[Check, ...]
    certificate: Certificate

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "checks": [asdict(check) for check in self.checks],
            "certificate": self.certificate.to_dict(),
        }


def verify(
    job: JobConfig,
    progress: Progress,
    sample: int = 32,
    seed: int | None = None,
    against: str | None = None,
    vectors: Vectors = "exact",
) -> Verdict:
    """Run every check; `against` is the file of another certificate. Raises FingerprintMismatch when the job's model
    is not the table's, TableError when there is no table or it cannot be read, ConfigError for a file that holds no
    certificate. Writes nothing to the table."""
    with progress.engine_output():
        address = TableAddress(job.table.location, job.storage)
        open_table(address)  # this and `parse` before minutes of counting
        other = Other(against, vectors, parse(read_bytes(against, job.storage), against)) if against else None
        with open_executor(job) as executor, reading(address):
            return _verify(job, executor, progress, other, (sample, np.random.default_rng(seed)))


def _verify(
    job: JobConfig,
    executor: Executor,
    progress: Progress,
    other: Other | None,
    draw: tuple[int, np.random.Generator],
) -> Verdict:
    progress.say(f"listing and counting {job.corpus.uri} again")
    prepared = prepare(job, executor, fresh_counts=True)
    table = open_table(prepared.address)
    progress.say("checking every record")
    task = task_of(job)
    soundness = task.soundness(table.schema, table.metadata)
    seen = scan(table, prepared.by_id, prepared.carried.names, task.results.columns, soundness)
    certificate = replace(account(prepared, table), id_digest=as_text(seen.ids), pair_digest=as_text(seen.pairs))
    checks = [
        Check("fingerprint", True, f"{table.metadata.fingerprint} is this job's"),
        *_sums(certificate, task.name),
    ]
    checks += _records(seen, task, soundness)
    steps: dict[str, Callable[[], Check]] = {
        "that no record is doubled or lacks a passage": lambda: _rows_once(table),
        "that ids are unique": lambda: _ids_once(table, job.run.max_duplicate_ids),
        "the table's files": lambda: _files(table),
        "a sample against the reference": lambda: sample_again(table, prepared, task, *draw),
        "a sample of the bad rows": lambda: bad_sample(table, prepared, task, *draw),
    }
    for what, step in steps.items():
        progress.say(f"checking {what}")
        checks.append(step())
    if other is not None:
        checks += _as_other(certificate, other)
    return Verdict(tuple(checks), certificate)


def _sums(c: Certificate, task: str) -> Iterator[Check]:
    if c.broken_files:
        said = f"{len(c.broken_files):,} file(s) cannot be read, and nobody knows their rows:\n{named(c.broken_files)}"
        yield Check("every file can be read", False, said)
    accounted = f"{c.rows:,} rows = {c.embedded_rows:,} embedded + {c.bad_rows:,} with a reason"
    if c.deleted_rows > 0:
        accounted += f" + {c.deleted_rows:,} deleted from the table since"
    if c.missing_rows > 0:
        accounted += f" + {c.missing_rows:,} MISSING (run `vectormill {task}` again)"
    if (extra := -min(c.missing_rows, 0) - min(c.deleted_rows, 0)) > 0:
        accounted += f" - {extra:,} TOO MANY"
    yield Check("every row accounted for", c.missing_rows == 0 and c.deleted_rows == 0, accounted)
    yield Check("no row in two units", c.overlapping_rows == 0, f"{c.overlapping_rows:,} rows claimed twice")
    found = f"{c.stale_rows:,} rows of shards that changed or left the corpus"
    if c.stale_rows:
        found += f"; `vectormill {task} --set run.stale_rows=delete` removes them"
    yield Check("no row without a source", c.stale_rows == 0, found)


def _rows_once(table: LanceTable) -> Check:
    """Each row has all of its passages, each once."""
    doubled = cut = 0
    passages = "max(_chunk) + 1" if table.metadata.format == 2 else "max(coalesce(_passages, 1))"
    passes = table.count_rows() // RECORDS_PER_PASS + 1
    for number in range(passes):
        part = f"FROM dataset WHERE _row % {passes} = {number} GROUP BY _shard, _row"
        doubled += count(table, f"SELECT _shard, _row, _chunk {part}, _chunk HAVING count(*) > 1")
        cut += count(table, f"SELECT _shard, _row {part} HAVING count(*) < {passages}")
    found = f"{doubled:,} records occur more than once, {cut:,} rows lack a passage"
    return Check("each record once", doubled == 0 and cut == 0, found)


def _ids_once(table: LanceTable, most: int | None) -> Check:
    """most: how many ids may name several rows; None: any number, they are named all the same."""
    doubled = 0
    examples: list[str] = []
    passes = table.count_rows() // RECORDS_PER_PASS + 1
    for number in range(passes):
        query = (
            "SELECT id FROM dataset WHERE _shard IS NOT NULL AND "
            f"(ascii(substr(md5(id), 1, 1)) * 256 + ascii(substr(md5(id), 2, 1))) % {passes} = {number} "
            "GROUP BY id HAVING min(_row) < max(_row) OR min(_shard) < max(_shard)"
        )
        here = count(table, query)
        doubled += here
        if here and len(examples) < IDS_NAMED:
            examples += table.sql(f"{query} LIMIT {IDS_NAMED}")["id"].to_pylist()
    named = f", such as {', '.join(map(repr, examples[:IDS_NAMED]))}" if examples else ""
    return Check("ids unique", most is None or doubled <= most, f"{doubled:,} ids name several rows{named}")


def _records(found: Scan, task: JobTask, soundness: Soundness) -> Iterator[Check]:
    """Sound, null exactly where a reason is given; and as handed to Lance."""
    said = f"{found.results:,} {soundness.what}, {found.wrong:,} wrong"
    said += f"; {soundness.measured} {found.least:.6f} to {found.most:.6f}" if found.results else ""
    yield Check(soundness.name, found.wrong == 0, said)
    parts = f"id, passage, {task.words.result}, reason or carried value"
    said = f"{found.changed:,} records hold another {parts} than was written"
    yield Check("records as they were written", found.changed == 0, said)


def _as_other(certificate: Certificate, other: Other) -> Iterator[Check]:
    """One check for each thing that differs, one in all if nothing does."""
    found = list(differences(certificate.to_dict(), other.document))
    name = f"as certified in {other.name}"
    if [key for key, _ in found] == [PAIRS]:
        rest = "the same corpus, ids, counts and fingerprint, but other vectors or reasons; "
        if other.vectors == "rounded":
            yield Check(name, True, rest + "accepted with --vectors rounded")
        else:
            yield Check(name, False, rest + ONLY_PAIRS)
        return
    for _, what in found:
        yield Check(name, False, what)
    if not found:
        yield Check(name, True, "the same corpus, ids, counts, fingerprint and vectors")


def _files(table: LanceTable) -> Check:
    try:
        table.validate()
    except (OSError, ValueError) as bad:
        return Check("files of the table", False, str(bad).splitlines()[0])
    return Check("files of the table", True, f"{len(table.fragments()):,} fragment(s) valid")
