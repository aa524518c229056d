"""Which module computes the operations on a device.

Triton compiles at the first launch, not at its import: then it wants a C compiler, Python's headers, the driver's
libcuda and a folder for what it compiled. So one tiny kernel decides, when a model is loaded.
"""

from typing import NamedTuple

import torch

from actors.device import gpu
from actors.device.device import current
from actors.device.refusal import told
from actors.network.kernels import plain
from actors.network.kernels.operations import Kernels

NEEDS = "a C compiler (gcc), Python's headers, the driver's libcuda.so, and a TRITON_CACHE_DIR that can be written"


class Choice(NamedTuple):
    """kernels: what computes. slower: why torch's are taken in place of Triton's; None where they are the best."""

    kernels: Kernels
    slower: str | None


_CHOSEN: dict[str, Choice] = {}


def choose(device: str) -> Kernels:
    """Triton's kernels on CUDA if they work there, else torch's: slower, same numbers. Why not is said once."""
    if device not in _CHOSEN:
        _CHOSEN[device] = _choice(device)
    return _CHOSEN[device].kernels


def chosen(device: str) -> Choice | None:
    """What `choose` gave; None if it was not asked."""
    return _CHOSEN.get(device)


def _choice(device: str) -> Choice:
    if not device.startswith("cuda"):
        return Choice(plain, None)
    try:
        from actors.network.kernels import triton

        check(triton, device)
    except Exception as error:  # noqa: BLE001 - a compiler's, a linker's, a disk's, the driver's, Triton's own
        slower = (
            f"Triton's kernels do not work on {gpu.describe(device)}: {told(error)}. torch's are used, which makes "
            f"Qwen3 1.2 to 1.9 times slower. Triton needs {NEEDS}"
        )
        gpu.say_once(slower)
        return Choice(plain, slower)
    return Choice(triton, None)


def check(kernels: Kernels, device: str) -> None:
    """One tiny kernel, and its numbers. Raises what it raises, ArithmeticError if they are wrong."""
    with current(device):
        x = torch.arange(1.0, 17.0, device=device)[None]
        weight = torch.ones(16, device=device)
        if not torch.allclose(kernels.rms_norm(x, weight, 1e-6), plain.rms_norm(x, weight, 1e-6), rtol=1e-4):
            raise ArithmeticError("a tiny kernel computes wrong numbers")
