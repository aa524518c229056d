"""The stages between reading and writing that every task with a model has: tokenising on CPUs, a pool of replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from actors.device.allocator import ask_for_growing_segments
from actors.spec import ModelError
from pipelines.config import ReplicaRange
from pipelines.engine.stage import Item, Parcel, Stage, StageFunction, Tally
from pipelines.errors import VectormillError

TokeniseRows = Callable[[pa.Table], tuple[pa.Table, int, int]]


@dataclass(frozen=True)
class Pool:
    """The replicas of a run. isolated: one call at a time for each, so that one that kills it is alone to blame."""

    replicas: ReplicaRange
    num_cpus: float
    num_gpus: float
    isolated: bool
    timeout_seconds: float | None

    def stage(self, name: str, make: Callable[[], StageFunction]) -> Stage:
        """A stage of these replicas, each made by `make`."""
        return Stage(
            name,
            make,
            replicas=self.replicas,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            in_flight=1 if self.isolated else None,
            timeout_seconds=self.timeout_seconds,
            rows_may_hang=True,
        )


def tokenise_stage(tokenise: TokeniseRows, pool: Pool, record_bytes: int) -> Stage:
    """`tokenise` gives of rows the table for the next stage, its tokens, and how many texts were truncated.
    record_bytes: of what the replica adds to each record. A row may have become thousands: what does not fit then goes
    back, to be cut, before a replica sees it."""

    def work(parcels: list[Parcel]) -> Iterator[Item]:
        for parcel in parcels:
            started = time.perf_counter()
            rows, tokens, truncated = tokenise(parcel.rows)
            counted = Tally(tokens=tokens, truncated=truncated, records=rows.num_rows)
            yield parcel.after("tokenise", started, rows, counted).bounded(record_bytes)

    return Stage("tokenise", lambda: work, num_cpus=0.5, timeout_seconds=pool.timeout_seconds, rows_may_hang=True)


def replica(stage: str, make: Callable[[], Callable[[pa.Table], pa.Table]]) -> StageFunction:
    """The function of a stage whose model `make` loads. If the model refuses to work (wrong weights, failed self-check,
    a device that is broken from the start, a table it cannot search) every parcel says so and the run stops. Later the
    function raises ReplicaBroken when its process must be replaced. `make` imports torch, if any does."""
    ask_for_growing_segments()
    try:
        actor = make()
    except (ModelError, VectormillError) as bad:
        kind, why = type(bad), f"a replica refuses to work: {bad}"
        return lambda parcels: [parcel.failed(why, fatal=kind) for parcel in parcels]

    def work(parcels: list[Parcel]) -> Iterable[Item]:
        for parcel in parcels:
            started = time.perf_counter()
            yield parcel.after(stage, started, actor(parcel.rows))

    return work
