"""The steps of gpu.py: what is run, in which order, with how much time. Imports nothing heavy.

The seconds are limits, about three times what an H200 should need; together they are more than gpu.py may take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """A measurement with a time of its own, in seconds; run(dry) gives what goes into the record."""

    name: str
    seconds: float
    run: Callable[[bool], dict[str, Any]]


def _of(module: str, name: str, *arguments: Any) -> Callable[[bool], dict[str, Any]]:
    """The function of a module that is imported when the step begins."""

    def run(dry: bool) -> dict[str, Any]:
        import importlib

        return getattr(importlib.import_module(f"benchmarks.{module}"), name)(dry, *arguments)

    return run


def _check(name: str, seconds: float, *arguments: Any) -> Step:
    label = " ".join([f"check {name.replace('_', ' ')}", *map(str, arguments)])
    return Step(label, seconds, _of("gpu_checks", name, *arguments))


def _speed(model: str, mix: str, dtype: str, seconds: float) -> Step:
    return Step(f"ours {model} {mix} {dtype}", seconds, _of("gpu_speed", "ours", model, mix, dtype))


def _peers(model: str, seconds: float) -> Step:
    return Step(f"peers {model}", seconds, _of("gpu_speed", "peers", model))


STEPS = [
    Step("machine", 30, _of("gpu_kernels", "machine")),
    Step("check operations", 60, _of("gpu_kernels", "operations")),
    _check("bfloat16", 60),
    _check("float32", 45),
    _check("long_texts", 45),
    _check("generic", 45, "0.6B"),
    _check("generic", 30, "minilm"),
    _check("float8", 45),
    _check("memory", 45),
    _check("reranker", 60),
    Step("ceilings", 45, _of("gpu_speed", "ceilings")),
    _speed("0.6B", "short", "bfloat16", 45),
    _speed("4B", "short", "bfloat16", 45),
    _speed("8B", "short", "bfloat16", 60),
    _speed("0.6B", "mid", "bfloat16", 40),
    _speed("8B", "mid", "bfloat16", 45),
    _speed("0.6B", "long", "bfloat16", 40),
    _speed("4B", "short", "float8", 45),
    _speed("8B", "short", "float8", 60),
    Step("ours 0.6B generic path", 45, _of("gpu_speed", "generic")),
    _peers("0.6B", 90),
    _peers("4B", 90),
    _peers("8B", 100),
    Step("reranker 0.6B", 60, _of("gpu_speed", "reranking")),
    Step("token budgets 0.6B", 40, _of("gpu_speed", "budgets")),
    Step("profile 0.6B", 40, _of("gpu_speed", "profile", "0.6B")),
    Step("profile 8B", 45, _of("gpu_speed", "profile", "8B")),
    _speed("bert-base", "short", "bfloat16", 40),
    _speed("8B", "long", "bfloat16", 45),
]
