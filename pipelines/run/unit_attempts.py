"""What is tried again, and what is given up.

A unit that fails (its file cannot be read, a stage raises) is tried once more, alone. One that comes to more bytes than
are held at once is cut into eighths. A unit that vanishes (no receipt,
no failure) was lost with its process, three times over; one that hangs did not get through in its time. Both are run
alone and then in eighths, until the one row is left that kills or hangs its process, which is recorded with a reason.
All of it is bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain

from pipelines.corpus.broken import BrokenFile
from pipelines.engine.stage import Failed
from pipelines.errors import EngineError, VectormillError
from pipelines.units import Bundle, Span, Unit, split

ATTEMPTS = 2
MOST_FAILED = 256  # units, or files that cannot be read; more is a fault of the set-up, and costs money for nothing
MOST_LOST_SPANS = 64  # at once; more is a fault of the machines, not of some rows


class UnitAttempts:
    """`failures` are the units given up, with why, in words; `broken` the files of those that could not be read: one
    that nothing can be read of is thousands of units, and one fault. `say` tells the user, `name` a unit's file."""

    def __init__(self, say: Callable[[str], None], name: Callable[[Unit], str]):
        self.failures: list[str] = []
        self._broken: dict[str, BrokenFile] = {}
        self._say = say
        self._name = name
        self._attempts: Counter[int] = Counter()
        self._hung: list[Unit] = []
        self._apart: set[int] = set()  # units asked for by `after_loss`

    @property
    def broken(self) -> tuple[BrokenFile, ...]:
        return tuple(self._broken.values())

    @property
    def given_up(self) -> int:
        """Units and files."""
        return len(self.failures) + len(self._broken)

    def after_failure(self, failed: Failed) -> list[Bundle]:
        """The units that are to be tried again, each alone. Raises VectormillError for a fatal failure, or
        one too many."""
        if failed.fatal:
            raise failed.fatal(failed.why)
        if failed.hung:  # `after_loss` goes on with them
            self._hung += failed.bundle
            for unit in failed.bundle:
                self._say(f"{unit}, {unit.rows:,} row(s) in hand: {failed.why}; its process is replaced")
            return []
        if failed.too_large:
            return self._cut(failed)
        again: list[Bundle] = []
        for unit in failed.bundle:
            self._attempts[unit.id] += 1
            if self._attempts[unit.id] < ATTEMPTS:
                again.append((unit,))
            elif failed.unread:
                self._unread(unit, failed.why)
            else:
                self.failures.append(f"{unit}: {failed.why}")
                self._say(f"failed: {self.failures[-1]}")
        if self.given_up > MOST_FAILED:
            raise VectormillError(
                f"{self.given_up} units or files failed, the last one with: {failed.why}. Stopped; what is committed "
                "stays, and the same command goes on once the cause is removed."
            )
        return again

    def _unread(self, unit: Unit, why: str) -> None:
        file = self._name(unit)
        before = self._broken.get(file)
        if before is None:
            self._say(f"failed: {unit}: {why}")
            before = BrokenFile(file, why.removeprefix("read: "), 0)
        self._broken[file] = replace(before, rows=(before.rows or 0) + unit.rows)

    def _cut(self, failed: Failed) -> list[Bundle]:
        """A bundle's units each alone, of a unit its eighths."""
        if len(failed.bundle) > 1:
            return [(unit,) for unit in failed.bundle]
        (unit,) = failed.bundle
        assert unit.rows > 1, failed
        self._say(f"{unit}: {failed.why}; it is cut into eighths. A smaller run.rows_per_unit saves the second reading")
        return [(part,) for part in _eighths(unit)]

    def after_loss(self, lost: Sequence[Unit], ran: Sequence[Span]) -> tuple[list[Bundle], list[tuple[Unit, str]]]:
        """(bundles to run next, single rows found guilty and of what). `ran`: the spans in which the lost units, and
        those that hung since the last call, travelled: a process that dies reading one takes all that follows with it.

        A row is found guilty only when it was run alone: before that it may have been in hand beside the guilty one.
        Raises VectormillError if so many are lost that it is not for some row's sake."""
        hung, self._hung = self._hung, []
        ids = {unit.id for unit in [*lost, *hung]}
        if sum(any(unit.id in ids for unit in chain.from_iterable(span)) for span in ran) > MOST_LOST_SPANS:
            raise EngineError(
                f"the engine lost {len(lost):,} units without a word and {len(hung):,} hung, more than single rows "
                "that kill or hang their process would explain; look at memory and at the engine's output. What is "
                "committed stays."
            )
        if lost:
            self._say(f"{len(lost)} unit(s) were lost with their process; narrowing down")
        alone = {bundle[0].id for span in ran for bundle in span if len(bundle) == 1}
        again: list[Bundle] = []
        guilty: list[tuple[Unit, str]] = []
        for unit, reason in [(u, "crashes_worker") for u in lost] + [(u, "hangs_worker") for u in hung]:
            if unit.rows > 1 and unit.id in alone:
                again += [(part,) for part in _eighths(unit)]
            elif unit.id in self._apart:
                guilty.append((unit, reason))
            else:
                again.append((unit,))
        self._apart |= {part.id for (part,) in again}
        return again, guilty


def _eighths(unit: Unit) -> list[Unit]:
    """Each round costs a start of the model, or a time-out: 65,536 rows take 6 rounds, halves would take 16."""
    parts = [unit]
    for _ in range(3):
        parts = [half for part in parts for half in split(part)]
    return parts
