"""Retry with backoff, above what the client libraries do by themselves.

    call ──fails──> translate ──> StoreUnavailable ──> a line in the log, a pause, the call again; in the end given up
                              └─> any other error: at once

The libraries try a request a few times within seconds (the bounds are in clients.py); that they do not say. What they
give up is tried again here: each time from the beginning, at most ATTEMPTS times within PATIENCE_SECONDS, with
growing pauses, jittered so that a thousand workers do not come back at the same moment.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from pipelines.errors import StoreUnavailable, VectormillError
from pipelines.storage.faults import NEVER_REACHED, STORE_ERRORS, translate

T = TypeVar("T")

ATTEMPTS = 10
PATIENCE_SECONDS = 240.0  # no attempt begins later than this after the first one began
PAUSE_SECONDS = 0.5  # before the second attempt; doubled before each further one
PAUSE_SECONDS_MAX = 30.0

log = logging.getLogger("vectormill.retries")


class Backoff:
    """Counts the attempts at one thing. what: it, in words that name unit or file; no text of the corpus.

    first_contact: a server that cannot be reached at all is not waited for. tried_again: how often for which fault."""

    def __init__(self, what: str, uri: str, first_contact: bool = False):
        self._what = what
        self._uri = uri
        self._first_contact = first_contact
        self._made = 0
        self._began = time.monotonic()
        self.tried_again: Counter[str] = Counter()

    def failed(self, error: BaseException) -> None:
        """Say that the attempt failed and wait for the next; raises what `error` means if there shall be none."""
        failure = translate(error, self._uri)
        self._made += 1
        if not isinstance(failure, StoreUnavailable):
            raise failure from error
        if self._first_contact and failure.fault.startswith(NEVER_REACHED):
            raise failure from error
        pause = min(PAUSE_SECONDS * 2 ** (self._made - 1), PAUSE_SECONDS_MAX) * random.uniform(0.5, 1.0)
        spent = time.monotonic() - self._began
        if self._made >= ATTEMPTS or spent + pause > PATIENCE_SECONDS:
            gave_up = f"{failure} (given up: {self._what}, attempt {self._made}, {spent:.0f} s after the first)"
            raise StoreUnavailable(gave_up, failure.fault) from error
        log.warning(
            "retry: %s: %s, attempt %d of %d; the next in %.1f s",
            *(self._what, failure.fault, self._made, ATTEMPTS, pause),
        )
        self.tried_again[failure.fault] += 1
        time.sleep(pause)

    def run(self, call: Callable[[], T]) -> T:
        """`call()`, tried again from its beginning while the store is unavailable. Raises what `translate` gives."""
        while True:
            try:
                return call()
            except (*STORE_ERRORS, VectormillError) as bad:
                self.failed(bad)


def with_backoff(what: str, uri: str, call: Callable[[], T], first_contact: bool = False) -> T:
    """`Backoff.run` for those who need not know how often."""
    return Backoff(what, uri, first_contact).run(call)
