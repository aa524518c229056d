"""The checks of kernels and attention find what is wrong, and let through what is not."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.network import attention as packed_attention
from actors.network.kernels import plain
from benchmarks.gpu import kernels, paths
from benchmarks.gpu.inputs import INPUTS

torch.set_num_threads(1)


def fast_is(monkeypatch, module):
    monkeypatch.setattr(paths, "fast", lambda device: module)


@pytest.mark.parametrize("name", INPUTS)
def test_tritons_kernels_take_the_arguments(monkeypatch, name):
    """In Triton's interpreter, on the very arguments that a GPU will get. Its rounding to 8 bits loses carries: there
    the error is 0.07, which a GPU would not be let through with."""
    triton = pytest.importorskip("actors.network.kernels.triton")
    monkeypatch.setattr(kernels, "TOKENS_DRY", 3)
    monkeypatch.setattr(kernels, "timed", lambda call, where, times: 1e-6)
    fast_is(monkeypatch, triton)
    found = kernels.kernel(True, name)
    assert found["module"] == "actors.network.kernels.triton"
    assert found["error"] < 0.1


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_a_wrong_kernel_does_not_pass(monkeypatch, name, factor):
    """Wrong in what it returns, or in what it leaves in its argument."""
    right = getattr(plain, name)

    def wrong(*given):
        result = right(*given)
        if result is None:
            first = given[0] if isinstance(given[0], torch.Tensor) else given[0][0]
            first.mul_(factor)
            return None
        return result._replace(scale=result.scale * factor) if isinstance(result, tuple) else result * factor

    fast_is(monkeypatch, SimpleNamespace(**{name: wrong}))
    monkeypatch.setattr(kernels, "timed", lambda call, where, times: 1e-6)
    assert not kernels.kernel(True, name)["right"]


def by_equal_lengths(qkv, packing, causal, reach, scale):
    lengths = [np.diff(ends.numpy()).astype(np.int64) for ends in (packing.cu_queries, packing.cu_keys)]
    runs = packed_attention.pack_queries(*lengths, None, "cpu", False)
    return packed_attention._by_equal_lengths(qkv, runs, causal, reach, scale)


@pytest.fixture
def varlen(monkeypatch):
    """Puts an attention in place of torch's variable-length one, which no CPU has."""
    monkeypatch.setattr(kernels, "packing", lambda dry, queries, keys, varlen: packed_attention.pack_queries(
        queries, keys, None, "cpu", varlen
    ))  # fmt: skip
    return lambda function: monkeypatch.setattr(packed_attention, "_varlen", function)


@pytest.mark.parametrize("kind", ["causal", "two-way"])
def test_a_right_attention_passes(varlen, kind):
    varlen(by_equal_lengths)
    found = kernels.attention(True, kind)
    assert found["right"]
    assert len(found["errors"]) == 4


@pytest.mark.parametrize("kind", ["causal", "two-way"])
def test_an_attention_that_sees_too_much_does_not_pass(varlen, kind):
    varlen(lambda qkv, packing, causal, reach, scale: by_equal_lengths(qkv, packing, not causal, None, scale))
    assert not kernels.attention(True, kind)["right"]


def test_an_attention_that_raises_says_for_which_shapes(varlen):
    def raises(qkv, packing, causal, reach, scale):
        if qkv[0].shape[1] == 32:
            raise RuntimeError("no kernel image")
        return by_equal_lengths(qkv, packing, causal, reach, scale)

    varlen(raises)
    with pytest.raises(RuntimeError, match=r"\(32, 8, 128\), all ask, \(32, 8, 128\), last ask: .*no kernel image"):
        kernels.attention(True, "causal")
