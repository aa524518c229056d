"""What a table's history costs a run: commits, manifests, the search for orphans, the checkpoint.

    python -m benchmarks.history [--commits 500 1000 2000] [--units 1000000] [--rows 10000000] [--folder DIR]

commits     one fragment of one row each. After each number of commits: the bytes of the newest manifest and of all,
            the CPU milliseconds of the last commit, and the search for one orphan that was written last, the files
            aged as if a commit had been made every 30 seconds. In two ways, each in a fresh process: `all_manifests`
            as it was done before (every file of every version is listed), `find_orphans` as it is done now. CPU
            seconds, and by how much the process grew.
checkpoint  a table of `--rows` rows in as many units as `--units` says and in a thousandth of them: CPU seconds of the
            query for units, for bad rows and for all totals, and by how much the process grew while it matched the
            units against the corpus.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import machine, write
from pipelines.config import StorageConfig
from pipelines.table import contents
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.orphans import find_orphans, remove_orphans
from pipelines.table.table import LanceTable
from pipelines.units import Shard, content_id

DIMENSIONS = 8
ROWS_PER_WRITE = 1_000_000
SHARDS = 100


def new_table(location: str) -> LanceTable:
    address = TableAddress(location, StorageConfig())
    table = LanceTable.open_or_create(address, write.schema_for(DIMENSIONS, "float32"))
    table.take_fence("benchmark", {})
    return table


def cost(function: Callable[[], Any]) -> dict[str, Any]:
    """CPU seconds of this process, and MB by which its peak grew."""
    cpu, before = time.process_time(), machine.memory_mb("VmRSS")
    found = function()
    spent = time.process_time() - cpu
    return {"cpu_seconds": round(spent, 3), "mb": round(machine.memory_mb() - before, 1), "found": found}


# ---------------------------------------------------------------------- commits and orphans


def all_manifests(table: LanceTable) -> int:
    """Orphans by comparing all files that are there with all files of all versions."""
    present = table.handle.dataset.all_files().read_all()["path"].to_pylist()
    tracked = set(table.handle.dataset.tracked_files().read_all()["path"].to_pylist())
    return sum(1 for path in present if path.startswith("data/") and path not in tracked)


WAYS = {"all_manifests": all_manifests, "find_orphans": lambda table: len(find_orphans(table.handle.dataset).paths)}


def opened(location: str) -> LanceTable:
    table = LanceTable.open(TableAddress(location, StorageConfig()))
    assert table is not None
    return table


def in_a_fresh_process(*arguments: object) -> dict[str, Any]:
    """What this script prints when it is called so."""
    command = [sys.executable, "-m", "benchmarks.history", *(str(argument) for argument in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(folder: Path) -> None:
    """Make the files as old as they would be with a commit every 30 seconds."""
    now = time.time()
    for pattern in ("_versions/*.manifest", "data/*.lance"):
        files = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns)
        for at, file in enumerate(files, 1):
            os.utime(file, (now, now - 30 * (len(files) - at)))


def commits(steps: list[int], folder: str) -> list[dict[str, Any]]:
    table, measured, at = new_table(f"{folder}/commits.lance"), list[dict[str, Any]](), 0
    spent = 0.0
    for step in steps:
        for at in range(at, step):  # noqa: B020 - goes on from where the last step ended
            files = write_rows(table.address, write.records(at, 1, DIMENSIONS, "float32"))
            cpu = time.process_time()
            table.fence.commit(files, {})
            spent = time.process_time() - cpu
        at = step
        write_rows(table.address, write.records(at, 1, DIMENSIONS, "float32"))  # an orphan
        spread(Path(table.address.uri))
        sizes = [file.stat().st_size for file in Path(f"{folder}/commits.lance/_versions").glob("*.manifest")]
        found: dict[str, Any] = {"commits": step, "newest_manifest_bytes": max(sizes), "manifest_bytes": sum(sizes)}
        found["last_commit_cpu_ms"] = round(1000 * spent, 1)
        for way in WAYS:
            found[way] = in_a_fresh_process("--search", table.address.location, way)
        remove_orphans(table.fence)
        measured.append(found)
    return measured


# ---------------------------------------------------------------------- the checkpoint


def corpus(rows: int) -> list[Shard]:
    return [Shard(f"part-{n}.parquet", 1, "mtime:1", "footer:1", "parquet", rows // SHARDS) for n in range(SHARDS)]


def fill(location: str, rows: int, rows_per_unit: int) -> None:
    """A table of whole units of a corpus of SHARDS files."""
    table, shards, per_shard = new_table(location), corpus(rows), rows // SHARDS
    for first in range(0, rows, ROWS_PER_WRITE):
        numbers = np.arange(first, min(rows, first + ROWS_PER_WRITE))
        shard_N = np.array([shard.id for shard in shards])[numbers // per_shard]
        row_N = numbers % per_shard
        starts = np.unique(numbers // rows_per_unit) * rows_per_unit
        ids = {
            int(start): content_id(
                "unit", shards[start // per_shard].id, start % per_shard, start % per_shard + rows_per_unit
            )
            for start in starts.tolist()
        }
        unit_N = np.repeat([ids[int(start)] for start in starts], rows_per_unit)[: len(numbers)]
        part = write.records(first, len(numbers), DIMENSIONS, "float32")
        places = {"_shard": shard_N, "_row": row_N, "_unit": unit_N}
        places |= {"_first": row_N // rows_per_unit * rows_per_unit, "_rows": np.full(len(numbers), rows_per_unit)}
        for name, values in places.items():
            part = part.set_column(part.column_names.index(name), name, pa.array(values))
        table.fence.commit(write_rows(table.address, part), {})


def checkpoint(location: str, units: int, rows: int) -> dict[str, Any]:
    """What asking the table costs, in this process."""
    table, shards = opened(location), {shard.id: shard for shard in corpus(rows)}
    done = cost(lambda: contents.checkpoint(table, shards))
    state = done.pop("found")
    assert (state.units, state.rows_done) == (units, rows)
    query = cost(lambda: sum(1 for _ in contents.units(table, shards)))
    bad, totals = cost(lambda: contents.count_bad(table, shards)), cost(lambda: contents.totals(table, shards).rows)
    assert totals["found"] == rows
    return {"units": units, "rows": rows, "read_checkpoint": done, "units_alone": query, "bad": bad, "totals": totals}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--commits", type=int, nargs="*", default=[500, 1_000, 2_000])
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000, help="a multiple of 100 times --units / 100")
    parser.add_argument("--folder", default=None, help="where the tables are; a temporary folder if absent")
    parser.add_argument("--search", nargs=2, default=None, help="used by this script for its fresh processes")
    parser.add_argument("--ask", nargs=2, default=None, help="the same")
    options = parser.parse_args()
    if options.search:
        location, way = options.search
        table = opened(location)
        print(json.dumps(cost(lambda: WAYS[way](table))))
        return
    if options.ask:
        print(json.dumps(checkpoint(options.ask[0], int(options.ask[1]), options.rows)))
        return
    facts = machine.facts()
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        committing = commits(options.commits, base)
        for one in committing:
            old, new = one["all_manifests"], one["find_orphans"]
            print(
                f"{one['commits']:>8,} commits, {one['manifest_bytes'] / 1e6:7.1f} MB of manifests; an orphan is found "
                f"in {old['cpu_seconds']} CPU s and {old['mb']} MB; now in {new['cpu_seconds']} and {new['mb']}"
            )
        checkpoints = []
        for units in sorted({max(SHARDS, options.units // 1000), options.units}):
            location = f"{base}/units-{units}.lance"
            fill(location, options.rows, options.rows // units)
            checkpoints.append(in_a_fresh_process("--ask", location, units, "--rows", options.rows))
    for one in checkpoints:
        done = one["read_checkpoint"]
        print(f"{one['units']:>8,} units of {one['rows']:,} rows: read in {done['cpu_seconds']} CPU s, {done['mb']} MB")
    print(json.dumps(machine.result("history", vars(options), facts, commits=committing, checkpoint=checkpoints)))


if __name__ == "__main__":
    main()
