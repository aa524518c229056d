"""What grows with the corpus, and how fast: whole runs of the fake model over ever more rows.

    python -m benchmarks.scale [--rows 100000 1000000 10000000] [--rows-per-shard 10000] [--engine inline|ray]
                               [--commit-every-rows 16384] [--folder DIR]

For each number of rows: Parquet files of short rows, vectors of 8 dimensions (so that the table stays small), units of
2,048 rows, and three runs of the job, each in a fresh process:

half    from nothing, stopped cleanly when half of the rows have a receipt
rest    the same command again: finds half done, embeds the rest
again   once more: finds everything done

Each says how long it took until its first unit was begun (`seconds_to_first_unit`), until it had planned (`prepare`:
listing, counting, recipe), and in all; CPU seconds of its process and all descendants (wall-clock means little on a
machine that is shared); the driver's memory over time (VmRSS each second) and at its peak (VmHWM; with Ray the workers
are other processes); the seconds of each commit. Then what lies on the disk: rows, versions, fragments, bytes of data
files and of manifests. Commits are 60 times as frequent as by default, so that 10^7 rows leave the history of 6 x 10^8.

`growth`: each quantity at the largest over that at the smallest number of rows; linear is the ratio of the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lance

from benchmarks import machine, memory
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.engine.open import open_executor
from pipelines.engine.stage import Executor, Failed, Parcel, Reader, Result, Stage
from pipelines.job_file import parse_job
from pipelines.run.certificate import Certificate
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table.fence import Fence
from pipelines.units import Span

DIMENSIONS = 8
ROWS_PER_UNIT = 2_048
RUNS = ("half", "rest", "again")
SAMPLES_SHOWN = 24


class FirstUnit:
    """A reader that notes in a file when its first unit is begun, in whatever process."""

    def __init__(self, read: Reader, note: str):
        self._read = read
        self._note = note

    def __call__(self, span: Span) -> Iterator[Parcel | Failed]:
        if not os.path.exists(self._note):
            Path(self._note).write_text(str(time.time()))
        return self._read(span)


class Stopping:
    """An executor that stops the run, as Ctrl-C does, when so many rows have a receipt."""

    def __init__(self, executor: Executor, note: str, after_rows: float):
        self._executor = executor
        self._note = note
        self._left = after_rows
        self.executions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        self.executions += 1
        for result in self._executor.run(FirstUnit(read, self._note), stages, spans):
            yield result
            self._left -= sum(unit.rows for unit in result.bundle)
            if self._left <= 0:
                raise KeyboardInterrupt


class Memory(threading.Thread):
    """What this process holds, each second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[float] = []

    def run(self) -> None:
        while True:
            self.samples.append(machine.memory_mb("VmRSS"))
            time.sleep(1)

    def shown(self) -> list[float]:
        step = max(1, len(self.samples) // SAMPLES_SHOWN)
        return self.samples[::step]


def timed_commits(into: list[float]) -> None:
    """Note how long each commit of a table takes."""
    commit = Fence.commit

    def timed(fence: Fence, *arguments: Any) -> None:
        started = time.perf_counter()
        commit(fence, *arguments)
        into.append(time.perf_counter() - started)

    Fence.commit = timed  # type: ignore[method-assign,assignment]


def job_over(folder: str, engine: str, commit_every_rows: int) -> JobConfig:
    run = {"engine": engine, "rows_per_unit": ROWS_PER_UNIT, "commit_every_rows": commit_every_rows}
    return parse_job(
        {
            "corpus": {"uri": f"{folder}/corpus", "id": "id"},
            "model": {"weights": "fake", "dimensions": DIMENSIONS},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": run,
        }
    )


def one_run(job: JobConfig, note: str, stop_after: float) -> dict[str, Any]:
    """One run of the job in this process; what it took."""
    holding, commits = Memory(), list[float]()
    timed_commits(commits)
    started, cpu = time.time(), machine.cpu_seconds_of_tree()
    certificate: Certificate | None = None
    with Display(quiet=True).engine_output(), open_executor(job) as engine:
        holding.start()
        executor = Stopping(engine, note, stop_after)
        _ = executor.gpus  # starts it
        engine_started = time.time()
        run = Run.open(prepare(job, executor), executor, Display(quiet=True))
        planned, planned_cpu = time.time(), time.process_time()
        with contextlib.suppress(KeyboardInterrupt):
            certificate = run.work()
        ended = time.time()
        cpu = machine.cpu_seconds_of_tree() - cpu
    assert certificate is None or certificate.adds_up, certificate
    first = float(Path(note).read_text()) if os.path.exists(note) else None
    return {
        "seconds": round(ended - started, 2),
        "seconds_starting_engine": round(engine_started - started, 2),
        "seconds_planning": round(planned - engine_started, 2),
        "seconds_to_first_unit": None if first is None else round(first - engine_started, 2),
        "cpu_seconds": round(cpu, 2),
        "driver_cpu_seconds_after_planning": round(time.process_time() - planned_cpu, 2),
        "rows": run.metrics.rows_committed,
        "units": run.metrics.units_committed,
        "executions": executor.executions,
        "commits": len(commits),
        "commit_ms": quantiles(commits),
        "rss_mb_each_second": holding.shown(),
        "peak_mb": machine.memory_mb("VmHWM"),
    }


def quantiles(commits: list[float]) -> dict[str, float]:
    """Milliseconds of the first tenth of the commits, the last tenth, and the slowest."""
    if not commits:
        return {}
    tenth = max(1, len(commits) // 10)
    parts = {"first_tenth": commits[:tenth], "last_tenth": commits[-tenth:]}
    median = {name: round(1000 * statistics.median(part), 1) for name, part in parts.items()}
    return {**median, "slowest": round(1000 * max(commits), 1)}


def on_disk(folder: Path) -> dict[str, float]:
    """What the runs left: sizes in bytes."""

    def size(*names: str) -> int:
        return sum(file.stat().st_size for name in names for file in (folder / "db" / name).rglob("*.*"))

    table = lance.dataset(str(folder / "db" / "t.lance"))
    rows = table.count_rows()
    manifests = sorted(file.stat().st_size for file in (folder / "db/t.lance/_versions").glob("*.manifest"))
    found = {"rows": rows, "versions": table.version, "fragments": len(table.get_fragments())}
    found |= {
        "manifest_bytes": sum(manifests),
        "last_manifest_bytes": manifests[-1],
        "data_bytes": size("t.lance/data"),
    }
    found |= {"transaction_bytes": size("t.lance/_transactions")}
    found["side_folder_bytes"] = size("t.vectormill")
    return {**found, "bytes_per_row": round((found["data_bytes"] + sum(manifests)) / rows, 1)}


def measure(rows: int, options: Any) -> dict[str, Any]:
    """Three runs over a corpus of so many rows."""
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        memory.write_corpus(Path(base) / "corpus", rows, options.rows_per_shard)
        old = time.time() - 3600  # counts of files this fresh would not be remembered
        for file in (Path(base) / "corpus").iterdir():
            os.utime(file, (old, old))
        found: dict[str, Any] = {"rows": rows, "shards": -(-rows // options.rows_per_shard)}
        for name in RUNS:
            command = [sys.executable, "-m", "benchmarks.scale", "--one-run", base, name, "--rows", str(rows)]
            command += ["--engine", options.engine, "--commit-every-rows", str(options.commit_every_rows)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
        return {**found, "disk": on_disk(Path(base))}


def growth(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Each quantity at the most rows over that at the fewest."""

    def quantities(one: dict[str, Any]) -> dict[str, float]:
        seconds = {f"{name}_{key}": one[name][key] for name in RUNS for key in ("peak_mb", "cpu_seconds")}
        ready = {f"{name}_seconds_to_first_unit": one[name]["seconds_to_first_unit"] or 0 for name in ("half", "rest")}
        return {"rows": one["rows"], **seconds, **ready, **{f"disk_{key}": value for key, value in one["disk"].items()}}

    first, last = quantities(measured[0]), quantities(measured[-1])
    return {name: round(last[name] / max(value, 0.01), 3) for name, value in first.items()}


def show(found: dict[str, Any]) -> None:
    disk, rest, again = found["disk"], found["rest"], found["again"]
    cpu = (found["half"]["cpu_seconds"] + rest["cpu_seconds"]) / found["rows"] * 1e6
    parts = [
        f"{found['rows']:>11,} rows {found['shards']:>7,} shards: {cpu:.1f} CPU us a row",
        f"peak {rest['peak_mb']:.0f} MB",
        f"commit {rest['commit_ms'].get('last_tenth', 0)} ms",
        f"first unit after {rest['seconds_to_first_unit'] or 0:.1f} s",
        f"nothing to do {again['seconds']:.1f} s",
        f"{disk['versions']:,.0f} versions",
        f"{disk['manifest_bytes'] / 1e6:,.1f} MB of manifests",
        f"{disk['bytes_per_row']} bytes a row",
    ]
    print(", ".join(parts), flush=True)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--rows-per-shard", type=int, default=10_000)
    parser.add_argument("--engine", choices=("ray", "inline"), default="inline")
    parser.add_argument("--commit-every-rows", type=int, default=16_384)
    parser.add_argument("--folder", default=None, help="where corpus and table are; a temporary folder if absent")
    parser.add_argument("--one-run", nargs=2, default=None, help="used by this script for its fresh processes")
    options = parser.parse_args()
    if options.one_run:
        folder, name = options.one_run
        job = job_over(folder, options.engine, options.commit_every_rows)
        stop_after = options.rows[0] / 2 if name == "half" else float("inf")
        print(json.dumps(one_run(job, f"{folder}/first-unit-{name}", stop_after)))
        return
    facts = machine.facts()
    measured = []
    for rows in options.rows:
        measured.append(measure(rows, options))
        show(measured[-1])
    print(json.dumps(machine.result("scale", vars(options), facts, measured=measured, growth=growth(measured))))


if __name__ == "__main__":
    main()
