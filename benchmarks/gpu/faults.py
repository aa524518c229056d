"""Faults for the dry run: what must cost its own number and nothing else.

A kernel that raises, in its check and wherever a step would still use it; one whose check takes the process down; an
attention that raises, likewise; a step that never ends; one that takes the process down; one that leaves the device
useless.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks.gpu.steps import Step

RAISING_KERNEL = "silu_mul"
HANGS = "ceilings"
DIES = ("kernel quantise", "check float8")
POISONS = "products 0.6B"
FAILED = (f"kernel {RAISING_KERNEL}", "kernel quantise", "attention causal", HANGS, POISONS, "check float8")
HANG_SECONDS, LIMIT_SECONDS = 3600.0, 3.0


def strike(name: str) -> None:
    """What befalls the step of this name."""
    if name == HANGS:
        time.sleep(HANG_SECONDS)
    if name in DIES:
        os._exit(9)
    if name == POISONS:
        raise RuntimeError("CUDA error: an injected fault")


def shortened(steps: Sequence[Step]) -> list[Step]:
    """The steps, with little time for the one that hangs."""
    return [replace(step, most=LIMIT_SECONDS) if step.name == HANGS else step for step in steps]


def broken(*_: Any) -> Any:
    """In place of a kernel, or of the attention."""
    raise RuntimeError("an injected fault")


class Broken:
    """A module of kernels of which one raises."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return broken if name == RAISING_KERNEL else getattr(self._module, name)
