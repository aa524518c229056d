"""Do the driver and the committer keep their memory when the corpus is 100 times larger?

    python -m benchmarks.memory [--units 100 1000 10000] [--rows 10000 100000 1000000] [--engine ray|inline]

committer  in one process: a fenced table takes one receipt after the other and commits each 64 of them; each receipt
           is one real fragment of one row (8 dimensions), written by a helper process. The memory this process holds
           (VmRSS) after each number of units, without a restart in between.
driver     for each number of rows a fresh process: a whole run of the fake model at full speed over Parquet files of
           10,000 short rows, 2,048 rows a unit. The peak memory of the driver alone (VmHWM), and the CPU seconds it
           used after planning (scheduling and committing); with Ray, reading, tokenising, embedding and writing
           happen in other processes. With the inline engine they happen in this one, so its peak says how much a unit
           takes.

*_growth: memory at the largest over memory at the smallest, the difference in MB, and that difference for a thousand
more units or a million more rows.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine, write
from pipelines.cli.display import Display
from pipelines.config import StorageConfig
from pipelines.engine.open import open_executor
from pipelines.engine.stage import Receipt, Tally
from pipelines.job_file import parse_job
from pipelines.run.commits import Committer
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.table import LanceTable
from pipelines.units import Unit

DIMENSIONS = 8
UNITS_PER_COMMIT = 64
ROWS_PER_SHARD = 10_000
ROWS_PER_UNIT = 2_048


# ---------------------------------------------------------------------- the committer and its table


def fragments(location: str, first: int, count: int) -> list[tuple[str, ...]]:
    """Write `count` fragments of one row; their metadata. Runs in the helper process."""
    address = TableAddress(location, StorageConfig())
    return [write_rows(address, write.records(n, 1, DIMENSIONS, "float32")) for n in range(first, first + count)]


def committer(steps: list[int]) -> list[dict[str, float]]:
    """Commit ever more units; what the process holds at each step."""
    measured = []
    with tempfile.TemporaryDirectory() as base, ProcessPoolExecutor(1, mp_context=get_context("spawn")) as helper:
        address = TableAddress(f"{base}/t.lance", StorageConfig())
        table = LanceTable.open_or_create(address, write.schema_for(DIMENSIONS, "float32"))
        fence = table.take_fence("benchmark", {})
        committing = Committer(fence.commit, every_seconds=3600, every_rows=UNITS_PER_COMMIT, properties=dict)
        at = 0
        for step in steps:
            while at < step:
                count = min(UNITS_PER_COMMIT, step - at)
                written = helper.submit(fragments, address.location, at, count).result()
                for number, files in enumerate(written, at):
                    unit = Unit(7, "part-0.parquet", number, number + 1, 1, "mtime:0")
                    committing.offer(Receipt((unit,), files, Tally(tokens=9)))
                committing.commit()
                at += count
            gc.collect()
            assert table.count_rows() == step
            held = {"rss_mb": machine.memory_mb("VmRSS"), "peak_mb": machine.memory_mb("VmHWM")}
            measured.append({"units": step, "commits": committing.commits, **held})
    return measured


# ---------------------------------------------------------------------- the driver of a whole run


def write_corpus(folder: Path, rows: int, rows_per_shard: int = ROWS_PER_SHARD) -> None:
    folder.mkdir()
    for first in range(0, rows, rows_per_shard):
        numbers = range(first, min(rows, first + rows_per_shard))
        table = pa.table({"id": [f"d{n}" for n in numbers], "text": [f"short text number {n}" for n in numbers]})
        pq.write_table(table, folder / f"part-{first // rows_per_shard:05d}.parquet")


def driver(folder: str, engine: str) -> dict[str, float]:
    """Run the job over `folder`/corpus in this process; what it took."""
    job = parse_job(
        {
            "corpus": {"uri": f"{folder}/corpus", "id": "id"},
            "model": {"weights": "fake"},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": {"engine": engine, "rows_per_unit": ROWS_PER_UNIT, "commit_every_seconds": 5},
        }
    )
    with Display(quiet=True).engine_output(), open_executor(job) as executor:
        started_mb = machine.memory_mb("VmHWM")
        run = Run.open(prepare(job, executor), executor, Display(quiet=True))
        cpu = time.process_time()
        certificate = run.work()
        cpu = time.process_time() - cpu
        assert certificate.adds_up, certificate
        return {
            "rows": certificate.rows,
            "units": certificate.units,
            "commits": run.metrics.commits,
            "started_mb": started_mb,
            "peak_mb": machine.memory_mb("VmHWM"),
            "cpu_seconds": round(cpu, 2),
            "seconds_embedding": run.metrics.to_dict()["seconds_embedding"],
        }


def drivers(steps: list[int], engine: str) -> list[dict[str, float]]:
    """`driver` in a fresh process for each number of rows."""
    measured = []
    for rows in steps:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder) / "corpus", rows)
            command = [sys.executable, "-m", "benchmarks.memory", "--engine", engine, "--one-run", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    return measured


# ---------------------------------------------------------------------- both


def growth(measured: list[dict[str, float]], of: str, by: str, each: int) -> dict[str, float]:
    """From the first measurement to the last: ratio, MB, and MB for `each` more."""
    if len(measured) < 2:
        return {}
    first, last = measured[0], measured[-1]
    more = last[of] - first[of]
    per = more / (last[by] - first[by]) * each
    return {"ratio": round(last[of] / first[of], 3), "mb": round(more, 1), f"mb_per_{each}_{by}": round(per, 2)}


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--units", type=int, nargs="*", default=[100, 1_000, 10_000], help="for the committer")
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000], help="for the driver")
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--one-run", metavar="FOLDER", default=None, help="used by this script for its fresh processes")
    options = parser.parse_args()
    if options.one_run:
        print(json.dumps(driver(options.one_run, options.engine)))
        return
    facts = machine.facts()
    committing = committer(options.units) if options.units else []
    driving = drivers(options.rows, options.engine) if options.rows else []
    for one in committing:
        print(f"committer {one['units']:>10,} units  {one['commits']:>5} commits  {one['rss_mb']:8.1f} MB held")
    for one in driving:
        print(f"driver    {one['rows']:>10,} rows   {one['units']:>5} units    {one['peak_mb']:8.1f} MB at its peak")
    found = {
        "committer": committing,
        "driver": driving,
        "committer_growth": growth(committing, "rss_mb", "units", 1_000),
        "driver_growth": growth(driving, "peak_mb", "rows", 1_000_000),
    }
    print(json.dumps(machine.result("memory", vars(options), facts, **found)))


if __name__ == "__main__":
    main()
