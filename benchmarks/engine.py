"""What the engine's path costs without a model: read, tokenise, write. Can it feed the GPUs?

    python -m benchmarks.engine [--rows 32768] [--dimensions 1024] [--vector-dtype float32] [--no-ray] [--folder DIR]

The corpus: text files of the installed packages cut into rows of 500 to 1,000 characters, as Parquet. The model is
replaced by a stage that hands out ready vectors. Tokenizers: MiniLM's (bundled), Qwen3's as the tests rebuild it, and
the latter with fastokens. Each in a fresh process, with the tokenizer loaded and warm before the clock starts.

stages  the stages in one process, one after the other: CPU seconds of the process (all its threads) in each
ray     the same stages, rows and vectors through Ray, once with `--rows` rows and once with three times as many: CPU
        seconds of the driver and all of Ray's processes. The difference of the two runs counts, so that starting
        Ray's workers and loading tokenizers does not.

        And units with nothing in them: the CPU of the driver alone for each, which bounds how many it can schedule.

tokens_per_core: tokens / CPU second through all stages. To feed 8 replicas of 500,000 tokens/s with 128 cores it must
be 31,250. share_of_ray: what the engine adds, of all CPU seconds.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.spec import ModelSpec
from actors.tokenizer import batch
from benchmarks import machine, tokenise, write
from pipelines.config import CorpusConfig, ReplicaRange, StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.stage import Executor, Parcel, Reader, Receipt, Result, Stage
from pipelines.run.sizing import bundles, spans
from pipelines.table.files import TableAddress
from pipelines.table.sink import AppendRows
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import EmbedTask, Tokenise
from pipelines.tasks.read import reader
from pipelines.tasks.replica import Pool, tokenise_stage
from pipelines.tasks.write import Write
from pipelines.units import Span, Unit, cut
from tests.support import qwen_tokenizer

ROWS_PER_UNIT = 4_096
ROWS_PER_SHARD = 8_192
SHORTEST, LONGEST = 500, 1_000
EMPTY_UNITS = (100, 500)
NEEDED_PER_CORE = 8 * 500_000 / 128
ONE = ReplicaRange(min=1, max=1)
VARIANTS = ("minilm", "qwen", "qwen_fastokens")


def texts(rows: int) -> Iterator[str]:
    """Rows of text, some hundred different files mixed; the same ones again, numbered, where more are wanted."""
    chance = random.Random(0)
    files = tokenise.read_texts(Path(sysconfig.get_path("purelib")), rows * LONGEST / 1e6)
    made = turn = 0
    while made < rows:
        for text in files:
            at = 0
            while at + LONGEST < len(text) and made < rows:
                size = chance.randint(SHORTEST, LONGEST)
                yield (f"{turn} " if turn else "") + text[at : at + size]
                at, made = at + size, made + 1
        turn += 1


def write_corpus(folder: Path, rows: int) -> int:
    """Sharded Parquet; the bytes of its texts."""
    folder.mkdir()
    found = list(texts(rows))
    for first in range(0, rows, ROWS_PER_SHARD):
        part = found[first : first + ROWS_PER_SHARD]
        table = pa.table({"id": [f"document-{first + n:010d}" for n in range(len(part))], "text": part})
        pq.write_table(table, folder / f"part-{first // ROWS_PER_SHARD:05d}.parquet")
    return sum(len(text.encode()) for text in found)


class Vectors:
    """Stands for the model: unit vectors that were made before."""

    def __init__(self, dimensions: int):
        found = np.random.default_rng(0).standard_normal((2 * ROWS_PER_UNIT, dimensions), dtype=np.float32)
        self._vectors_ND = found / np.linalg.norm(found, axis=1, keepdims=True)

    def __call__(self, parcels: list[Parcel]) -> Iterator[Parcel]:
        for parcel in parcels:
            started = time.perf_counter()
            rows = parcel.rows.drop_columns(["_ids"])
            values = pa.array(self._vectors_ND[: rows.num_rows].ravel())
            missing = rows["_reason"].is_valid().combine_chunks()
            vectors = pa.FixedSizeListArray.from_arrays(values, self._vectors_ND.shape[1], mask=missing)
            rows = rows.append_column("vector", vectors)
            yield parcel.after("embed", time.perf_counter() - started, rows)


class Job:
    """The stages over the corpus in `folder`, into a table of this dtype."""

    def __init__(self, folder: Path, spec: ModelSpec, dimensions: int, vector_dtype: str):
        self.spec = spec
        storage = StorageConfig()
        corpus = Corpus(CorpusConfig(uri=str(folder / "corpus"), id="id"), storage)
        shards = scan_all(corpus, str(folder / "side"), storage, InlineExecutor().map)
        self.units = [unit for shard in shards for unit in cut(shard, ROWS_PER_UNIT)]
        self.read: Reader = reader(corpus, pa.schema([]))
        schema = write.schema_for(dimensions, vector_dtype)
        self.address = TableAddress(str(folder / f"db-{time.time_ns()}.lance"), storage)
        LanceTable.open_or_create(self.address, schema)
        writing = Write(AppendRows(self.address, schema, "benchmark"), EmbedTask.results)
        pool = Pool(ONE, num_cpus=1, num_gpus=0, isolated=False, timeout_seconds=None)
        self.stages = [
            tokenise_stage(Tokenise(spec, None, None), pool, 4 * dimensions),
            pool.stage("embed", lambda: Vectors(dimensions)),
            Stage("write", lambda: writing, parcels_per_call=2),
        ]

    def spans(self, rows: int) -> list[Span]:
        wanted = self.units[: -(-rows // ROWS_PER_UNIT)]
        return list(spans(bundles(wanted, ROWS_PER_UNIT)))


def _receipts(results: Iterable[Result]) -> list[Receipt]:
    found: list[Receipt] = []
    failed: list[Result] = []
    for result in results:
        if isinstance(result, Receipt):
            found.append(result)
        else:
            failed.append(result)
    assert not failed, failed
    return found


def timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[[Any], Any]:
    """The function, with the CPU seconds of this process added up under a name."""

    def run(argument: Any) -> Any:
        at = time.process_time()
        done = list(function(argument))
        spent[name] = spent.get(name, 0.0) + time.process_time() - at
        return done

    return run


def stages_alone(job: Job, rows: int) -> dict[str, Any]:
    """Each stage's CPU seconds, in this process."""
    spent: dict[str, float] = {}

    def watch(stage: Stage) -> Stage:
        return Stage(stage.name, lambda: timed(stage.make(), stage.name, spent), stage.parcels_per_call)

    watched = [watch(stage) for stage in job.stages]
    receipts = _receipts(InlineExecutor().run(timed(job.read, "read", spent), watched, job.spans(rows)))
    done = sum(unit.rows for receipt in receipts for unit in receipt.bundle)
    tokens = sum(receipt.tally.tokens for receipt in receipts)
    spent.pop("embed")
    return {
        "rows": done,
        "tokens_per_row": round(tokens / done, 1),
        "cpu_us_per_row": {name: round(seconds / done * 1e6, 2) for name, seconds in spent.items()},
        "tokens_per_core": {name: round(tokens / seconds) for name, seconds in spent.items()},
        "tokens_per_core_all": round(tokens / sum(spent.values())),
    }


