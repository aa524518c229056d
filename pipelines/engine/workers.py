"""What an engine's processes run: a stage's function, called for parcels in their wire form. Knows no engine.

A process ends itself when it can do nothing more (ReplicaBroken) or keeps a thread that hangs: the engine starts
another in its place and tries again there what was in hand.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pyarrow as pa

from actors.spec import ReplicaBroken
from pipelines.engine import deadline
from pipelines.engine.stage import Reader, StageFunction, call
from pipelines.engine.wire import decode, encode, span_from_json

LEAVE_SECONDS = 5.0  # for a process's last answer to reach the driver


class Replica:
    """One actor of a stage's pool. `node` says where it is."""

    def __init__(
        self, name: str, make: Callable[[], StageFunction], timeout_seconds: float | None, node: Callable[[], str]
    ):
        self._name = name
        self._function = make()
        self._timeout_seconds = timeout_seconds
        self._label = f"replica:{node()}:{os.getpid()}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        _not_after_a_hang()
        try:
            with deadline.or_exit(self._timeout_seconds):
                parcels = call(self._name, self._function, decode(batch), self._timeout_seconds)
        except ReplicaBroken as bad:
            # An exception would leave this process in the pool. When it dies Ray starts another in its place and tries
            # its tasks again, a bounded number of times; what is still lost then is narrowed down.
            print(f"vectormill: {self._name}: {bad}; this process ends to be replaced", file=sys.stderr, flush=True)
            os._exit(1)
        _leave_after_a_hang()
        return encode([replace(parcel, counts={**parcel.counts, self._label: 1}) for parcel in parcels])


def read_task(read: Reader, timeout_seconds: float | None, batch: pa.Table) -> Iterator[pa.Table]:
    _not_after_a_hang()
    for span in batch["span"].to_pylist():
        parcels = read(span_from_json(span))
        while True:
            with deadline.or_exit(timeout_seconds):
                parcel = next(parcels, None)
            if parcel is None:
                break
            yield encode([parcel])
    _leave_after_a_hang()


def task(name: str, make: Callable[[], StageFunction], timeout_seconds: float | None, batch: pa.Table) -> pa.Table:
    _not_after_a_hang()
    with deadline.or_exit(timeout_seconds):
        done = encode(call(name, make(), decode(batch), timeout_seconds))
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
