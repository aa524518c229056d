"""Triton's kernels against torch's, and compiled for NVIDIA GPUs, which needs no GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.network import attention
from actors.network.kernels import plain
from actors.network.kernels.operations import E4M3, Heads, Quantised
from actors.network.network import Qwen3Network
from tests.support.kernels import DEVICE, EPS, WIDTHS, close, rotation, rows, weight_of
from tests.support.qwen3 import SMALL, filled
from tests.support.varlen import varlen_of_torch_2_13

DTYPES = [torch.float32, torch.bfloat16]
GATES = [1, 100, 1024, 1500]  # on both sides of the columns that one program multiplies


def close_8(found: Quantised, wanted: Quantised) -> None:
    """Scales equal; values to one step of e4m3, and that rarely."""
    assert found.values.dtype == E4M3
    assert found.scale.shape == wanted.scale.shape == (len(found.values), 1)
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)
    steps = (_ordered(found.values) - _ordered(wanted.values)).abs()
    assert steps.max() <= 1
    assert (steps > 0).float().mean() < 0.02


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """The place of each value among all of its format."""
    bits = values.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_norms(triton_kernels, dtype: torch.dtype, width: int) -> None:
    x, weight = rows(width, dtype), weight_of(width, dtype)
    before = x.clone()
    for eps in (EPS, 0.5):
        close(triton_kernels.rms_norm(x, weight, eps), plain.rms_norm(x, weight, eps))
        close_8(triton_kernels.rms_norm_8(x, weight, eps), plain.rms_norm_8(x, weight, eps))
    assert torch.equal(x, before)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_adds_then_norms(triton_kernels, dtype: torch.dtype, width: int) -> None:
    """The sum, which later layers read, in every bit; and the norm of it, not of what was rounded away."""
    x, addend, weight = rows(width, dtype), rows(width, dtype).flip(0) * 3, weight_of(width, dtype)
    for eps in (EPS, 0.5):
        wanted, found = x.clone(), x.clone()
        in_8_bits = plain.add_rms_norm_8(wanted, addend, weight, eps)
        close_8(triton_kernels.add_rms_norm_8(found, addend, weight, eps), in_8_bits)
        assert torch.equal(found, wanted)
        assert torch.equal(found, x + addend)
        close_8(triton_kernels.rms_norm_8(found, weight, eps), in_8_bits)


@pytest.mark.parametrize("size", [2, 16, 64, 128])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (2, 1), (4, 4), (16, 8), (5, 3), (3, 0), (0, 5)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_rotates_its_slice_and_nothing_beside_it(
    triton_kernels, dtype: torch.dtype, queries: int, keys: int, size: int
) -> None:
    """Queries and keys lie side by side in one product of q, k and v, and each have a norm of their own."""
    heads, beside = queries + keys, 2
    whole = rows((heads + beside) * size, dtype).unflatten(1, (heads + beside, size))
    wanted, weights, turn = whole.clone(), weight_of(2 * size, dtype).unflatten(0, (2, size)), rotation(7, size)
    plain.norm_rope_(Heads(wanted[:, 1 : heads + 1], queries), weights, EPS, turn)
    found = whole.clone()
    triton_kernels.norm_rope_(Heads(found[:, 1 : heads + 1], queries), weights, EPS, turn)
    close(found[:, 1 : heads + 1], wanted[:, 1 : heads + 1])
    for untouched in (slice(0, 1), slice(heads + 1, None)):
        assert torch.equal(found[:, untouched], whole[:, untouched])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's word for sigmoid(-200) = 0
@pytest.mark.parametrize("width", GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_gates(triton_kernels, dtype: torch.dtype, width: int) -> None:
    gate_up = rows(2 * width, dtype)
    gate_up[5, :width], gate_up[6, :width] = -200, 200
    close(triton_kernels.silu_mul(gate_up), plain.silu_mul(gate_up))
    close_8(triton_kernels.silu_mul_8(gate_up), plain.silu_mul_8(gate_up))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_quantises(triton_kernels, dtype: torch.dtype, width: int) -> None:
    x = rows(width, dtype)
    found = triton_kernels.quantise(x)
    close_8(found, plain.quantise(x))
    assert found.values[1].float().eq(0).all(), "a row of zeros stays zeros"


def test_triton_takes_no_layout_that_it_would_misread(triton_kernels) -> None:
    wide, weight = rows(64), weight_of(32, torch.float32)
    cut, of_16 = Heads(wide.unflatten(1, (2, 32))[..., :16], 1), Heads(wide.unflatten(1, (4, 16)), 2)
    of_12 = Heads(wide[:, :60].reshape(7, 5, 12), 3)
    for refused in (
        lambda: triton_kernels.rms_norm(wide[:, :32], weight, EPS),
        lambda: triton_kernels.rms_norm_8(wide[:, :32], weight, EPS),
        lambda: triton_kernels.silu_mul(wide[:, :32]),
        lambda: triton_kernels.silu_mul_8(wide[:, :32]),
        lambda: triton_kernels.quantise(wide[:, :32]),
        lambda: triton_kernels.add_rms_norm_8(wide[:, :32], rows(32), weight, EPS),
        lambda: triton_kernels.add_rms_norm_8(rows(32), wide[:, :32], weight, EPS),
        lambda: triton_kernels.add_rms_norm_8(rows(32), rows(32)[:1], weight, EPS),
        lambda: triton_kernels.norm_rope_(cut, weight.unflatten(0, (2, 16)), EPS, rotation(7, 16)),
        lambda: triton_kernels.norm_rope_(of_12, weight[:24].unflatten(0, (2, 12)), EPS, rotation(7, 12)),
        lambda: triton_kernels.norm_rope_(of_16, weight[:16], EPS, rotation(7, 16)),
    ):
        with pytest.raises(AssertionError):
            refused()


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1 - 1e-10), ("bfloat16", 0.9995), ("float8", 0.998)])
def test_the_whole_forward_pass_of_a_gpu(
    triton_kernels, dtype: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's kernels around the variable-length attention (emulated where there is no GPU): layouts and strides fit,
    and the vectors are those of torch's kernels."""
    weights = filled(replace(SMALL, layers=2, hidden=96, heads=6, kv_heads=2), dtype, 0.05, DEVICE)
    if dtype == "float8":
        weights.to_8_bits()
    lengths = np.array([5, 1, 6, 6])
    ids = np.random.default_rng(0).integers(0, SMALL.vocabulary, lengths.sum())
    if DEVICE == "cpu":
        monkeypatch.setattr(attention, "varlen_function", lambda: varlen_of_torch_2_13)
    found = []
    for chosen in (plain, triton_kernels):
        monkeypatch.setattr("actors.network.qwen3.choose", lambda device, chosen=chosen: chosen)
        network = Qwen3Network(weights, varlen=chosen is triton_kernels and (DEVICE == "cpu" or dtype != "float32"))
        with torch.inference_mode():
            found.append(network.pooled(ids, lengths).double())
    assert torch.cosine_similarity(*found).min() >= least


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_kernel_compiles_with_wide_accesses_and_spills_nothing():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parents[4]
    command = [sys.executable, "-m", "tests.support.compile_kernels"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    in_8_bits = {"_add_rms_norm_8", "_silu_mul_8", "_quantise"}
    for capability in (75, 80, 86, 89, 90, 100, 120):
        expected = {"_rms_norm", "_norm_rope", "_silu_mul", "_bias_norm"} | (in_8_bits if capability >= 89 else set())
        assert {one["kernel"] for one in found if one["capability"] == capability} == expected
    for one in found:
        assert one["widest_access_bits"] == 128, one
        assert one["spilled_bytes"] == 0, one
        assert one["registers"] <= 128, one
