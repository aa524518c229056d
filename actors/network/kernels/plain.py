"""What Qwen3 does between its matrix products, in plain torch; triton.py has the same for CUDA.

Everything is computed in float32 and rounded once at the end. A Quantised is a matrix in 8 bits with one scale a row.

Legend: T tokens, H width, h heads, D head size, P positions, F width of the MLP.
"""

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

E4M3 = torch.float8_e4m3fn
E4M3_MAX = 448.0
SMALLEST_SCALE = 1e-12  # a row of zeros stays zeros


class Quantised(NamedTuple):
    """values e4m3 [T, H]; scale float32 [T, 1]: row t stands for values[t] * scale[t]."""

    values: torch.Tensor
    scale: torch.Tensor


class Rotation(NamedTuple):
    """Rotary embedding: cos and sin float32 [P, D/2] by position; positions int64 [T] of the tokens."""

    cos: torch.Tensor
    sin: torch.Tensor
    positions: torch.Tensor


class Kernels(Protocol):
    """The operations, by whichever module provides them."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...

    def rms_norm_8(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised: ...

    def norm_rope_(self, x: torch.Tensor, weight: torch.Tensor, eps: float, rotation: Rotation) -> None: ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor: ...

    def silu_mul_8(self, gate_up: torch.Tensor) -> Quantised: ...

    def quantise(self, x: torch.Tensor) -> Quantised: ...


def choose(device: str) -> Kernels:
    """Triton's kernels on CUDA where Triton is installed, torch's elsewhere: slower, same numbers."""
    if device.startswith("cuda"):
        try:
            from actors.network.kernels import triton as triton_kernels

            return triton_kernels
        except ImportError:
            pass
    import actors.network.kernels.plain

    return actors.network.kernels.plain


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [T, H] divided by its root mean square, times weight [H]."""
    return _normed(x, weight, eps).to(x.dtype)


def rms_norm_8(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised:
    """`rms_norm`, in 8 bits."""
    return quantise(_normed(x, weight, eps))


def norm_rope_(x: torch.Tensor, weight: torch.Tensor, eps: float, rotation: Rotation) -> None:
    """x [T, h, D], in place: each head normed by `rms_norm` with weight [D], then rotated by its token's position."""
    first, second = _normed(x, weight, eps).chunk(2, dim=-1)
    cos, sin = (table[rotation.positions].unsqueeze(1) for table in (rotation.cos, rotation.sin))
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


def _normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps)


def _gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate.float()) * up.float()
