"""What a person sees of a run: a live display on a terminal, one line every 30 seconds without one. A listener of
`pipelines.progress`.

Everything goes to stderr; stdout is for results (`--json`)."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.spec import ModelError
from pipelines.cli.streams import PlainConsole
from pipelines.errors import ConfigError, CorpusError, TableError
from pipelines.progress import Snapshot
from pipelines.storage.retry import log as retries

SECONDS_BETWEEN_LINES = 30.0
MOST_RETRIES_SAID = 50
PLAIN_MISTAKES = (ConfigError, CorpusError, TableError, ModelError)  # what the engine wrote explains none of these


class Display:
    """`quiet` says nothing but errors (the caller prints those)."""

    def __init__(self, quiet: bool = False, seconds_between_lines: float = SECONDS_BETWEEN_LINES):
        self._console = PlainConsole(stderr=True, quiet=quiet)
        self._seconds_between_lines = seconds_between_lines
        self._latest: Snapshot | None = None

    def say(self, message: str) -> None:
        """One line of what happens."""
        stamp = "" if self._console.is_terminal else time.strftime("%H:%M:%S ")
        with contextlib.suppress(OSError):  # a terminal that is gone, a full disk: the run goes on
            self._console.print(f"{stamp}{message}", markup=False, soft_wrap=True)

    def update(self, snapshot: Snapshot) -> None:
        self._latest = snapshot

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Show the latest snapshot until the block ends."""
        if self._console.is_terminal:
            live = Live(
                get_renderable=lambda: _panel(self._latest) if self._latest else "",
                console=self._console,
                refresh_per_second=4,
                redirect_stdout=False,  # rich would print what the engine writes above the panel
                redirect_stderr=False,
            )
            try:
                with contextlib.suppress(OSError):
                    live.start()
                yield
            finally:
                with contextlib.suppress(OSError):  # the terminal is gone: what the run does at its end must be done
                    live.stop()
            return
        stop = threading.Event()

        def lines() -> None:
            while not stop.wait(self._seconds_between_lines):
                self._say_latest()

        printer = threading.Thread(target=lines, daemon=True, name="progress")
        printer.start()
        try:
            yield
        finally:
            stop.set()
            printer.join()
            self._say_latest()

    def _say_latest(self) -> None:
        if self._latest is not None:
            self.say(line(self._latest))

    @contextlib.contextmanager
    def engine_output(self) -> Iterator[None]:
        """Keep what Ray and Lance write to stdout and stderr, natively or not, off the terminal and out of `--json`.

        It goes to a file without a name, which gets one when the block ends in an error that the engine may explain;
        quiet or not, that name is said. Our own lines still reach the terminal."""
        terminal, old_file = [os.dup(1), os.dup(2)], self._console.file
        _flush()
        self._console.file = os.fdopen(os.dup(2), "w", 1, sys.stderr.encoding, "backslashreplace")
        with tempfile.TemporaryFile("w+b") as log, _said(self):
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            try:
                yield
            except PLAIN_MISTAKES:
                raise
            except Exception:
                _flush()
                if name := _kept(log):
                    with contextlib.suppress(OSError):
                        said = PlainConsole(file=self._console.file)
                        said.print(f"what the engine wrote is in {name}", soft_wrap=True)
                raise
            finally:
                _flush()
                with contextlib.suppress(OSError):
                    self._console.file.close()
                self._console.file = old_file
                for number, descriptor in enumerate(terminal, 1):
                    os.dup2(descriptor, number)
                    os.close(descriptor)


class _Retries(logging.Handler):
    """Says what is tried again, up to a bound: a store that fails for an hour must not fill a disk with lines."""

    def __init__(self, display: Display):
        super().__init__()
        self._display = display
        self._said = 0

    def emit(self, record: logging.LogRecord) -> None:
        self._said += 1
        if self._said <= MOST_RETRIES_SAID:
            self._display.say(record.getMessage())
        if self._said == MOST_RETRIES_SAID:
            self._display.say("retry: further ones are not said; the run record counts those of the workers")


@contextlib.contextmanager
def _said(display: Display) -> Iterator[None]:
    handler = _Retries(display)
    retries.addHandler(handler)
    try:
        yield
    finally:
        retries.removeHandler(handler)


def _kept(log: IO[bytes]) -> str | None:
    """The name of a file with what was written to `log`; None if that is nothing."""
    log.seek(0)
    if not os.fstat(log.fileno()).st_size:
        return None
    with tempfile.NamedTemporaryFile("wb", prefix="vectormill-engine-", suffix=".log", delete=False) as kept:
        shutil.copyfileobj(log, kept)
    return kept.name


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def line(snapshot: Snapshot) -> str:
    """The state of a run in one line."""
    done = snapshot.rows_before + snapshot.rows_committed
    share = done / snapshot.rows_total if snapshot.rows_total else 1.0
    parts = [
        f"{done:,} of {snapshot.rows_total:,} rows in the table ({share:.0%})",
        f"{snapshot.units_before + snapshot.units_committed:,} of {snapshot.units_total:,} units",
        f"{snapshot.tokens_per_second:,.0f} tokens/s",
        f"{_replicas(snapshot)} replica(s)",
        f"{snapshot.commits:,} commits",
    ]
    if snapshot.bad_rows:
        parts.append(f"{snapshot.bad_rows:,} bad")
    if snapshot.failures:
        parts.append(f"{snapshot.failures:,} units failed")
    if snapshot.seconds_left and done < snapshot.rows_total:
        parts.append(f"{duration(snapshot.seconds_left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """`75` as `1 min 15 s`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _replicas(snapshot: Snapshot) -> str:
    grows = snapshot.replicas_max > snapshot.replicas
    return f"{snapshot.replicas} to {snapshot.replicas_max}" if grows else f"{snapshot.replicas}"


def _panel(snapshot: Snapshot) -> Group:
    written = snapshot.rows_before + snapshot.rows_written
    total = max(snapshot.rows_total, 1)
    grid = Table.grid(padding=(0, 2))
    cells = [
        ("rows", f"{written:,} of {snapshot.rows_total:,}"),
        ("in the table", f"{snapshot.rows_before + snapshot.rows_committed:,}"),
        ("units", f"{snapshot.units_before + snapshot.units_committed:,} of {snapshot.units_total:,}"),
        ("tokens/s", f"{snapshot.tokens_per_second:,.0f}"),
        ("replicas", _replicas(snapshot)),
        ("commits", f"{snapshot.commits:,}"),
        ("bad rows", f"{snapshot.bad_rows:,}"),
        ("failed units", f"{snapshot.failures:,}"),
    ]
    if snapshot.failures == 0:
        cells.pop()
    grid.add_row(*[Text(name, style="dim") for name, _ in cells])
    grid.add_row(*[Text(value, style="bold") for _, value in cells])
    if not snapshot.working or not snapshot.rows_written:
        left = "starting the replicas and the first units"
    else:
        left = f"{duration(snapshot.seconds_left or 0)} left"
    top = Table.grid(padding=(0, 2))
    top.add_row(ProgressBar(total=total, completed=written, width=40), f"{written / total:.0%}", left)
    return Group(top, grid)
