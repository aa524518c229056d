"""What a model does between its matrix products: the operations that plain.py has in torch and triton.py for CUDA.

A Quantised is a matrix in 8 bits with one scale a row.

Legend: T tokens, H width, h heads, D head size, P positions.
"""

from typing import NamedTuple, Protocol

import torch

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


class Heads(NamedTuple):
    """x [T, h, D], maybe a slice of wider rows: the first `queries` of the h heads are of queries, the rest of keys."""

    x: torch.Tensor
    queries: int


class Kernels(Protocol):
    """The operations, by whichever module provides them."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor: ...

    def rms_norm_8(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised: ...

    def add_rms_norm_8(self, x: torch.Tensor, addend: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised: ...

    def norm_rope_(self, heads: Heads, weights: torch.Tensor, eps: float, rotation: Rotation) -> None: ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor: ...

    def silu_mul_8(self, gate_up: torch.Tensor) -> Quantised: ...

    def quantise(self, x: torch.Tensor) -> Quantised: ...

    def bias_norm(
        self, x: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
    ) -> torch.Tensor: ...
