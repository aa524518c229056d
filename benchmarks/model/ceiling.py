"""The rate of matrix products that this machine reaches: what a model's arithmetic is measured against.

Burst: ten products at once, on a cool card. Sustained: the same in a loop for seconds, where a GPU at its power limit
lowers its clock. Inputs are random: zeros run faster than any real data.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from actors.network.kernels.plain import quantise

SIZE_CUDA, SIZE_CPU = 8192, 1024
BURST = 10
WARM_UPS = 3


@dataclass(frozen=True)
class Ceiling:
    """FLOP/s of products of two size x size matrices."""

    dtype: str
    size: int
    burst: float
    sustained: float
    sustained_seconds: float


def measure(device: str, dtype: str, seconds: float, size: int | None = None) -> Ceiling:
    """Takes `seconds` and a little more. dtype "float8": e4m3, one scale a row, as the model's own products."""
    size = size or (SIZE_CUDA if device.startswith("cuda") else SIZE_CPU)
    product = _product(device, dtype, size)
    wait = torch.cuda.synchronize if device.startswith("cuda") else _nothing
    for _ in range(WARM_UPS):
        product()
    wait()
    begin = time.perf_counter()
    for _ in range(BURST):
        product()
    wait()
    flop = 2.0 * size**3
    burst = BURST * flop / (time.perf_counter() - begin)
    done, taken = _loop(product, device, seconds)
    return Ceiling(dtype, size, burst, done * flop / taken, round(taken, 2))


def kinds(dtype: str) -> tuple[str, ...]:
    """Which products a model of this dtype is measured against."""
    return ("bfloat16", "float8") if dtype == "float8" else (dtype,)


def _loop(product: Callable[[], Any], device: str, seconds: float) -> tuple[int, float]:
    """Products done, and the seconds they took. On CUDA the next ones are always queued before the last ones end."""
    done, earlier = 0, None
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or not done:
        for _ in range(BURST):
            product()
        done += BURST
        if device.startswith("cuda"):
            event = torch.cuda.Event()
            event.record()
            if earlier is not None:
                earlier.synchronize()
            earlier = event
    if earlier is not None:
        earlier.synchronize()
    return done, time.perf_counter() - begin


def _product(device: str, dtype: str, size: int) -> Callable[[], Any]:
    generator = torch.Generator(device).manual_seed(0)
    kind = torch.bfloat16 if dtype == "float8" else getattr(torch, dtype)
    x, w = (torch.randn(size, size, generator=generator, dtype=kind, device=device) for _ in range(2))
    if dtype != "float8":
        out = torch.empty_like(x)
        return lambda: torch.mm(x, w.t(), out=out)
    x8, w8 = quantise(x), quantise(w)
    scale = w8.scale.t().contiguous()
    return lambda: torch._scaled_mm(
        x8.values,
        w8.values.t(),
        scale_a=x8.scale,
        scale_b=scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def _nothing() -> None:
    pass