def run_all(executor: Executor, job: Job, rows: int) -> tuple[int, float]:
    """(rows that came through, CPU seconds of this process and its descendants)."""
    at = machine.cpu_seconds_of_tree()
    receipts = _receipts(executor.run(job.read, job.stages, job.spans(rows)))
    return sum(u.rows for r in receipts for u in r.bundle), machine.cpu_seconds_of_tree() - at


def slope(executor: Executor, job: Job, rows: int) -> float:
    """CPU microseconds a row, from two runs of different length. The first run of an engine, in which its workers start
    and load their libraries, counts for neither."""
    run_all(executor, job, ROWS_PER_UNIT)
    few, short = run_all(executor, job, rows)
    many, long = run_all(executor, job, 3 * rows)
    if long <= short:
        sys.exit(f"{many} rows took {long} CPU s and {few} rows {short}: take more --rows, on a quiet machine")
    return round((long - short) / (many - few) * 1e6, 2)


def one_row(span: Span) -> Iterator[Parcel]:
    """A reader that gives next to nothing."""
    yield Parcel(span[0], pa.table({"row": [0]}))


def as_it_is(parcels: list[Parcel]) -> list[Parcel]:
    return parcels


def received(parcels: list[Parcel]) -> list[Receipt]:
    return [Receipt(parcel.bundle, (), parcel.tally) for parcel in parcels]


