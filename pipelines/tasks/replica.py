"""The stages between reading and writing that every task with a model has: tokenising on CPUs, a pool of replicas."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import pyarrow as pa

from actors.device.allocator import ask_for_growing_segments
from actors.device.refusal import refusal
from actors.replica.model_thread import Turn
from actors.spec import ModelError
from pipelines.config import ReplicaRange
from pipelines.engine import deadline
from pipelines.engine.stage import Item, Parcel, Stage, StageFunction, Tally
from pipelines.errors import VectormillError

CALLS_AT_ONCE = 2  # of a replica: while the model is busy with one, the other's rows are unpacked and packed
TokeniseRows = Callable[[pa.Table], tuple[pa.Table, int, int]]


@dataclass(frozen=True)
class Pool:
    """The replicas of a run. num_cpus, num_gpus, memory (bytes): what each holds. isolated: one call at a time for
    each, so that one that kills it is alone to blame."""

    replicas: ReplicaRange
    num_cpus: float
    num_gpus: float
    isolated: bool
    timeout_seconds: float | None
    memory: int = 0

    def stage(self, name: str, make: Callable[[], StageFunction], at_once: int = 1) -> Stage:
        """A stage of these replicas, each made by `make`. at_once: calls that it bears at a time."""
        return Stage(
            name,
            make,
            replicas=self.replicas,
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            memory=self.memory,
            in_flight=1 if self.isolated else None,
            at_once=1 if self.isolated else at_once,
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
            yield parcel.after("tokenise", time.perf_counter() - started, rows, counted).bounded(record_bytes)

    return Stage("tokenise", lambda: work, num_cpus=0.5, timeout_seconds=pool.timeout_seconds, rows_may_hang=True)


class Actor(Protocol):
    """A model at work on tables. facts: what it computes with, by name."""

    @property
    def facts(self) -> Mapping[str, str]: ...

    def __call__(self, table: pa.Table, turns: list[Turn], /) -> pa.Table: ...


def replica(stage: str, make: Callable[[], Actor]) -> StageFunction:
    """The function of a stage whose model `make` imports and loads. If the model refuses to work (wrong weights, failed
    self-check, a device that is broken from the start, a table it cannot search) or cannot be set up for whatever
    reason, every parcel says so and the run stops: another process would meet the same. Later the function raises
    ReplicaBroken when its process must be replaced."""
    ask_for_growing_segments()  # before `make` imports torch
    try:
        actor = make()
    except (ModelError, VectormillError) as bad:
        return _refusing(bad)
    except Exception as bad:  # noqa: BLE001 - what a model's imports raise, which come before it can say more
        return _refusing(refusal(bad, f"the stage {stage}"))
    facts = Tally(facts=frozenset(actor.facts.items()))

    def work(parcels: list[Parcel]) -> Iterable[Item]:
        for parcel in parcels:
            turns: list[Turn] = []
            deadline.not_counting(partial(_waited, turns))
            rows = actor(parcel.rows, turns)
            yield parcel.after(stage, sum(turn.worked() for turn in turns), rows, facts)

    return work


def _refusing(bad: ModelError | VectormillError) -> StageFunction:
    kind, why = type(bad), f"a replica refuses to work: {bad}"
    return lambda parcels: [parcel.failed(why, fatal=kind) for parcel in parcels]


def _waited(turns: list[Turn]) -> float:
    return sum(turn.waited() for turn in turns)
