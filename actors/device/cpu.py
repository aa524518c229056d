"""What this machine's CPU is good at."""

import functools
import time

import torch

TOKENS, WIDTH = 512, 1024  # of the product that is timed: about 10 ms on a slow core
ROUNDS = 5
LEAST_GAIN = 1.3  # below it the rounding is not worth it


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether matrix products in bfloat16 are clearly faster here than in float32, by timing both, once a process.

    CPUs with avx512_bf16 or AMX gain 2 to 5 times; on others torch emulates bfloat16 and can be 100 times slower, so
    they are not even timed.
    """
    return _supports_bfloat16() and _seconds(torch.float32) > LEAST_GAIN * _seconds(torch.bfloat16)


def _supports_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    torch.nn.functional.linear(x, w)
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        torch.nn.functional.linear(x, w)
        found.append(time.perf_counter() - begin)
    return min(found)
