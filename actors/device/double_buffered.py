"""Micro-batches through a model: one is always queued while the one before it comes back, so that a GPU does not wait
for the host; one that does not fit the device is halved.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from actors.spec import DeviceOutOfMemory, ReplicaBroken


def double_buffered(
    batches: Iterable[np.ndarray],
    send: Callable[[np.ndarray], Any],
    receive: Callable[[np.ndarray, Any], None],
    too_large: Callable[[np.ndarray], None],
) -> None:
    """Sends every micro-batch (an array of rows) and receives its result, in turn.

    send(rows_n) queues it and gives what receive(rows_n, pending) waits for. too_large(rows_n) hears of each that did
    not fit, before its halves are sent. Raises ReplicaBroken when a single row does not fit the device alone.
    """
    todo = deque(batches)
    queued: deque[tuple[np.ndarray, Any]] = deque()

    def collect(left: int) -> None:
        while len(queued) > left:
            receive(*queued.popleft())

    while todo:
        rows_n = todo.popleft()
        try:
            queued.append((rows_n, send(rows_n)))
        except DeviceOutOfMemory as error:
            had_company = bool(queued)
            collect(left=0)
            if len(rows_n) > 1:
                too_large(rows_n)
                middle = len(rows_n) // 2
                todo.extendleft([rows_n[middle:], rows_n[:middle]])
            elif had_company:  # alone on the device it may fit
                todo.appendleft(rows_n)
            else:
                raise ReplicaBroken(f"not even a single text fits: {error}") from error
        collect(left=1)
    collect(left=0)
