"""The shell around every command: what goes wrong ends in one message, an exit code and, with --json, one object."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from pipelines.cli.output import end, fail
from pipelines.cli.signals import leave, listen, on_signal
from pipelines.cli.streams import fit, refuse_other_than_utf8

# What the parser raises. Typer brings its own copy of click, which has no public name for it.
UsageError = cast(type[Exception], typer.BadParameter.__base__)


class _InItsPlace(Exception):
    """Carries what Typer would make an exit code of its own of, without a word, past it."""


class Command(TyperGroup):
    """Turns what a user may see into one message and an exit code; Typer would print a traceback, or nothing."""

    def main(self, *none: Any, **options: Any) -> NoReturn:
        """`args`: the words after the command's name; this process's own where there are none."""
        args: list[str] = list(sys.argv[1:] if options.get("args") is None else options["args"])
        as_json = "--json" in args[: args.index("--") if "--" in args else None]
        try:
            refuse_other_than_utf8(args)
            code = super().main(*none, **{**options, "args": args, "standalone_mode": False})
        except UsageError as bad:
            bad.show()  # type: ignore[attr-defined]
            end(bad.format_message(), 2, as_json)  # type: ignore[attr-defined]
        except _InItsPlace as bad:
            fail(bad.__cause__ or bad, as_json)
        except Exception as bad:  # noqa: BLE001 - the outermost place
            fail(bad, as_json)
        if on_signal.stopped:
            fail(on_signal.stopped, as_json)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, OSError) as bad:
            raise _InItsPlace from bad


def run_as_process(work: Callable[[], Any]) -> NoReturn:
    """The whole of a process: `work`, and an orderly end. What `work` returns, if it is a number, is the exit code."""
    fit()
    listen()
    code: object
    try:
        try:
            code = work()
        except (Exception, KeyboardInterrupt) as bad:  # noqa: BLE001 - the outermost place
            fail(bad)
    except SystemExit as finished:
        code = finished.code
    leave(code if isinstance(code, int) else int(code is not None and code is not False))
