"""Ctrl-C, SIGTERM and SIGHUP: a run stops at once and in order, and the process's exit code says why it ended."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from pipelines.errors import Stopped


class StopSignals:
    """Raises Stopped, and remembers it: raised while Lance is at work it comes back as an error of Arrow, and from a
    call of Ray as a plain KeyboardInterrupt."""

    stopped: Stopped | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> NoReturn:
        self.stopped = Stopped(signum)
        raise self.stopped


on_signal = StopSignals()


def listen() -> None:
    """From here on the three signals raise Stopped; but for a SIGHUP that whoever began this process ignores: nohup
    does, so that it outlives its terminal."""
    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, on_signal)


def leave(code: int) -> NoReturn:
    """End the process with this exit code, also while a thread of the engine is at work. Python's own end would unwind
    that thread inside Lance, which aborts the process: exit code -6 in place of "stopped" or "superseded". Nor may
    Python flush a stdout that takes nothing, which would end in 120."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    if any(thread.daemon for thread in threading.enumerate()):
        os._exit(code)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.exit(code)
    os._exit(code)
