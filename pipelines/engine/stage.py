"""A run is a list of stages over spans of work units; an executor folds the list.

    stages: read (1 → n) → tokenise → embed (actors) → write (k → 1) → receipts to the driver

What travels between stages is a `Parcel`: a bundle of units with its rows. A stage never raises for a parcel: it
returns it with `failure` set and the later stages pass it on, so that no unit can vanish without a word. The one
exception is ReplicaBroken: the process can do nothing more, so an executor replaces it, or ends the run.
`InlineExecutor` defines what is correct; any other executor is correct when it gives the same table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from actors.spec import ReplicaBroken
from pipelines.config import ReplicaRange
from pipelines.engine import deadline
from pipelines.errors import VectormillError
from pipelines.units import Bundle, Span

T = TypeVar("T")
R = TypeVar("R")

MAY_HANG_ON_A_ROW = ("tokenise", "embed", "rerank", "search")  # elsewhere it is a file or a store that hangs


@dataclass(frozen=True)
class Parcel:
    """The unit of exchange between stages.

    bundle: the units it covers. rows: their table, dropped once written. failure: why it went no further.
    fatal: no other parcel will get further either (wrong weights, a full disk), so the run stops.
    hung: it failed because a stage did not come to an end with it, and one of its rows may be to blame.
    seconds: time spent, by stage. counts: tokens and the like, summed up by the driver.
    fragments: JSON of the Lance fragments written for it (with `failure` None this makes it a receipt)."""

    bundle: Bundle
    rows: pa.Table | None = None
    failure: str | None = None
    fatal: bool = False
    hung: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    fragments: tuple[str, ...] = ()

    def failed(self, why: str, fatal: bool = False, hung: bool = False) -> Parcel:
        return replace(self, rows=None, failure=why, fatal=fatal, hung=hung)

    def with_rows(self, rows: pa.Table, stage: str, started: float, **counts: int) -> Parcel:
        """The parcel after `stage`, which began at `started` (time.perf_counter)."""
        spent = {**self.seconds, stage: self.seconds.get(stage, 0.0) + time.perf_counter() - started}
        return replace(self, rows=rows, seconds=spent, counts={**self.counts, **counts})


StageFunction = Callable[[list[Parcel]], Iterable[Parcel]]
Reader = Callable[[Span], Iterator[Parcel]]


@dataclass(frozen=True)
class Stage:
    """One step. `make` returns the function: called once in each actor, and for each call of a task, so what is dear
    to build must be cached there.

    parcels_per_call: how many are handed over at once. replicas: a pool of so many actors instead of tasks.
    num_cpus, num_gpus: what one task or actor holds while it works. in_flight: most calls sent to an actor at once;
    with 1, a call that kills its actor takes no other with it (and a pool never grows).
    timeout_seconds: a call that takes longer is taken for hung; None: none is."""

    name: str
    make: Callable[[], StageFunction]
    parcels_per_call: int = 1
    replicas: ReplicaRange | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    in_flight: int | None = None
    timeout_seconds: float | None = None


def left_of(span: Span, missing: set[int]) -> Span:
    """What of a span has not come back; `missing` are unit ids."""
    bundles = (tuple(unit for unit in bundle if unit.id in missing) for bundle in span)
    return tuple(bundle for bundle in bundles if bundle)


class Executor(Protocol):
    @property
    def gpus(self) -> int:
        """GPUs that replicas may use."""

    def threads(self, replicas: int) -> int:
        """CPU threads for each of so many replicas."""

    def require(self, replicas: int) -> None:
        """Raise ConfigError if there is no room for so many replicas."""

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Apply `function` to each item in parallel; results in any order. For planning, not for rows."""

    def run(self, read: Reader, stages: Sequence[Stage], spans: Sequence[Span]) -> Iterator[Parcel]:
        """Read each span, pass the parcels through the stages, and yield receipts and failures as they come."""

    def close(self) -> None:
        """Stop what still runs and release what was started."""

    def describe(self) -> dict[str, Any]:
        """Engine, version and resources, for the run record."""


class InlineExecutor:
    """Everything in this process, one span after the other. `gpus` is what this process may use."""

    def __init__(self, gpus: int = 0):
        self.gpus = gpus

    def threads(self, replicas: int) -> int:
        return os.cpu_count() or 1

    def require(self, replicas: int) -> None:
        pass

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return (function(item) for item in items)

    def run(self, read: Reader, stages: Sequence[Stage], spans: Sequence[Span]) -> Iterator[Parcel]:
        stream: Iterator[Parcel] = (parcel for span in spans for parcel in read(span))
        for stage in stages:
            stream = _through(stream, stage)
        try:
            yield from stream
        except ReplicaBroken as bad:
            raise VectormillError(
                f"{bad}. This process cannot go on. What is committed stays; the same command goes on from there. "
                "run.engine ray replaces such a process, and records a row that breaks it each time with a reason."
            ) from bad

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"engine": "inline"}


def _through(stream: Iterator[Parcel], stage: Stage) -> Iterator[Parcel]:
    function = stage.make()
    held: list[Parcel] = []
    for parcel in stream:
        held.append(parcel)
        if len(held) == stage.parcels_per_call:
            yield from _call_here(stage, function, held)
            held = []
    if held:
        yield from _call_here(stage, function, held)


def _call_here(stage: Stage, function: StageFunction, parcels: list[Parcel]) -> list[Parcel]:
    done = call(stage.name, function, parcels, stage.timeout_seconds)
    for parcel in done:
        if parcel.hung:
            raise VectormillError(
                f"{_named(parcel.bundle)}: {parcel.failure}. This process cannot go on. What is committed stays; the "
                "same command goes on from there. run.engine ray replaces such a process, and records a row that hangs "
                "it each time with a reason."
            )
    return done


def _named(bundle: Bundle) -> str:
    return ", ".join(map(str, bundle))


def call(
    name: str, function: StageFunction, parcels: list[Parcel], timeout_seconds: float | None = None
) -> list[Parcel]:
    """Run a stage's function on the parcels that have not failed; whatever it raises becomes their failure, because
    an exception in an engine's worker would drop them silently. Raises ReplicaBroken alone."""
    passed_on = [parcel for parcel in parcels if parcel.failure is not None]
    good = [parcel for parcel in parcels if parcel.failure is None]
    if not good:
        return passed_on
    try:
        return passed_on + deadline.call(timeout_seconds, lambda: list(function(good)))
    except ReplicaBroken:
        raise
    except deadline.Hung as bad:
        return passed_on + [parcel.failed(f"{name}: {bad}", hung=name in MAY_HANG_ON_A_ROW) for parcel in good]
    except Exception as bad:  # noqa: BLE001
        quotes = isinstance(bad, (pa.ArrowException, UnicodeError, KeyError))  # values of the corpus, perhaps
        why = f"{name}: {type(bad).__name__}" + ("" if quotes else f": {bad}")
        return passed_on + [parcel.failed(why) for parcel in good]
