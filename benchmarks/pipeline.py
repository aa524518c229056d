"""What the pipeline costs: its tokens/s over the bare model layer's tokens/s on the same rows.

    python -m benchmarks.pipeline [--rows 3000] [--rounds 2] [--engine ray|inline] [--weights bundled]

The corpus is the docstrings of the Python standard library in sharded Parquet (the demo's), said again with a number
in front where more rows are wanted. Each round measures both, one after the other, never together:

bare      a fresh process reads all rows, loads the model (neither is timed), then tokenises and embeds one work unit
          after the other: TextTokenizer.encode, Embedder.embed. Same units, token budget, threads and (Ray starts its
          workers with nice 15) niceness as the pipeline's replica, so that whatever else runs slows both alike.
pipeline  a run of the job from an empty table: read, tokenise, embed, write, commit. Once started: the clock runs
          from the moment the replica begins its first unit to the moment the driver has the last receipt, and all
          tokens count. So starting Ray and loading the model are left out; waiting for readers, writing and the end
          of the run are not.

ratio = pipeline tokens/s / bare tokens/s, and the same against the bare time of the embedding alone
(ratio_to_embedding: as if tokenising cost nothing). As a check, `receipts` gives the rate between the first and the
last receipt: tokens of all receipts but the first / seconds between the two.
"""

from __future__ import annotations

import json
import os
import statistics
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine
from benchmarks.watched import Watched, cores_used
from pipelines.cli.demo import docstrings
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.engine.open import open_executor
from pipelines.job_file import parse_job
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.run.sizing import bundles

SHARDS = 8
WARM_UP_TEXTS = 16
NICENESS = {"ray": 15, "inline": 0}  # of the process that embeds


