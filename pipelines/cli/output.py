"""How a command ends: results on stdout, as one JSON object or for people; one message on stderr; an exit code."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console


def fail(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"vectormill: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


def show(as_json: bool, data: dict[str, Any], human: Callable[[Console], None]) -> None:
    """One JSON object, or what `human` prints."""
    if as_json:
        print(json.dumps(_plain(data), default=str, allow_nan=False))
    else:
        human(Console(highlight=False))


def _plain(value: Any) -> Any:
    """JSON knows no NaN, but a relevance may be one: null. Carried values come in a form of their own (values.py)."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def exit_unless(well: bool) -> None:
    if not well:
        raise typer.Exit(1)
