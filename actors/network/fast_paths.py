"""Which fast ways a device has: tried before a model relies on them, not believed from imports.

A way that does not work costs speed, not vectors; the slower one is taken, and said.
"""

import numpy as np
import torch

from actors.device import gpu
from actors.device.device import current
from actors.device.refusal import told
from actors.network import attention
from actors.network.kernels import plain
from actors.network.kernels.choose import chosen

EQUAL_LENGTHS = "attention goes by runs of equal lengths, which is slower"

_TRIED: dict[tuple[str, str], str | None] = {}  # why the variable-length kernel does not serve


def variable_lengths(device: str, dtype: str) -> bool:
    """Whether attention goes by the variable-length kernel: on CUDA, in half precision, where it works."""
    if not device.startswith("cuda") or dtype == "float32":
        return False
    if (device, dtype) not in _TRIED:
        _TRIED[device, dtype] = _why_not(device, dtype)
    return _TRIED[device, dtype] is None


def facts(device: str, dtype: str) -> dict[str, str]:
    """What a loaded model computes with, for a run's record. "slower": why it is slower than it could be, if it is."""
    by_length = variable_lengths(device, dtype)
    found = {
        "device": gpu.describe(device),
        "dtype": dtype,
        "attention": "variable lengths" if by_length else "equal lengths",
    }
    slower = [_TRIED.get((device, dtype))]
    if choice := chosen(device):
        found["kernels"] = "torch" if choice.kernels is plain else "triton"
        slower.append(choice.slower)
    if why := ". ".join(filter(None, slower)):
        found["slower"] = why
    return found


def check_variable_lengths(device: str, dtype: str) -> None:
    """The kernel on two short sequences, against one after the other. Raises what it raises, ArithmeticError if the
    numbers are wrong."""
    kind = torch.float16 if dtype == "float16" else torch.bfloat16
    with current(device):
        tokens, heads, size = 5, 2, 64
        values = torch.linspace(-1, 1, tokens * heads * size, device=device).to(kind).view(tokens, heads, size)
        qkv, lengths = (values, values[:, :1], values[:, 1:]), np.array([3, 2])
        found, wanted = (
            attention.attend_packed(qkv, attention.pack(lengths, device, varlen), causal=True)
            for varlen in (True, False)
        )
        if not torch.allclose(found, wanted, atol=2e-2):
            raise ArithmeticError("it computes wrong numbers")


def _why_not(device: str, dtype: str) -> str | None:
    if gpu.capability(device) < gpu.BFLOAT16_FROM:
        why = f"{gpu.describe(device)} has no variable-length attention (it begins at compute capability 8.0)"
    else:
        try:
            check_variable_lengths(device, dtype)
            return None
        except Exception as error:  # noqa: BLE001 - torch's, of a build that lacks the kernel, or CUDA's
            why = f"the variable-length attention does not work on {gpu.describe(device)}: {told(error)}"
    why = f"{why}: {EQUAL_LENGTHS}"
    gpu.say_once(why)
    return why
