"""Triton's kernels: in its interpreter, or compiled on a GPU where there is one (tests/conftest.py chooses)."""

import importlib.util
import os

import numpy as np
import pytest
import torch

from actors.network.kernels.operations import E4M3
from tests.support.kernels import DEVICE


@pytest.fixture(scope="module")
def triton_kernels():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("a GPU that torch does not see, and TRITON_INTERPRET is not 1")
    from actors.network.kernels import triton

    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            _round_as_hardware_does(patch)
        yield triton


def _round_as_hardware_does(patch: pytest.MonkeyPatch) -> None:
    """The interpreter of triton 3.7 cuts float32 off to bfloat16, and loses the carry when it rounds to e4m3 (just
    below a power of two the result is half as large). So torch rounds in its place."""
    from triton.runtime import interpreter

    formats = {"bf16": (torch.bfloat16, torch.uint16), "fp8e4nv": (E4M3, torch.uint8)}
    honest = interpreter._convert_float

    def convert(values, source, target, mode):
        if str(source) != "fp32" or str(target) not in formats:
            return honest(values, source, target, mode)
        dtype, bits = formats[str(target)]
        return torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype).view(bits).numpy()

    patch.setattr(interpreter, "_convert_float", convert)
