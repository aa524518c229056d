"""A stream that is listened to while it is silent."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_ticks(stream: Iterable[T], due_in: Callable[[], float | None]) -> Iterator[T | None]:
    """The stream's items, and None whenever `due_in()` seconds pass without one (None: however long that takes).

    The stream is read by a thread of its own through a queue of one, so that a slow reader of this holds it back."""
    items: queue.Queue[T | BaseException | None] = queue.Queue(maxsize=1)

    def pull() -> None:
        try:
            for item in stream:
                items.put(item)
            items.put(None)
        except BaseException as bad:  # noqa: BLE001 - handed to the thread that waits
            items.put(bad)

    threading.Thread(target=pull, daemon=True, name="engine").start()
    while True:
        try:
            item = items.get(timeout=due_in())
        except queue.Empty:
            yield None
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            raise item
        yield item
