"""Which kernels a device gets."""

import sys

import pytest

from actors.network.kernels import plain
from actors.network.kernels.choose import choose


def test_a_cpu_gets_torch() -> None:
    assert choose("cpu") is plain


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_gets_triton_where_there_is_one(triton_kernels, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(device) is triton_kernels
    monkeypatch.delattr("actors.network.kernels.triton")
    monkeypatch.setitem(sys.modules, "actors.network.kernels.triton", None)
    assert choose(device) is plain


def test_both_have_every_operation(triton_kernels) -> None:
    for name in ("rms_norm", "rms_norm_8", "norm_rope_", "silu_mul", "silu_mul_8", "quantise", "bias_norm"):
        assert callable(getattr(plain, name))
        assert callable(getattr(triton_kernels, name))
