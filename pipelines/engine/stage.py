"""A run is a list of stages over spans of work units; an executor folds the list.

    stages: read (1 → n) → tokenise → embed (actors) → write (k → 1) → receipts to the driver

Three things travel between stages: a `Parcel`, which is a bundle of units with its rows; a `Failed`, which is what is
left of one that went no further; and a `Receipt`, once its rows are written. A stage gets parcels alone and never
raises for one: it gives a `Failed` in its place, which passes the later stages by, so that no unit can vanish without a
word. The one exception is ReplicaBroken: the process can do nothing more, so an executor replaces it, or ends the run.
`InlineExecutor` defines what is correct; any other executor is correct when it gives the same table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from actors.spec import ReplicaBroken
from pipelines.config import ReplicaRange
from pipelines.engine import deadline
from pipelines.engine.nodes import Node
from pipelines.units import UNIT_BYTES_MOST, Bundle, Span

T = TypeVar("T")
R = TypeVar("R")
Process = tuple[str, int]  # the node of a replica, and its process there


@dataclass(frozen=True)
class Tally:
    """What is counted of some units on their way; two of them add up.

    tokens: that the model read. records: in the table. truncated: texts that lost tokens. bytes: as stored.
    bad_rows: of which some record has a reason. reasons: records by reason. retries: what was tried again, by stage and
    fault. seconds: spent, by stage; of a replica what its model worked on them, without what they waited for others.
    replicas: processes of the pool that had a hand in it. facts: what those compute with, (name, value)."""

    tokens: int = 0
    records: int = 0
    truncated: int = 0
    bytes: int = 0
    bad_rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    seconds: Mapping[str, float] = field(default_factory=dict)
    replicas: frozenset[Process] = frozenset()
    facts: frozenset[tuple[str, str]] = frozenset()

    def __add__(self, other: Tally) -> Tally:
        stages = {*self.seconds, *other.seconds}
        return Tally(
            self.tokens + other.tokens,
            self.records + other.records,
            self.truncated + other.truncated,
            self.bytes + other.bytes,
            self.bad_rows + other.bad_rows,
            self.reasons + other.reasons,
            self.retries + other.retries,
            {stage: self.seconds.get(stage, 0.0) + other.seconds.get(stage, 0.0) for stage in stages},
            self.replicas | other.replicas,
            self.facts | other.facts,
        )


@dataclass(frozen=True)
class Parcel:
    """A bundle of units on its way, with its rows.

    carried: columns that no stage looks at, once for each row of the corpus; `rows`, of which a row may become many,
    say in `_at` which of them is theirs. None: there are none."""

    bundle: Bundle
    rows: pa.Table
    tally: Tally = field(default_factory=Tally)
    carried: pa.Table | None = None

    def after(self, stage: str, seconds: float, rows: pa.Table, counted: Tally | None = None) -> Parcel:
        """The parcel after `stage`, which worked on it for so many seconds; counted: what that stage counts."""
        tally = self.tally + Tally(seconds={stage: seconds})
        return replace(self, rows=rows, tally=tally if counted is None else tally + counted)

    def failed(
        self, why: str, fatal: type[Exception] | None = None, hung: bool = False, too_large: bool = False
    ) -> Failed:
        return Failed(self.bundle, why, fatal, hung, too_large=too_large)

    def bounded(self, record_bytes: int = 0) -> Parcel | Failed:
        """Itself, or that it is too large to travel on: its rows, with the `record_bytes` that a later stage adds to
        each, come to more than UNIT_BYTES_MOST. A row of the corpus is never divided."""
        size = self.rows.nbytes + record_bytes * len(self.rows)
        if size <= UNIT_BYTES_MOST or sum(unit.rows for unit in self.bundle) == 1:
            return self
        most = f"{UNIT_BYTES_MOST >> 20} MiB are held at once"
        why = f"{len(self.rows):,} records would take {size >> 20:,} MiB, and {most}"
        return self.failed(why, too_large=True)


@dataclass(frozen=True)
class Failed:
    """Units that went no further, and why.

    fatal: no other parcel will get further either (wrong weights, a full disk), so the run stops, with this error.
    hung: a stage did not come to an end with them, and one of their rows may be to blame.
    unread: their file is to blame, which can be read no further there.
    too_large: they come to more bytes than are held at once; fewer rows will do."""

    bundle: Bundle
    why: str
    fatal: type[Exception] | None = None
    hung: bool = False
    unread: bool = False
    too_large: bool = False


@dataclass(frozen=True)
class Receipt:
    """Units whose rows are written, and not committed yet. fragments: JSON of what was written for them."""

    bundle: Bundle
    fragments: tuple[str, ...]
    tally: Tally = field(default_factory=Tally)


Item = Parcel | Failed | Receipt
Result = Receipt | Failed
StageFunction = Callable[[list[Parcel]], Iterable[Item]]
Reader = Callable[[Span], Iterator[Parcel | Failed]]


@dataclass(frozen=True)
class Stage:
    """One step. `make` returns the function: called once in each actor, and for each call of a task, so what is dear
    to build must be cached there.

    parcels_per_call: how many are handed over at once. replicas: a pool of so many actors instead of tasks.
    num_cpus, num_gpus, memory (bytes): what one task or actor holds while it works. in_flight: most calls sent to an
    actor at once; with 1, a call that kills its actor takes no other with it (and a pool never grows); None: twice
    at_once, which is how many it works on at a time, each in a thread of its own: what `make` gives must bear that.
    timeout_seconds: a call that takes longer, without what it waited for another (`deadline.not_counting`), is taken
    for hung; None: none is. rows_may_hang: whether that may be for the sake of a row; elsewhere it is a file or a store
    that hangs."""

    name: str
    make: Callable[[], StageFunction]
    parcels_per_call: int = 1
    replicas: ReplicaRange | None = None
    num_cpus: float = 1
    num_gpus: float = 0
    memory: int = 0
    in_flight: int | None = None
    at_once: int = 1
    timeout_seconds: float | None = None
    rows_may_hang: bool = False


class Executor(Protocol):
    """in_process: whether stages run in the driver's own process, so that what they log is seen there."""

    in_process: bool

    @property
    def gpus(self) -> int:
        """GPUs that replicas may use."""

    @property
    def nodes(self) -> Sequence[Node]:
        """The machines that tasks and replicas may run on, at least one."""

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        """Apply `function` to each item in parallel; results in any order. For planning, not for rows."""

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        """Read each span, pass the parcels through the stages, and yield receipts and failures as they come.

        Spans are drawn no further ahead than they are needed. Some may be left undrawn, when so much was lost that
        those to blame should be looked for first."""

    def close(self) -> None:
        """Stop what still runs and release what was started."""

    def describe(self) -> dict[str, Any]:
        """Engine, version and resources, for the run record."""


