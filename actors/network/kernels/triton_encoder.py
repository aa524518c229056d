"""What BERT's kind does between its matrix products, as Triton kernels; the rest is as in triton.py.

Legend: T tokens, H width.
"""

import torch
import triton
import triton.language as tl

A_WARP = 256  # values of a row: eight a thread, 128 bits in half precision


def bias_norm(
    x: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """As plain.bias_norm; x [T, H] contiguous."""
    assert x.is_contiguous()
    out, width = torch.empty_like(x), x.shape[1]
    block = triton.next_power_of_2(width)
    warps = min(max(block // A_WARP, 1), 8)
    _bias_norm[(x.shape[0],)](x, bias, weight, shift, out, eps, width, block, num_warps=warps)
    return out


@triton.jit
def _bias_norm(x, bias, weight, shift, out, eps, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(bias + at, mask=inside, other=0.0).to(tl.float32)
    value = tl.where(inside, value - tl.sum(value, axis=0) / width, 0.0)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value = value * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(shift + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, value.to(out.dtype.element_ty), mask=inside)
