"""Micro-batches through a model: one is always queued while the one before it comes back, so that a GPU does not wait
for the host, within a request and from one to the next; one that does not fit the device is halved.
"""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from actors.spec import DeviceOutOfMemory, ReplicaBroken

T = TypeVar("T")


@dataclass(eq=False)
class Request(Generic[T]):
    """What one call asks of a device. A micro-batch is an array of rows.

    plan() gives the micro-batches, once the request's turn has come. send(rows_n) queues one and gives what
    receive(rows_n, pending) waits for. too_large(rows_n) hears of each that did not fit, before its halves are sent.
    result() is asked when all have been received, and is what `done` gets."""

    plan: Callable[[], Iterable[np.ndarray]]
    send: Callable[[np.ndarray], Any]
    receive: Callable[[np.ndarray, Any], None]
    too_large: Callable[[np.ndarray], None]
    result: Callable[[], T]
    done: Future[T] = field(default_factory=Future)


def run(request: Request[T]) -> T:
    """The result of one request alone. Raises ReplicaBroken when a single row does not fit the device alone."""
    buffer = DoubleBuffer()
    buffer.send(request)
    buffer.collect()
    return request.done.result()


class DoubleBuffer:
    """What is queued on one device, for one thread. `send` leaves a request's last micro-batch queued, for the first of
    the next one to be queued behind it.

    What a request raises is its own, and comes from its `done`; others go on. But ReplicaBroken is for all that have
    something queued: nothing more comes from that device."""

    def __init__(self) -> None:
        self._queued: deque[tuple[Request[Any], np.ndarray, Any]] = deque()
        self._sending: Request[Any] | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing is queued."""
        return not self._queued

    def send(self, request: Request[Any]) -> None:
        """Sends all micro-batches of a request, and receives those before the last."""
        self._sending = request
        try:
            todo = deque(request.plan())
            while todo and not request.done.done():
                self._send_first(request, todo)
                self.collect(left=1)
        except Exception as bad:  # noqa: BLE001 - its caller gets it
            self._fail(request, bad)
        self._sending = None
        self._finish(request)

    def collect(self, left: int = 0) -> None:
        """Receives what is queued, oldest first, but for the `left` last ones."""
        while len(self._queued) > left:
            request, rows_n, pending = self._queued.popleft()
            try:
                request.receive(rows_n, pending)
            except Exception as bad:  # noqa: BLE001 - its caller gets it
                self._fail(request, bad)
            self._finish(request)

    def _send_first(self, request: Request[Any], todo: deque[np.ndarray]) -> None:
        rows_n = todo.popleft()
        try:
            self._queued.append((request, rows_n, request.send(rows_n)))
        except DeviceOutOfMemory as error:
            had_company = bool(self._queued)
            self.collect()
            if len(rows_n) > 1:
                request.too_large(rows_n)
                middle = len(rows_n) // 2
                todo.extendleft([rows_n[middle:], rows_n[:middle]])
            elif had_company:  # alone on the device it may fit
                todo.appendleft(rows_n)
            else:
                raise ReplicaBroken(f"not even a single text fits: {error}") from error

    def _finish(self, request: Request[Any]) -> None:
        """If nothing of it is left to send or to receive."""
        if request is self._sending or request.done.done() or any(one is request for one, *_ in self._queued):
            return
        try:
            request.done.set_result(request.result())
        except Exception as bad:  # noqa: BLE001 - its caller gets it
            request.done.set_exception(bad)

    def _fail(self, request: Request[Any], error: Exception) -> None:
        """And forget what of it is queued."""
        failed = {request}
        if isinstance(error, ReplicaBroken):
            failed |= {one for one, *_ in self._queued}
        self._queued = deque(entry for entry in self._queued if entry[0] not in failed)
        for one in failed:
            if not one.done.done():
                one.done.set_exception(error if one is request else ReplicaBroken(str(error)))