def call(stage: Stage, function: StageFunction, items: list[Item]) -> list[Item]:
    """Run a stage's function on the parcels among the items; whatever it raises becomes their failure, because an
    exception in an engine's worker would drop them silently. Raises ReplicaBroken alone."""
    passed_on: list[Item] = [item for item in items if not isinstance(item, Parcel)]
    parcels = [item for item in items if isinstance(item, Parcel)]
    if not parcels:
        return passed_on
    try:
        return [*passed_on, *deadline.call(stage.timeout_seconds, lambda: list(function(parcels)))]
    except ReplicaBroken:
        raise
    except deadline.Hung as bad:
        return [*passed_on, *(one.failed(f"{stage.name}: {bad}", hung=stage.rows_may_hang) for one in parcels)]
    except Exception as bad:  # noqa: BLE001
        quotes = isinstance(bad, (pa.ArrowException, UnicodeError, KeyError))  # values of the corpus, perhaps
        why = f"{stage.name}: {type(bad).__name__}" + ("" if quotes else f": {bad}")
        return [*passed_on, *(one.failed(why) for one in parcels)]


def by_replica(items: Iterable[Item], process: Process) -> list[Item]:
    """The items, with this process of the pool noted on those that came through it."""
    seen = Tally(replicas=frozenset([process]))
    return [item if isinstance(item, Failed) else replace(item, tally=item.tally + seen) for item in items]
