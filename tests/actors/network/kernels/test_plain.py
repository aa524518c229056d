"""What Qwen3 does between its matrix products: torch's kernels against formulas in float64."""

import pytest
import torch

from actors.network.kernels import plain
from actors.network.kernels.operations import E4M3, SMALLEST_SCALE, Heads, Quantised, Rotation
from tests.support.kernels import EPS, EXACT, WIDTHS, close, rotation, rows, weight_of

# The formulas, in float64.


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def turned(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """x [T, h, D]: (value i, value i + D/2) is a point of the plane, turned by its token's angle i."""
    half = x.shape[-1] // 2
    angles = torch.complex(turn.cos.double(), turn.sin.double())[turn.positions][:, None]
    points = torch.complex(x[..., :half], x[..., half:]) * angles
    return torch.cat([points.real, points.imag], dim=-1)


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().split(gate_up.shape[-1] // 2, dim=-1)
    return gate / (1 + (-gate).exp()) * up


def undone(x: Quantised) -> torch.Tensor:
    return x.values.double() * x.scale.double()


def near_8(found: Quantised, wanted: torch.Tensor) -> None:
    """Of a value at most 1/16 lost (3 bits behind the point), or half the smallest step; the largest of a row kept."""
    lost = (undone(found) - wanted).abs()
    assert (lost <= wanted.abs() / 16 + found.scale * 2**-10 + 1e-12).all()
    assert (found.values.double().abs().amax(-1)[wanted.abs().amax(-1) > 1e-3] == torch.finfo(E4M3).max).all()
    assert (found.scale >= SMALLEST_SCALE * 0.999).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("eps", [EPS, 0.5])
def test_torch_norms(width: int, eps: float) -> None:
    x, weight = rows(width), weight_of(width, torch.float32)
    torch.testing.assert_close(plain.rms_norm(x, weight, eps).double(), normed(x, weight, eps), rtol=EXACT, atol=EXACT)
    near_8(plain.rms_norm_8(x, weight, eps), normed(x, weight, eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_torch_adds_then_norms(dtype: torch.dtype) -> None:
    """The same bits as an addition of its own, and the norm of what it left."""
    x, addend, weight = rows(200, dtype), rows(200, dtype).flip(0), weight_of(200, dtype)
    wanted = (x.float() + addend.float()).to(dtype)
    found = plain.add_rms_norm_8(x, addend, weight, EPS)
    assert torch.equal(x, wanted)
    near_8(found, normed(wanted, weight, EPS))
    assert all(map(torch.equal, found, plain.rms_norm_8(wanted, weight, EPS)))


@pytest.mark.parametrize("size", [2, 16, 128])
@pytest.mark.parametrize("queries", [0, 2, 3])
def test_torch_rotates(size: int, queries: int) -> None:
    x, weights = rows(3 * size).unflatten(1, (3, size)), weight_of(2 * size, torch.float32).unflatten(0, (2, size))
    weight_of_head = torch.stack([weights[0]] * queries + [weights[1]] * (3 - queries))
    wanted = turned(normed(x, weight_of_head, EPS), rotation(len(x), size))
    plain.norm_rope_(Heads(x, queries), weights, EPS, rotation(len(x), size))
    torch.testing.assert_close(x.double(), wanted, rtol=EXACT, atol=4e-6)


def test_torch_gates_and_quantises() -> None:
    x = rows(200)
    torch.testing.assert_close(plain.silu_mul(x).double(), gated(x), rtol=EXACT, atol=EXACT)
    near_8(plain.silu_mul_8(x), gated(x))
    near_8(plain.quantise(x), x.double())
    assert plain.quantise(x)[1][1].item() == pytest.approx(SMALLEST_SCALE)


def test_rounded_once_at_the_end() -> None:
    """What is computed in bfloat16 all along is off by several steps."""
    x, weight = rows(100, torch.bfloat16), weight_of(100, torch.bfloat16)
    assert torch.equal(plain.rms_norm(x, weight, EPS), normed(x, weight, EPS).float().bfloat16())
    assert torch.equal(plain.silu_mul(x), gated(x).float().bfloat16())
    heads = x.unflatten(1, (1, 100)).clone()
    plain.norm_rope_(Heads(heads, 1), torch.stack([weight, weight * 2]), EPS, rotation(len(x), 100))
    close(heads, turned(normed(x[:, None], weight, EPS), rotation(len(x), 100)).float().bfloat16())
