"""Hands spans to an execution of Ray Data as it gets on with them. Knows no Ray.

A dataset's input is made before its execution begins, each item at a price. So its input is one item, and a task that
gives out, one by one, the spans that the driver puts into a queue for it: never more than are needed to keep all
replicas at work. Where all that is to do fits at once there is no queue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from pipelines.engine.in_hand import InHand
from pipelines.engine.stage import Stage
from pipelines.engine.wire import span_to_json

# In hand at once: so much work that no replica waits, and twice what may lie between two stages, where parcels wait
# until there are enough of them for one call. Each span costs the driver 5 kB with Ray, each unit half a kB.
SPANS, SPANS_PER_REPLICA = 1_024, 16
UNITS, UNITS_PER_REPLICA = 262_144, 2_048
ROOM = 8  # is made use of when this part of it is free: each time costs a call


class Queue(Protocol):
    """Ray's own, as far as it is used."""

    def put_nowait_batch(self, items: Sequence[str | None]) -> None: ...

    def get(self) -> str | None: ...


class Feed:
    """heads: spans to begin with, in their wire form. queue: where more of them come from; None if that is all."""

    def __init__(self, in_hand: InHand, stages: Sequence[Stage], make_queue: Callable[[], Queue]):
        replicas = max((stage.replicas.max for stage in stages if stage.replicas is not None), default=1)
        together = max((stage.parcels_per_call for stage in stages), default=1)
        self._in_hand = in_hand
        self._most = max(SPANS, SPANS_PER_REPLICA * replicas) + 2 * together, max(UNITS, UNITS_PER_REPLICA * replicas)
        self.heads = self._more()
        self.is_over = in_hand.is_exhausted
        self.queue = None if self.is_over else make_queue()

    def _more(self) -> list[str]:
        return [span_to_json(span) for span in self._in_hand.more(*self._most)]

    @property
    def is_full(self) -> bool:
        """Whether there is too little room to hand out more."""
        spans_most, units_most = self._most
        return self._in_hand.is_full(spans_most - spans_most // ROOM, units_most - units_most // ROOM)

    def fill(self, is_last: bool = False) -> None:
        """Put more into the queue, if there is room. is_last: nothing more, and nothing after that."""
        if self.queue is None or self.is_over or (self.is_full and not is_last):
            return
        spans: list[str | None] = [] if is_last else [*self._more()]
        self.is_over = is_last or self._in_hand.is_exhausted
        self.queue.put_nowait_batch([*spans, None] if self.is_over else spans)
