"""The operations in plain torch; triton.py has the same for CUDA.

Everything is computed in float32 and rounded once at the end.

Legend: T tokens, H width, h heads, D head size, F width of the MLP.
"""

import torch
import torch.nn.functional as F

from actors.network.kernels.operations import E4M3, E4M3_MAX, SMALLEST_SCALE, Heads, Quantised, Rotation


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [T, H] divided by its root mean square, times weight [H]."""
    return _normed(x, weight, eps).to(x.dtype)


def rms_norm_8(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised:
    """`rms_norm`, in 8 bits."""
    return quantise(_normed(x, weight, eps))


def add_rms_norm_8(x: torch.Tensor, addend: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised:
    """x [T, H] += addend [T, H], in place and rounded to the dtype of x; then `rms_norm_8` of it."""
    return rms_norm_8(x.add_(addend), weight, eps)


def norm_rope_(heads: Heads, weights: torch.Tensor, eps: float, rotation: Rotation) -> None:
    """In place: each head normed by `rms_norm`, then rotated by its token's position.

    weights [2, D]: of the norm of queries, then of keys.
    """
    cos, sin = (table[rotation.positions].unsqueeze(1) for table in (rotation.cos, rotation.sin))
    for x, weight in zip((heads.x[:, : heads.queries], heads.x[:, heads.queries :]), weights, strict=True):
        first, second = _normed(x, weight, eps).chunk(2, dim=-1)
        x.copy_(torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1))


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2F], gate then up -> silu(gate) * up, [T, F]."""
    return _gated(gate_up).to(gate_up.dtype)


def silu_mul_8(gate_up: torch.Tensor) -> Quantised:
    """`silu_mul`, in 8 bits."""
    return quantise(_gated(gate_up))


def quantise(x: torch.Tensor) -> Quantised:
    """x [T, H] in 8 bits: each row scaled so that its largest value is the largest of e4m3."""
    x = x.float()
    scale = (x.abs().amax(dim=-1, keepdim=True) / E4M3_MAX).clamp_min(SMALLEST_SCALE)
    return Quantised((x / scale).to(E4M3), scale)


def bias_norm(
    x: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """Layer norm of x [T, H] plus bias [H], times weight [H], plus shift [H]."""
    whole = x.float() + bias.float()
    return F.layer_norm(whole, weight.shape, weight.float(), shift.float(), eps).to(x.dtype)


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps)


def _gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate.float()) * up.float()
