"""What a second replica brings, and an eighth: the time of one replica over n times the time of n, on the same rows.

    python -m benchmarks.replicas [--replicas 1 2 8] [--seconds 240] [--unit-seconds 1] [--tokens-per-second 4000]

The fake model takes a fixed time per token and sleeps through it, so that replicas on simulated GPUs (a cluster started
here, whose GPUs are numbers in Ray's books) need no core each. `--seconds` is the work in the corpus for one replica:
240 seconds take eight replicas 30. One run of the whole job for each number of replicas, one after the other, from an
empty table through Ray: read, tokenise, embed, write, commit.

seconds             from the moment the first replica begins its first unit to the last receipt at the driver: that
                    replicas do not start together is in it, and so are waiting, writing and the end of the run
efficiency          seconds of the smallest pool x its replicas / (seconds x replicas)
started_within      seconds between the first unit of the first replica and the first unit of the last one
busy_share          of the replicas' time between the first unit begun and the last one done, in which a model worked
unit_seconds        that a model worked on a unit
seconds_after_last  from the last unit done to the last receipt
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from benchmarks import machine
from benchmarks.watched import Watched
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.engine.open import open_executor
from pipelines.job_file import parse_job
from pipelines.run.prepare import prepare
from pipelines.run.run import Run

SHARDS = 8
TOKENS_A_ROW = 16  # with the one that ends a text
CPUS = 6  # for reading, tokenising and writing, beside one for each replica; logical, as the GPUs


def write_corpus(folder: Path, rows: int) -> None:
    folder.mkdir()
    text = " ".join(f"word{n}" for n in range(TOKENS_A_ROW - 2))
    for shard in range(SHARDS):
        numbers = range(shard * rows // SHARDS, (shard + 1) * rows // SHARDS)
        table = pa.table({"id": [str(n) for n in numbers], "text": [f"{text} {n}" for n in numbers]})
        pq.write_table(table, folder / f"part-{shard}.parquet")


@contextmanager
def simulated_gpus(number: int) -> Iterator[str]:
    """The address of a cluster of one node with so many GPUs."""
    cluster = Cluster()
    cluster.add_node(num_cpus=CPUS + number, num_gpus=number, include_dashboard=False)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


def measure(job: JobConfig, log: Path) -> dict[str, Any]:
    with Display(quiet=True).engine_output(), open_executor(job) as executor:
        watched = Watched(executor, log)
        run = Run.open(prepare(job, watched), watched, Display(quiet=True))
        certificate = run.work()
    assert certificate.adds_up, certificate
    work, last_receipt = watched.calls(), watched.receipts[-1][0]
    began, ended = work[0].begin, max(call.end for call in work)
    busy = sum(call.seconds for call in work)
    first: dict[int, float] = {}
    for call in work:
        first.setdefault(call.process, call.begin)
    replicas = job.run.replicas
    assert isinstance(replicas, int)
    return {
        "replicas": replicas,
        "seconds": round(last_receipt - began, 2),
        "units": certificate.units,
        "tokens": certificate.tokens,
        "started_within": round(max(first.values()) - began, 2),
        "busy_share": round(busy / replicas / (ended - began), 4),
        "unit_seconds": round(busy / len(work), 3),
        "seconds_after_last": round(last_receipt - ended, 2),
        "processes": len(first),
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--seconds", type=float, default=240, help="of work for one replica")
    parser.add_argument("--unit-seconds", type=float, default=1)
    parser.add_argument("--tokens-per-second", type=int, default=4_000)
    options = parser.parse_args()
    facts = machine.facts()
    rows_a_second = options.tokens_per_second / TOKENS_A_ROW
    found = []
    with tempfile.TemporaryDirectory() as base, simulated_gpus(max(options.replicas)) as address:
        folder = Path(base)
        write_corpus(folder / "corpus", round(options.seconds * rows_a_second))
        for replicas in sorted(options.replicas):
            job = {
                "corpus": {"uri": str(folder / "corpus"), "id": "id"},
                "model": {"weights": f"fake:{options.tokens_per_second}"},
                "table": {"uri": str(folder / "db"), "name": f"t{replicas}"},
                "run": {
                    "address": address,
                    "replicas": replicas,
                    "rows_per_unit": max(1, round(options.unit_seconds * rows_a_second)),
                },
            }
            found.append(measure(parse_job(job), folder / f"work-{replicas}.jsonl"))
    least = found[0]
    for each in found:
        share = least["seconds"] * least["replicas"] / each["seconds"] / each["replicas"]
        each["efficiency"] = round(share, 4)
        print(
            f"{each['replicas']:3} replica(s) {each['seconds']:8.1f} s   efficiency {share:.3f}   "
            f"busy {each['busy_share']:.1%}   all started within {each['started_within']:.1f} s"
        )
    efficiency = {str(each["replicas"]): each["efficiency"] for each in found}
    print(json.dumps(machine.result("replicas", vars(options), facts, efficiency=efficiency, each=found)))


if __name__ == "__main__":
    main()
