"""The one thread that a replica's model lives in, and the requests that wait for it.

OpenMP keeps a team of workers for each thread that calls it, and two teams on the same cores stop spinning: built in
one thread and called from another (as engines do), MiniLM kept 1.4 of 2 cores busy instead of 1.9 and took 1.35 times
as long. And with two calls at a time the work around the model is done by the calls' own threads while the device is
busy with the other: the device goes from the last micro-batch of one to the first of the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from actors.device.double_buffered import DoubleBuffer, Request

M = TypeVar("M")
T = TypeVar("T")


class ModelThread(Generic[M]):
    """`model` is what `make` gives, in the thread. Raises what `make` raises."""

    def __init__(self, make: Callable[[], M]) -> None:
        self._todo: SimpleQueue[Request[Any] | None] = SimpleQueue()
        self._clock = _Clock()
        made: Future[M] = Future()
        threading.Thread(target=_serve, args=(make, made, self._todo), daemon=True, name="model").start()
        self.model = made.result()

    def call(self, request: Request[T], turns: list[Turn] | None = None) -> T:
        """The result of a request; any thread may call. Requests have their turns in the order of their calls.

        turns: gets the request's, before it begins. Raises what the request raises, and ReplicaBroken when the device
        failed on another one."""
        turn = Turn(self._clock)
        if turns is not None:
            turns.append(turn)

        during = partial(partial, self._clock.during, turn)
        timed = replace(
            request,
            plan=during(request.plan),
            send=during(request.send),
            receive=during(request.receive),
            result=during(request.result),
        )
        self._todo.put(timed)
        try:
            return request.done.result()
        finally:
            turn.end()

    def do(self, function: Callable[[], T], turns: list[Turn] | None = None) -> T:
        """What the function gives, in the thread and in its turn: for work that has no micro-batches of its own."""
        return self.call(Request(tuple, _nothing, _nothing, _nothing, result=function), turns)

    def __del__(self) -> None:
        self._todo.put(None)


class Turn:
    """A request's time: of the thread that works on it, and on others while it waits."""

    def __init__(self, clock: _Clock) -> None:
        self._clock = clock
        self._begun = clock.busy()
        self._ended: float | None = None
        self.own = 0.0  # of what is over; the clock's

    def end(self) -> None:
        """Nothing more is asked of the thread."""
        self._ended = self._clock.busy()

    def worked(self) -> float:
        """Seconds that the thread has worked on it so far."""
        return self.own + self._clock.running(self)

    def waited(self) -> float:
        """Seconds until its end that the thread has worked on others."""
        with self._clock.lock:
            busy = self._clock.busy() if self._ended is None else self._ended
            return busy - self._begun - self.worked()


class _Clock:
    """What a thread has worked on, and for how long."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._over = 0.0
        self._now: tuple[Turn, float] | None = None  # and since when

    def during(self, turn: Turn, function: Callable[..., T], *arguments: Any) -> T:
        """What the function gives; its time is the turn's."""
        with self.lock:
            self._now = (turn, time.perf_counter())
        try:
            return function(*arguments)
        finally:
            with self.lock:
                spent = self.running(turn)
                self._over += spent
                turn.own += spent
                self._now = None

    def busy(self) -> float:
        """Seconds of work in all."""
        with self.lock:
            return self._over + (time.perf_counter() - self._now[1] if self._now else 0.0)

    def running(self, turn: Turn) -> float:
        """Seconds of what is not over and is the turn's."""
        with self.lock:
            return time.perf_counter() - self._now[1] if self._now and self._now[0] is turn else 0.0


def _nothing(*_: Any) -> None:
    """There is no micro-batch."""


def _serve(make: Callable[[], M], made: Future[M], todo: SimpleQueue[Request[Any] | None]) -> None:
    try:
        made.set_result(make())
    except BaseException as bad:  # noqa: BLE001 - handed to the thread that waits
        made.set_exception(bad)
        return
    del make, made  # the model ends with its replica
    buffer = DoubleBuffer()
    while _one_more(todo, buffer):
        pass


def _one_more(todo: SimpleQueue[Request[Any] | None], buffer: DoubleBuffer) -> bool:
    """A function of its own, so that no request is held while the next is waited for."""
    try:
        request = todo.get(block=buffer.empty)
    except Empty:
        buffer.collect()
        return True
    if request is not None:
        buffer.send(request)
    return request is not None
