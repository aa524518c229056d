"""What a process is given to read and write, made fit before anything else runs: text in UTF-8 whatever the locale,
and three open descriptors."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from pipelines.errors import ConfigError


class PlainConsole(Console):
    """Rich's, but that it lets a broken pipe be known: its own ends the process with 1 and without a word."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def fit() -> None:
    """Call it first: it may begin the process anew, by Python's UTF-8 mode. In a locale like C with PYTHONUTF8=0 no
    file whose name has other letters could be opened, and a query in them would come in as something else."""
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.ignore_environment and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, sys.orig_argv)
    sys.stdout = sys.stdout or _closed(1)
    sys.stderr = sys.stderr or _closed(2)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what an encoding cannot hold is spelt out: \u91cf
            stream.reconfigure(errors="backslashreplace")


def _closed(number: int) -> io.TextIOWrapper:
    """In place of a descriptor that was closed: writing to it fails, as it should, but no file that is opened later
    gets its number, and with it what engines write natively."""
    descriptor = os.open(os.devnull, os.O_RDONLY if number == 1 else os.O_WRONLY)
    if descriptor != number:
        os.dup2(descriptor, number)
        os.close(descriptor)
    return io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", errors="backslashreplace")


def refuse_other_than_utf8(arguments: Sequence[str]) -> None:
    """Raises ConfigError for an argument that is not UTF-8: Python holds its bytes as lone surrogates."""
    for number, text in enumerate(arguments, 1):
        if not is_text(text):
            raise ConfigError(f"argument {number}, {text!a}, is not valid UTF-8: give it in UTF-8")


def is_text(value: str) -> bool:
    """Whether it can be written down: no lone surrogates."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