def write_corpus(folder: Path, rows: int) -> None:
    """`rows` docstrings, taken evenly over the library, as sharded Parquet: name, text."""
    found = list(dict(docstrings(Path(sysconfig.get_path("stdlib")))).items())
    texts = list(islice(_again(found[:: max(1, len(found) // rows)]), rows))
    folder.mkdir()
    for number in range(SHARDS):
        part = texts[number::SHARDS]
        if part:
            table = pa.table({"name": [n for n, _ in part], "text": [t for _, t in part]})
            pq.write_table(table, folder / f"part-{number}.parquet")


def _again(found: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    yield from found
    turn = 1
    while True:
        yield from ((f"{name}#{turn}", f"{turn}: {text}") for name, text in found)
        turn += 1


def job_for(folder: Path, table: str, engine: str, weights: str) -> dict[str, Any]:
    return {
        "corpus": {"uri": str(folder / "corpus"), "id": "name"},
        "model": {"weights": weights},
        "table": {"uri": str(folder / "db"), "name": table},
        "run": {"engine": engine},
    }


# ---------------------------------------------------------------------- the bare model layer


def bare(job: dict[str, Any]) -> dict[str, float]:
    """Tokenise and embed the job's rows, unit by unit, in this process."""
    from actors.embedder.embedder import Embedder
    from actors.tokenizer.text import TextTokenizer

    os.nice(NICENESS[job["run"]["engine"]])
    config = parse_job({**job, "run": {**job["run"], "engine": "inline"}})
    with open_executor(config) as executor:
        prepared = prepare(config, executor)
    texts = [_texts(prepared, bundle) for bundle in _bundles(prepared)]
    tokenizer, embedder = TextTokenizer(prepared.spec), Embedder(prepared.spec)
    embedder.embed_documents(texts[0][:WARM_UP_TEXTS])
    tokens, tokenising, embedding, cpu = 0, 0.0, 0.0, 0.0
    for unit in texts:
        started = time.perf_counter()
        encoded = tokenizer.encode(unit)
        encoded_at, cpu_at = time.perf_counter(), time.process_time()
        embedder.embed(encoded.ids, encoded.offsets)
        cpu += time.process_time() - cpu_at
        tokenising += encoded_at - started
        embedding += time.perf_counter() - encoded_at
        tokens += len(encoded.ids)
    return {
        "tokens": tokens,
        "tokens_per_second": round(tokens / (tokenising + embedding), 1),
        "tokens_per_second_embedding": round(tokens / embedding, 1),
        "tokenise_seconds": round(tokenising, 3),
        "embed_seconds": round(embedding, 3),
        "cores_while_embedding": round(cpu / embedding, 2),
        "threads": prepared.spec.threads or 0,
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
    }


def _bundles(prepared: Any) -> Iterable[Any]:
    from pipelines.table.checkpoint import pending

    size = prepared.metadata.rows_per_unit
    return bundles(pending(prepared.shards, {}, size), size)


def _texts(prepared: Any, bundle: Any) -> list[str]:
    tables = [rows for unit in bundle for rows in prepared.corpus.read([unit], prepared.carried)]
    return [text for rows in tables for text in rows["text"].to_pylist()]


# ---------------------------------------------------------------------- the pipeline


def pipeline(job: JobConfig, log: Path) -> dict[str, Any]:
    """Run the job; what it did once started."""
    started = time.monotonic()
    with Display(quiet=True).engine_output(), open_executor(job) as executor:
        watched = Watched(executor, log)
        prepared = prepare(job, watched)
        run = Run.open(prepared, watched, Display(quiet=True))
        certificate = run.work()
        replicas = prepared.capacity.replicas.max
    assert certificate.adds_up, certificate
    work, receipts = watched.calls(), watched.receipts
    began, last_receipt = work[0].begin, receipts[-1][0]
    busy, ended = sum(call.seconds for call in work), max(call.end for call in work)
    between = last_receipt - receipts[0][0]
    return {
        "tokens": certificate.tokens,
        "threads": prepared.spec.threads or 0,
        "niceness": work[0].niceness,
        "tokens_per_second": round(certificate.tokens / (last_receipt - began), 1),
        "tokens_per_second_receipts": round((certificate.tokens - receipts[0][1]) / between, 1) if between else None,
        "receipts": len(receipts),
        "units": certificate.units,
        "seconds_before_first_unit": round(began - started, 2),
        "seconds_once_started": round(last_receipt - began, 2),
        "idle_share": round(1 - busy / replicas / (ended - began), 4),
        "cores_while_embedding": round(cores_used(work), 2),
        "seconds_after_last_unit": round(last_receipt - ended, 2),
        "stage_seconds": run.metrics.to_dict()["stage_seconds"],
    }


# ---------------------------------------------------------------------- rounds


def one_round(folder: Path, number: int, engine: str, weights: str) -> dict[str, Any]:
    job = job_for(folder, f"round{number}", engine, weights)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        alone = fresh.submit(bare, job).result()
    whole = pipeline(parse_job(job), folder / f"work-{number}.jsonl")
    for name in ("tokens", "threads", "niceness"):
        assert whole[name] == alone[name], f"both have the same {name}: {whole[name]}, {alone[name]}"
    return {
        "ratio": round(whole["tokens_per_second"] / alone["tokens_per_second"], 4),
        "ratio_to_embedding": round(whole["tokens_per_second"] / alone["tokens_per_second_embedding"], 4),
        "bare": alone,
        "pipeline": whole,
    }


def show(rounds: list[dict[str, Any]]) -> None:
    """A table for people; the JSON line is for machines."""
    print(f"{'round':>5} {'bare tok/s':>11} {'pipeline tok/s':>15} {'ratio':>7} {'idle':>6}  stage seconds")
    for number, found in enumerate(rounds, 1):
        whole = found["pipeline"]
        stages = ", ".join(f"{name} {spent:.1f}" for name, spent in whole["stage_seconds"].items())
        rates = f"{found['bare']['tokens_per_second']:11,.0f} {whole['tokens_per_second']:15,.0f}"
        print(f"{number:5} {rates} {found['ratio']:7.3f} {whole['idle_share']:6.1%}  {stages}")


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rows", type=int, default=3_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--weights", default="bundled", help="as in the job file: bundled, fake, a folder, a hub id")
    options = parser.parse_args()
    facts = machine.facts()
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        write_corpus(folder / "corpus", options.rows)
        rounds = [one_round(folder, n, options.engine, options.weights) for n in range(options.rounds)]
    show(rounds)
    found = {
        "ratio": round(statistics.median(r["ratio"] for r in rounds), 4),
        "ratio_to_embedding": round(statistics.median(r["ratio_to_embedding"] for r in rounds), 4),
        "each_round": rounds,
    }
    print(json.dumps(machine.result("pipeline", vars(options), facts, **found)))


if __name__ == "__main__":
    main()
