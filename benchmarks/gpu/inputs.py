"""What each of Triton's kernels is checked and timed with: the list to extend when there is a new one.

A name is that of the function in actors/network/kernels/triton.py and plain.py; what it returns and what it writes into
its arguments are both compared. Sizes are those of 0.6B. Imports nothing heavy: steps.py makes a step of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.kernels import Random

EPS = 1e-6

INPUTS: dict[str, Callable[[Random], tuple[Any, ...]]] = {
    "rms_norm": lambda random: (random.rows(1024), random.weight(1024), EPS),
    "norm_rope_": lambda random: (random.heads(16, 8, 128), random.weight(2, 128), EPS, random.rotation(128)),
    "silu_mul": lambda random: (random.rows(6144),),
    "bias_norm": lambda random: (random.rows(768), *(random.weight(768) for _ in range(3)), EPS),
    "rms_norm_8": lambda random: (random.rows(1024), random.weight(1024), EPS),
    "add_rms_norm_8": lambda random: (random.rows(1024), random.rows(1024), random.weight(1024), EPS),
    "silu_mul_8": lambda random: (random.rows(6144),),
    "quantise": lambda random: (random.rows(2048),),
}
