"""How much of its time a replica's device works, with one call of it at a time and with two: through Ray, side by side.

    python -m benchmarks.overlap [--seconds 3 0.5] [--calls 20] [--rounds 2]

The real replica (EmbedActor, its model's thread, Arrow tables of 128 ids and 1,024 dimensions a row, IPC, Ray's
hand-over) around a stand-in for the model on a simulated device: busy until it has done what is queued on it, waited
for as a GPU is, and next to no work for the CPU. It does 700,000 tokens/s, as a 0.6B model on an H100, so a call of 3
seconds has 16,384 rows and one of 0.5 seconds 2,734. Nothing is read from files, tokenised or written: parcels come
ready made and are dropped. A run of the engine for each number of calls at a time, in turns, each with a new replica.

busy_share       of the time from the first micro-batch queued to the last one done, in which the device worked
idle_ms          that it did not, for each call
between_ms       of these, that the model's thread had no call in hand: the rest is within calls, where a thread that is
                 to queue the next micro-batch within 47 ms did not get a core: on a machine that has other work to do
replica_cpu_ms   of the replica's process for each call, from the end of its first to that of its last
driver_cpu_ms    of the driver, for each call
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from actors import fake
from actors.embedder.embedder import Embedder
from actors.embedder.fake import FakeEmbedModel
from actors.replica.embed import EmbedActor
from actors.spec import ModelSpec
from actors.weights.recipe import Resolved
from benchmarks import machine
from pipelines.cli.display import Display
from pipelines.config import ReplicaRange
from pipelines.engine.ray import RayExecutor
from pipelines.engine.stage import Item, Parcel, Receipt, Stage
from pipelines.tasks.replica import CALLS_AT_ONCE, Pool, replica
from pipelines.units import Span, Unit

TOKENS_PER_SECOND = 700_000
TOKENS_A_ROW = 128
DIMENSIONS = 1024
TOKEN_BUDGET = 32_768  # of a micro-batch: 47 ms
ONE = ReplicaRange(min=1, max=1)
WANTED = {3.0: 0.98, 0.5: 0.95}


class FirstWord(FakeEmbedModel):
    """A text's vector is that of its first word, so that the CPU has next to nothing to do for it."""

    def __init__(self, dimensions: int) -> None:
        super().__init__(dimensions)
        words_VD = fake.word_vectors(dimensions).astype(np.float32)
        self._unit_VD = words_VD / np.linalg.norm(words_VD, axis=1, keepdims=True)

    def reference(self, ids_T: np.ndarray) -> np.ndarray:
        return self._unit_VD[ids_T[0]]

    def vectors(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        return self._unit_VD[ids_T[np.cumsum(lengths_N) - lengths_N]]


@dataclass(frozen=True)
class Watched:
    """Makes the stage's function, which adds to `log` after each call what its device has done so far."""

    log: str

    def __call__(self) -> Callable[[list[Parcel]], Iterable[Item]]:
        model = FirstWord(DIMENSIONS)

        def load(spec: ModelSpec) -> Embedder:
            embedder = Embedder(spec, lambda spec, resolved: self._as_model(model, resolved))
            model.device = fake.SimulatedDevice(TOKENS_PER_SECOND)  # what it did for the check does not count
            return embedder

        spec = ModelSpec("fake", dimensions=DIMENSIONS, token_budget=TOKEN_BUDGET)
        work = replica("embed", partial(EmbedActor, spec, load))

        def noted(parcels: list[Parcel]) -> list[Item]:
            done = list(work(parcels))
            device = model.device
            with open(self.log, "a") as lines:
                at = device.busy_seconds, device.free, device.began, time.process_time(), os.getpid()
                lines.write(json.dumps(at) + "\n")
            return done

        return noted

    @staticmethod
    def _as_model(model: FirstWord, resolved: Resolved) -> FirstWord:
        assert resolved.dimensions == model.dimensions
        return model


def _table(rows: int) -> pa.Table:
    ids = np.random.default_rng(0).integers(0, fake.WORDS, rows * TOKENS_A_ROW).astype(np.int32)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * TOKENS_A_ROW)
    numbers = np.arange(rows)
    return pa.table(
        {
            "id": pa.array([f"document-{n:010d}" for n in numbers]),
            "_shard": pa.array(np.full(rows, 7)),
            "_row": pa.array(numbers),
            "_reason": pa.nulls(rows, pa.string()),
            "_detail": pa.nulls(rows, pa.string()),
            "_ids": pa.ListArray.from_arrays(offsets, pa.array(ids)),
        }
    )


