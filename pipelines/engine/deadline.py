"""Calls that may hang: each is made in a thread of its own and not waited for any longer than its time.

A thread that hangs cannot be ended, and keeps what it holds. So whoever gets `Hung` says which rows were in hand and
then ends the process (Ray's workers), or the run (the inline engine). `watchdog` is for a hang that does not even let
other threads of the process run: it ends the process from outside the interpreter, and nobody learns why.
"""

from __future__ import annotations

import faulthandler
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pipelines.errors import VectormillError

T = TypeVar("T")

GRACE_SECONDS = 60.0  # after which a process that cannot say that it hangs is ended
_here = threading.local()
_given_up = 0


class Hung(VectormillError):
    """A call that took longer than it may."""

    def __init__(self, seconds: float):
        super().__init__(f"not done after {seconds:g} seconds (run.stage_timeout_seconds)")


class _Helper:
    """A thread that makes one call after the other, for one other thread: always the same, because libraries keep
    teams of threads for each thread that calls them."""

    def __init__(self) -> None:
        self._todo: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=_serve, args=(self._todo,), daemon=True, name="stage").start()

    def ask(self, work: Callable[[], Any], seconds: float) -> tuple[Any, BaseException | None]:
        """Raises queue.Empty when time is up. The answer has a queue of its own: a late one reaches nobody."""
        answer: SimpleQueue[Any] = SimpleQueue()
        self._todo.put((work, answer))
        found: tuple[Any, BaseException | None] = answer.get(timeout=seconds)
        return found

    def __del__(self) -> None:
        self._todo.put(None)


def _serve(todo: SimpleQueue) -> None:
    while (asked := todo.get()) is not None:
        _answer(*asked)
        del asked  # it holds tables


def _answer(work: Callable[[], Any], answer: SimpleQueue) -> None:
    try:
        answer.put((work(), None))
    except BaseException as bad:  # noqa: BLE001 - handed to the thread that waits
        answer.put((None, bad))


def call(seconds: float | None, work: Callable[[], T]) -> T:
    """What `work()` gives or raises. Raises Hung when that takes longer than `seconds`; None: however long it takes."""
    if seconds is None:
        return work()
    if not hasattr(_here, "helper"):
        _here.helper = _Helper()
    try:
        result, error = _here.helper.ask(work, seconds)
    except Empty:
        global _given_up
        _given_up += 1
        del _here.helper  # the next call gets another
        raise Hung(seconds) from None
    if error is not None:
        raise error
    return result


def given_up() -> int:
    """How many calls of this process were not waited for: it still has their threads."""
    return _given_up


@contextmanager
def watchdog(seconds: float | None) -> Iterator[None]:
    """The process ends, with the stack of each thread on stderr, if the block takes a good deal longer than
    `seconds`: by a thread that needs no lock of the interpreter."""
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
