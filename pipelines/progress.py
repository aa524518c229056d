"""What a run tells whoever watches: a terminal, a log, a notebook, a collector of metrics."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Snapshot:
    """A run at one moment. before: in the table when it began. written: have a receipt. committed: visible.

    tokens_per_second: of the last receipts. seconds_left: None until the first receipt. replicas: in the pool from the
    start; it may grow to replicas_max. bad_rows: without a result, of this run. failures: units given up.
    working: the replicas have begun."""

    rows_total: int
    rows_before: int
    rows_written: int
    rows_committed: int
    units_total: int
    units_before: int
    units_committed: int
    tokens_per_second: float
    seconds_left: float | None
    replicas: int
    replicas_max: int
    commits: int
    bad_rows: int
    failures: int
    working: bool


class Progress(Protocol):
    """A listener. What is tried again is not among this: it goes to the logger `vectormill.retries`."""

    def say(self, message: str) -> None:
        """One line of what happens."""

    def running(self) -> AbstractContextManager[None]:
        """Rows are worked off until the block ends; `update` is called in it."""

    def update(self, snapshot: Snapshot) -> None:
        """The run as it is now: at its beginning, at each receipt and at each commit, in the run's own thread."""

    def engine_output(self) -> AbstractContextManager[None]:
        """Around all that an engine or Lance may write to stdout and stderr, natively or not."""


class Silent:
    """Nobody watches."""

    def say(self, message: str) -> None:
        pass

    def running(self) -> AbstractContextManager[None]:
        return nullcontext()

    def update(self, snapshot: Snapshot) -> None:
        pass

    def engine_output(self) -> AbstractContextManager[None]:
        return nullcontext()
