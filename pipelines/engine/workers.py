"""What an engine's processes run: a stage's function, called for items in their wire form. Knows no engine.

A process ends itself when it can do nothing more (ReplicaBroken) or keeps a thread that hangs: the engine starts
another in its place and tries again there what was in hand.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pyarrow as pa

from actors.spec import ReplicaBroken
from pipelines.engine import deadline
from pipelines.engine.stage import Reader, Stage, by_replica, call
from pipelines.engine.wire import ALL_FED, decode, encode, heads, span_from_json

LEAVE_SECONDS = 5.0  # for a process's last answer to reach the driver


class Replica:
    """One actor of a stage's pool, which may be called by `stage.at_once` threads. `node` says where it is.

    What ends the process takes with it the other call in hand, which the engine makes again elsewhere."""

    def __init__(self, stage: Stage, node: Callable[[], str]):
        self._stage = stage
        self._function = stage.make()
        self._process = (node(), os.getpid())

    def __call__(self, batch: pa.Table) -> pa.Table:
        _not_after_a_hang()
        try:
            with deadline.watchdog(self._stage.timeout_seconds):
                items = call(self._stage, self._function, decode(batch))
        except ReplicaBroken as bad:
            # An exception would leave this process in the pool. When it dies Ray starts another in its place and tries
            # its tasks again, a bounded number of times; what is still lost then is narrowed down.
            print(
                f"vectormill: {self._stage.name}: {bad}; this process ends to be replaced", file=sys.stderr, flush=True
            )
            os._exit(1)
        _leave_after_a_hang()
        return encode(by_replica(items, self._process))


def feed_task(take: Callable[[], str | None], batch: pa.Table) -> Iterator[pa.Table]:
    """Spans, as they can be taken; the last is null: nothing more is to come."""
    while True:
        span = take()
        yield heads([span])
        if span is None:
            return


def read_task(read: Reader, timeout_seconds: float | None, batch: pa.Table) -> Iterator[pa.Table]:
    _not_after_a_hang()
    for span in batch["span"].to_pylist():
        if span is None:
            yield encode([ALL_FED])
            return
        items = read(span_from_json(span))
        while True:
            with deadline.watchdog(timeout_seconds):
                item = next(items, None)
            if item is None:
                break
            yield encode([item])
    _leave_after_a_hang()


def stage_task(stage: Stage, batch: pa.Table) -> pa.Table:
    _not_after_a_hang()
    with deadline.watchdog(stage.timeout_seconds):
        done = encode(call(stage, stage.make(), decode(batch)))
    _leave_after_a_hang()
    return done


def _leave_after_a_hang() -> None:
    """End this process, which keeps a thread that hangs, when its answer has gone out."""
    if deadline.given_up():
        leave = threading.Timer(LEAVE_SECONDS, os._exit, (1,))
        leave.daemon = True
        leave.start()


def _not_after_a_hang() -> None:
    """Begin nothing in a process that is about to end: the engine tries the call again in another."""
    if deadline.given_up():
        time.sleep(10 * LEAVE_SECONDS)
        os._exit(1)
