"""Spans that were handed to an engine, and which of their units have no answer yet. Knows no engine.

A unit comes in hand when its span is drawn, and leaves with the first receipt or failure for it. So whatever an engine
does twice counts once; what it loses is still in hand when it has come to its end; and memory is bounded by what is
under way, however long the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain

from pipelines.engine.stage import Failed, Receipt, Result
from pipelines.units import Span, Unit, left_of

SUSPECTS_MOST = 32  # spans, or calls, lost or hung, before it is time to look for the rows to blame


class InHand(Iterator[Span]):
    """`spans`, which are drawn one by one. is_exhausted: no more will be drawn, because there are none, or because too
    many hung. answers: results that were taken."""

    def __init__(self, spans: Iterable[Span]):
        self.is_exhausted = False
        self.answers = 0
        self._rest = iter(spans)
        self._drawn = 0
        self._spans: dict[int, Span] = {}  # by number, those with a unit in hand
        self._number: dict[int, int] = {}  # of the span, by the id of each unit in hand
        self._waiting: Counter[int] = Counter()  # how many units of a span are in hand
        self._hung: dict[int, Span] = {}

    def __next__(self) -> Span:
        span = next(self._rest, None) if len(self._hung) < SUSPECTS_MOST else None
        if span is None:
            self.is_exhausted = True
            raise StopIteration
        self._drawn += 1
        ids = [unit.id for unit in chain.from_iterable(span)]
        assert self._number.keys().isdisjoint(ids), f"in hand already: {span}"
        self._spans[self._drawn] = span
        self._number.update(dict.fromkeys(ids, self._drawn))
        self._waiting[self._drawn] = len(ids)
        return span

    def more(self, spans_most: int, units_most: int) -> list[Span]:
        """Draw as many spans as there is room for."""
        drawn: list[Span] = []
        while not self.is_full(spans_most, units_most) and (span := next(self, None)) is not None:
            drawn.append(span)
        return drawn

    def is_full(self, spans_most: int, units_most: int) -> bool:
        """Whether that much is in hand; the last span may have more units than there was room for."""
        return len(self._spans) >= spans_most or len(self._number) >= units_most

    @property
    def units(self) -> int:
        return len(self._number)

    def answered(self, result: Result) -> Result | None:
        """What of a result is taken, None for nothing. A receipt counts as a whole: its rows were written together, so
        if one of its units has an answer already, or is in it twice, none is taken, and what is in hand stays."""
        if isinstance(result, Failed) and result.fatal:
            return result
        there = tuple(unit for unit in dict.fromkeys(result.bundle) if unit.id in self._number)
        if not there or (isinstance(result, Receipt) and len(there) < len(result.bundle)):
            return None
        self.answers += 1
        for unit in there:
            number = self._number.pop(unit.id)
            if isinstance(result, Failed) and result.hung:
                self._hung[number] = self._spans[number]
            self._waiting[number] -= 1
            if not self._waiting[number]:
                del self._waiting[number], self._spans[number]
        return replace(result, bundle=there) if isinstance(result, Failed) else result

    def left(self) -> list[Span]:
        """What has no answer, in its spans."""
        return [left_of(span, self._number.keys()) for span in self._spans.values()]

    @property
    def lost(self) -> list[Unit]:
        """The same, unit by unit."""
        return [unit for span in self.left() for unit in chain.from_iterable(span)]

    @property
    def suspects(self) -> list[Span]:
        """Spans, as they were drawn, with units that hung or have no answer."""
        return list((self._hung | self._spans).values())
