"""How a command ends: results on stdout, as one JSON object or for people; one message on stderr; an exit code."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pyarrow as pa
from rich.console import Console

from actors.spec import ModelError
from pipelines.cli.signals import on_signal
from pipelines.cli.streams import PlainConsole
from pipelines.errors import OutputError, Stopped, VectormillError
from pipelines.storage.faults import shown, translate

SAID = (VectormillError, ModelError, Stopped)  # they have a message for a person, and an exit code
RUN_AGAIN = {1, *(128 + number for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM))}


def show(
    as_json: bool, data: dict[str, Any], human: Callable[[Console], None], wrong: VectormillError | None = None
) -> None:
    """One JSON object, or what `human` prints. wrong: why all is not well, if so; the command then ends with its code.

    Raises OutputError if stdout cannot be written."""
    with _writing():
        if as_json:
            _print_json(data if wrong is None else {**data, **_failure(str(wrong), wrong.exit_code)})
        else:
            human(PlainConsole())
            sys.stdout.flush()
    if wrong is not None:
        sys.exit(wrong.exit_code)


def say(text: str) -> None:
    """A text that is the result. Raises OutputError."""
    with _writing():
        print(text, flush=True)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as bad:
        raise OutputError(
            f"the result cannot be written to stdout: {bad.strerror}. What the command did is done; give stdout a "
            "place that takes it, and run the same command again to see it"
        ) from bad


def fail(error: BaseException, as_json: bool = False) -> NoReturn:
    """One message on stderr, the same as an object on stdout if `as_json`, and the exit code of the error. One that
    nobody foresaw leaves its traceback in a file."""
    why = _meant(error)
    message, code = (str(why), why.exit_code) if why is not None else (_unforeseen(error), 1)
    with contextlib.suppress(OSError, ValueError):  # nobody can read it: the exit code says it alone
        PlainConsole(stderr=True).print(f"vectormill: {message}", markup=False, soft_wrap=True)
    end(message, code, as_json)


def end(message: str, code: int, as_json: bool) -> NoReturn:
    """With the object on stdout, if `as_json`; the message has been said."""
    if as_json:
        with contextlib.suppress(OSError, ValueError):
            _print_json(_failure(message, code))
    sys.exit(code)


def _failure(message: str, code: int) -> dict[str, Any]:
    """retry: whether the same command may do better without anybody's help."""
    return {"error": message, "code": code, "retry": code in RUN_AGAIN}


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(_plain(data), default=str, allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """JSON knows no NaN, but a relevance may be one: null. Carried values come in a form of their own (values.py)."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _meant(error: BaseException) -> Any:
    """The error of ours that this one stands for; None if nobody foresaw it."""
    # A pipe to a process that ended with the run, Lance or Ray may raise its own in place of the stop.
    why = on_signal.stopped or (error.__context__ if isinstance(error.__context__, Stopped) else error)
    if isinstance(why, SAID):
        return why
    if isinstance(why, KeyboardInterrupt):
        return Stopped(signal.SIGINT)
    if isinstance(why, OSError) and why.strerror:  # of a file that is none of the corpus's or the table's
        return translate(why, str(why.filename or "this machine"))
    return None


def _unforeseen(error: BaseException) -> str:
    quotes = isinstance(error, (pa.ArrowException, UnicodeError, KeyError))  # values of the corpus, perhaps
    first = "" if quotes else f": {shown(error)}"
    return f"{type(error).__name__}{first}. Nobody foresaw this{_kept(error)}"


def _kept(error: BaseException) -> str:
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix="vectormill-traceback-", suffix=".log")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(traceback.format_exception(error))
        return f"; the traceback is in {name}, for a report"
    return ""
