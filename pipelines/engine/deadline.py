"""Calls that may hang: each is made in a thread of its own and not waited for any longer than its time.

A thread that hangs cannot be ended, and keeps what it holds. So whoever gets `Hung` says which rows were in hand and
then ends the process (Ray's workers), or the run (the inline engine). Of two calls in one process that need the same
thing the one that has it may hang, and the other only waits: that time is not its own. `watchdog` is for a hang that
does not even let other threads of the process run: it ends the process from outside the interpreter, and nobody learns
why.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pipelines.errors import VectormillError

T = TypeVar("T")

GRACE_SECONDS = 60.0  # after which a process that cannot say that it hangs is ended
_here = threading.local()
_given_up = 0
_watching = threading.Lock()
_watched = 0  # blocks that are being watched


class Hung(VectormillError):
    """A call that took longer than it may."""

    def __init__(self, seconds: float):
        super().__init__(f"not done after {seconds:g} seconds (run.stage_timeout_seconds)")


class _Call:
    """What is to be done, where the answer goes (a queue of its own: a late one reaches nobody), and who says how much
    of the time was not its own."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._answer: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self.not_its_own: list[Callable[[], float]] = []

    def make(self) -> None:
        try:
            self._answer.put((self._work(), None))
        except BaseException as bad:  # noqa: BLE001 - handed to the thread that waits
            self._answer.put((None, bad))

    def answer(self, seconds: float) -> tuple[Any, BaseException | None]:
        """Raises Hung when its own time is up."""
        begun = time.monotonic()
        while (left := seconds + sum(each() for each in self.not_its_own) - (time.monotonic() - begun)) > 0:
            with suppress(Empty):
                return self._answer.get(timeout=left)
        raise Hung(seconds)


class _Helper:
    """A thread that makes one call after the other, for one other thread: always the same, because libraries keep
    teams of threads for each thread that calls them."""

    def __init__(self) -> None:
        self._todo: SimpleQueue[_Call | None] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._todo,), daemon=True, name="stage").start()

    def ask(self, call: _Call) -> None:
        self._todo.put(call)

    def __del__(self) -> None:
        self._todo.put(None)


def _serve(todo: SimpleQueue[_Call | None]) -> None:
    while (asked := todo.get()) is not None:
        _here.call = asked
        asked.make()
        del asked, _here.call  # they hold tables


def not_counting(seconds: Callable[[], float]) -> None:
    """Said by the work of a call, in its thread: of its time, so many seconds were not its own; asked while the call is
    waited for."""
    if hasattr(_here, "call"):
        _here.call.not_its_own.append(seconds)


def call(seconds: float | None, work: Callable[[], T]) -> T:
    """What `work()` gives or raises. Raises Hung when that takes longer than `seconds` of its own; None: however long
    it takes."""
    if seconds is None:
        return work()
    if not hasattr(_here, "helper"):
        _here.helper = _Helper()
    asked = _Call(work)
    _here.helper.ask(asked)
    try:
        result, error = asked.answer(seconds)
    except Hung:
        global _given_up
        _given_up += 1
        del _here.helper  # the next call gets another
        raise
    if error is not None:
        raise error
    return result


def given_up() -> int:
    """How many calls of this process were not waited for: it still has their threads."""
    return _given_up


@contextmanager
def watchdog(seconds: float | None) -> Iterator[None]:
    """The process ends, with the stack of each thread on stderr, if a good deal more than `seconds` pass in which no
    block begins or ends: by a thread that needs no lock of the interpreter. Two blocks at a time may take turns, and so
    have twice as long."""
    if seconds is None:
        yield
        return
    _watch(+1, seconds)
    try:
        yield
    finally:
        _watch(-1, seconds)


def _watch(more: int, seconds: float) -> None:
    """There is one such thread in a process."""
    global _watched
    with _watching:
        _watched += more
        if _watched:
            faulthandler.dump_traceback_later(_watched * seconds + GRACE_SECONDS, exit=True, file=2)
        else:
            faulthandler.cancel_dump_traceback_later()
