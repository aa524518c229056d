"""What BERT's kind does between its matrix products: against the formula in float64, and Triton's against torch's."""

from pathlib import Path

import numpy as np
import pytest
import torch

from actors.network import attention
from actors.network.kernels import plain
from actors.network.network import load_network
from tests.support.encoders import drawn, recipe_of, write
from tests.support.kernels import DEVICE, EXACT, WIDTHS, close, rows, weight_of
from tests.support.varlen import varlen_of_torch_2_13

EPSILONS = (1e-12, 1e-5, 0.5)
Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def parts(width: int, dtype: torch.dtype) -> Parts:
    """x, bias, weight and shift."""
    weight = weight_of(width, dtype)
    return rows(width, dtype), weight.flip(0).contiguous(), weight, (weight * 0.3).roll(1)


def normed(x: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double() + bias.double()
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double() + shift.double()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("eps", EPSILONS)
def test_torch_norms(width: int, eps: float) -> None:
    given = parts(width, torch.float32)
    wanted = normed(*given, eps)
    found = plain.bias_norm(given[0].clone(), *given[1:], eps)
    torch.testing.assert_close(found.double(), wanted, rtol=EXACT * 2, atol=EXACT * 2)


def test_rounded_once_at_the_end() -> None:
    given = parts(100, torch.bfloat16)
    assert torch.equal(plain.bias_norm(given[0].clone(), *given[1:], 1e-5), normed(*given, 1e-5).float().bfloat16())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_triton_norms(triton_kernels, dtype: torch.dtype, width: int) -> None:
    for eps in EPSILONS:
        given = parts(width, dtype)
        found = triton_kernels.bias_norm(given[0].clone(), *given[1:], eps)
        close(found, plain.bias_norm(given[0].clone(), *given[1:], eps))


def test_triton_takes_no_layout_that_it_would_misread(triton_kernels) -> None:
    wide, weight = rows(64), weight_of(32, torch.float32)
    with pytest.raises(AssertionError):
        triton_kernels.bias_norm(wide[:, :32], weight, weight, weight, 1e-5)


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1 - 1e-10), ("bfloat16", 0.9995)])
def test_the_whole_forward_pass_of_a_gpu(
    triton_kernels, dtype: str, least: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's norm around the variable-length attention (emulated where there is no GPU): layouts and strides fit."""
    folder = write(tmp_path, drawn("bert", hidden_size=96, num_attention_heads=3))
    lengths = np.array([5, 1, 33, 33])
    ids = np.random.default_rng(0).integers(0, 300, lengths.sum())
    if DEVICE == "cpu":
        monkeypatch.setattr(attention, "varlen_function", lambda: varlen_of_torch_2_13)
    found = []
    for chosen in (plain, triton_kernels):
        monkeypatch.setattr("actors.network.encoder.choose", lambda device, chosen=chosen: chosen)
        network = load_network(folder, recipe_of("bert"), DEVICE, dtype)
        network._varlen = chosen is triton_kernels and (DEVICE == "cpu" or dtype != "float32")
        with torch.inference_mode():
            found.append(network.pooled(ids, lengths).double())
    assert torch.cosine_similarity(*found).min() >= least
