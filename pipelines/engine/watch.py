"""Watches over an execution by Ray Data, so that nothing is waited for that cannot come. Knows no Ray.

Ray restarts a replica whose node died, and keeps the calls it had in hand for it, as soon as there is room: on a
cluster that has shrunk, never. So when nothing has come for a while and the cluster holds fewer replicas than it did,
the execution is given up, and what is left is run again by as many replicas as there is room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipelines.engine.in_hand import SUSPECTS_MOST
from pipelines.errors import EngineError

PATIENCE_SECONDS = 60.0  # of silence after a node was lost, or three times the longest silence before
NO_ROOM_SECONDS = 3600.0  # to wait for a node that can hold a replica


class ReplicasGone(Exception):
    """Calls wait for replicas whose node is gone and for which there is no room elsewhere."""


def _nothing() -> int:
    return 0


class Watch:
    """A callback of Ray Data's loop, called between two steps. replicas: the most there may be; 0: there is no pool.
    room: how many the nodes that are up can hold, asked every `look_seconds`."""

    def __init__(self, replicas: int = 0, room: Callable[[], int] = _nothing, look_seconds: float = 0):
        self._replicas = replicas
        self._room = room
        self._look_seconds = look_seconds
        self._most_room = 0
        self._looked = self._last = time.monotonic()
        self._longest: float | None = None
        self.lost = 0  # calls of tasks or replicas whose process died each time

    def __call__(self) -> Watch:
        """Ray Data makes an instance for each execution; this is the one."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Ray Data's settings also travel to its workers, where there is nothing to watch."""
        return Watch, ()

    def came(self) -> None:
        """A parcel came. How long the first one takes says nothing: the model had to be loaded."""
        now = time.monotonic()
        self._longest = 0.0 if self._longest is None else max(self._longest, now - self._last)
        self._last = now

    def on_execution_step(self, executor: object) -> None:
        """Raises ReplicasGone or EngineError when what is left cannot come."""
        # Nothing public says it. Where Ray Data has another name for it, some may have been lost.
        self.lost = getattr(executor, "_num_errored_blocks", 1)
        # Statistics of each block, of which nobody asks: 2 kB each until the execution ends.
        for operator in getattr(executor, "_topology", ()):
            getattr(operator, "_output_blocks_stats", []).clear()
        now = time.monotonic()
        if not self._replicas or now - self._looked < self._look_seconds:
            return
        self._looked = now
        room, silent = self._room(), now - self._last
        self._most_room = max(self._most_room, room)
        if 0 < room < min(self._most_room, self._replicas):
            if silent > self._patience:
                raise ReplicasGone
        elif not room and silent > NO_ROOM_SECONDS:
            raise EngineError(
                f"for {silent / 60:.0f} minutes no node of the cluster could hold a replica. What is committed stays; "
                "run the same command when there are nodes (`ray status` shows them)."
            )

    @property
    def _patience(self) -> float:
        return max(PATIENCE_SECONDS, 3 * (self._longest or 0.0))

    def is_time_to_look(self, is_full: bool) -> bool:
        """Whether the execution should get no more: so much was lost that those to blame are to be looked for, or what
        was lost may be all that is in hand. is_full: as much is in hand as may be."""
        silent = time.monotonic() - self._last
        return self.lost >= SUSPECTS_MOST or bool(self.lost and is_full and silent > self._patience)

    def before_execution_starts(self, executor: object) -> None:
        pass

    def after_execution_succeeds(self, executor: object) -> None:
        pass

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        pass