def ready_made(span: Span) -> Iterator[Parcel]:
    """In the place of reading and tokenising."""
    return (Parcel(bundle, _table(sum(unit.rows for unit in bundle))) for bundle in span)


def dropped(parcels: list[Parcel]) -> list[Receipt]:
    """In the place of writing."""
    assert all(parcel.rows["vector"].null_count == 0 for parcel in parcels)
    return [Receipt(parcel.bundle, (), parcel.tally) for parcel in parcels]


def measure(executor: RayExecutor, rows: int, calls: int, at_once: int, log: Path) -> dict[str, Any]:
    """One run with a new replica."""
    pool = Pool(ONE, num_cpus=1, num_gpus=0, isolated=False, timeout_seconds=600)
    stage = pool.stage("embed", Watched(str(log)), at_once)
    units = [Unit(7, "ready-made", n * rows, (n + 1) * rows, 1, "mtime:0") for n in range(calls)]
    cpu = time.process_time()
    stages = [stage, Stage("write", lambda: dropped, num_cpus=0.5)]
    receipts = list(executor.run(ready_made, stages, [((unit,),) for unit in units]))
    cpu = time.process_time() - cpu
    assert all(isinstance(receipt, Receipt) for receipt in receipts), receipts
    assert len(receipts) == calls
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({process for *_, process in lines}) == 1, "a replica was replaced"
    busy, free, began, *_ = max(lines)
    spent = [line[3] for line in lines]
    worked = sum(receipt.tally.seconds["embed"] for receipt in receipts if isinstance(receipt, Receipt))
    return {
        "busy_share": round(busy / (free - began), 4),
        "idle_ms": round((free - began - busy) / calls * 1e3, 1),
        "between_ms": round(max(0.0, free - began - worked) / calls * 1e3, 1),
        "replica_cpu_ms": round((max(spent) - min(spent)) / (calls - 1) * 1e3, 1),
        "driver_cpu_ms": round(cpu / calls * 1e3, 1),
        "seconds": round(free - began, 2),
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 0.5], help="of the device, for a call")
    parser.add_argument("--calls", type=int, default=20, help="in a run")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    facts = machine.facts()
    ways = range(1, CALLS_AT_ONCE + 1)
    found = []
    with tempfile.TemporaryDirectory() as folder, Display(quiet=True).engine_output():
        executor = RayExecutor(None)
        measure(executor, 16, 4, CALLS_AT_ONCE, Path(folder) / "warm-up")  # Ray's workers start
        for seconds in options.seconds:
            rows = round(seconds * TOKENS_PER_SECOND / TOKENS_A_ROW)
            one: dict[str, Any] = {"seconds_a_call": seconds, "rows_a_call": rows, "each": {way: [] for way in ways}}
            for number in range(options.rounds):
                for way in ways:
                    log = Path(folder) / f"{seconds}-{number}-{way}"
                    one["each"][way].append(measure(executor, rows, options.calls, way, log))
            one["busy_share"] = {way: median(each["busy_share"] for each in one["each"][way]) for way in ways}
            found.append(one)
        executor.close()
    for one in found:
        show(one)
    print(json.dumps(machine.result("overlap", vars(options), facts, sizes=found)))


def show(one: dict[str, Any]) -> None:
    wanted = WANTED.get(one["seconds_a_call"])
    for way, each in one["each"].items():
        parts = {name: median(run[name] for run in each) for name in each[0]}
        print(
            f"{one['rows_a_call']:>6,} rows, {one['seconds_a_call']:g} s a call, {way} at a time: device busy "
            f"{one['busy_share'][way]:.1%} of {parts['seconds']:.1f} s"
            + (f" (wanted: {wanted:.0%})" if wanted and way == CALLS_AT_ONCE else "")
            + f"; for each call idle {parts['idle_ms']:.0f} ms, of these {parts['between_ms']:.0f} between calls; "
            f"CPU of the replica {parts['replica_cpu_ms']:.0f} ms, of the driver {parts['driver_cpu_ms']:.0f} ms"
        )


if __name__ == "__main__":
    main()