def driver_ms_per_unit(executor: Executor) -> float:
    """CPU milliseconds of the driver alone for a unit that has nothing in it: what scheduling costs."""
    stages = [
        Stage("tokenise", lambda: as_it_is, num_cpus=0.5),
        Stage("embed", lambda: as_it_is, num_cpus=0.5, replicas=ONE),
        Stage("write", lambda: received, num_cpus=0.5),
    ]

    def run(units: int) -> float:
        packed = [((Unit(7, "part-0.parquet", n, n + 1, 1, "mtime:0"),),) for n in range(units)]
        at = time.process_time()
        assert sum(len(result.bundle) for result in executor.run(one_row, stages, packed)) == units
        return time.process_time() - at

    short, long = (run(units) for units in EMPTY_UNITS)
    return round((long - short) / (EMPTY_UNITS[1] - EMPTY_UNITS[0]) * 1e3, 2)


def variant(name: str, folder: Path, options: Any) -> dict[str, Any]:
    """One tokenizer, in this fresh process."""
    if name == "qwen":
        batch.is_installed = lambda: False
    weights = "bundled" if name == "minilm" else str(qwen_tokenizer.write(folder))
    job = Job(folder, ModelSpec(weights, max_tokens=512), options.dimensions, options.vector_dtype)
    from pipelines.tasks import embed as stages

    words = "the quick brown fox's 3,141 jumps over it; "
    stages._tokenizer(job.spec).encode([words * 20] * (options.warm_up // (20 * len(words)) + 1))
    run_all(InlineExecutor(), job, ROWS_PER_UNIT)
    found = stages_alone(job, options.rows)
    if name == "qwen_fastokens" and not options.no_ray:
        from pipelines.engine.ray import RayExecutor

        found["inline_cpu_us_per_row"] = slope(InlineExecutor(), job, options.rows)
        engine = RayExecutor(None)
        try:
            found["ray_cpu_us_per_row"] = slope(engine, job, options.rows)
            found["driver_cpu_ms_per_unit"] = driver_ms_per_unit(engine)
        finally:
            engine.close()
        found["share_of_ray"] = round(1 - found["inline_cpu_us_per_row"] / found["ray_cpu_us_per_row"], 3)
        found["tokens_per_core_ray"] = round(found["tokens_per_row"] / found["ray_cpu_us_per_row"] * 1e6)
    return found


def measure(options: Any, command: Sequence[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        rows = options.rows if options.no_ray else 3 * options.rows
        found: dict[str, Any] = {"bytes_per_row": round(write_corpus(Path(base) / "corpus", rows) / rows, 1)}
        for name in VARIANTS:
            done = subprocess.run([*command, "--one-run", base, name], stdout=subprocess.PIPE, text=True, check=True)
            found[name] = json.loads(done.stdout.splitlines()[-1])
            show(name, found[name], found["bytes_per_row"])
        return found


def show(name: str, one: dict[str, Any], bytes_per_row: float) -> None:
    stages = ", ".join(f"{stage} {us:.1f}" for stage, us in one["cpu_us_per_row"].items())
    rate = bytes_per_row / sum(one["cpu_us_per_row"].values())
    print(f"{name:>15}: {one['tokens_per_core_all']:,} tokens/s a core, {rate:.1f} MB/s; CPU us a row: {stages}")
    if "ray_cpu_us_per_row" in one:
        ours, theirs = one["inline_cpu_us_per_row"], one["ray_cpu_us_per_row"]
        print(
            f"{'through Ray':>15}: {one['tokens_per_core_ray']:,} tokens/s a core; {theirs} CPU us a row, not {ours}; "
            f"the driver {one['driver_cpu_ms_per_unit']} CPU ms a unit"
        )


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--vector-dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument(
        "--warm-up", type=int, default=6_000_000, help="characters; fastokens is loaded after 4,000,000"
    )
    parser.add_argument("--folder", default=None)
    parser.add_argument("--one-run", nargs=2, default=None, help="used by this script for its fresh processes")
    options = parser.parse_args()
    if options.one_run:
        print(json.dumps(variant(options.one_run[1], Path(options.one_run[0]), options)))
        return
    facts = machine.facts()
    measured = measure(options, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]])
    print(json.dumps(machine.result("engine", vars(options), facts, needed_per_core=NEEDED_PER_CORE, **measured)))


if __name__ == "__main__":
    main()
