"""The operations of plain.py as Triton kernels: each reads its input once and writes its output once.

Half of an eager Qwen3-0.6B forward on an H200 goes into such memory-bound steps by the model in docs/models.md; fused,
bf16 traffic falls from about 265 to 47 KB a token and layer. One program handles one token.

Legend: T tokens, H width, h heads, D head size, F width of the MLP.
"""

import torch
import triton
import triton.language as tl

from actors.network.kernels.operations import E4M3, E4M3_MAX, SMALLEST_SCALE, Heads, Quantised, Rotation
from actors.network.kernels.triton_encoder import bias_norm as bias_norm  # handed on

FEW, MANY = 4, 8  # warps for rows of up to 2,048 values, and for longer ones
COLUMNS = 1024  # of the gate that one program multiplies


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """As plain.rms_norm; x [T, H] contiguous."""
    assert x.is_contiguous()
    out, width = torch.empty_like(x), x.shape[1]
    _rms_norm[(x.shape[0],)](
        x, weight, out, out, eps, width, triton.next_power_of_2(width), False, num_warps=_warps(width)
    )
    return out


def rms_norm_8(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised:
    """As plain.rms_norm_8; x [T, H] contiguous."""
    assert x.is_contiguous()
    out, width = _empty_8(x.shape[0], x.shape[1], x.device), x.shape[1]
    _rms_norm[(x.shape[0],)](x, weight, *out, eps, width, triton.next_power_of_2(width), True, num_warps=_warps(width))
    return out


def add_rms_norm_8(x: torch.Tensor, addend: torch.Tensor, weight: torch.Tensor, eps: float) -> Quantised:
    """As plain.add_rms_norm_8; x and addend [T, H] contiguous."""
    assert x.is_contiguous()
    assert addend.is_contiguous()
    assert addend.shape == x.shape, (addend.shape, x.shape)
    out, width = _empty_8(x.shape[0], x.shape[1], x.device), x.shape[1]
    _add_rms_norm_8[(x.shape[0],)](
        x, addend, weight, *out, eps, width, triton.next_power_of_2(width), num_warps=_warps(width)
    )
    return out


def norm_rope_(heads: Heads, weights: torch.Tensor, eps: float, rotation: Rotation) -> None:
    """As plain.norm_rope_, in one launch: queries and keys of a token lie side by side, and cos and sin serve both."""
    x, queries = heads
    tokens, count, size = x.shape
    assert x.stride()[1:] == (size, 1), x.stride()
    assert size == triton.next_power_of_2(size), size
    assert weights.is_contiguous()
    assert weights.shape == (2, size), weights.shape
    blocks = (triton.next_power_of_2(queries), triton.next_power_of_2(count - queries))
    _norm_rope[(tokens,)](
        x, weights, *rotation, eps, x.stride(0), queries, count - queries, *blocks, size // 2, num_warps=FEW
    )


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """As plain.silu_mul; gate_up [T, 2F] contiguous."""
    assert gate_up.is_contiguous()
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((tokens, width), dtype=gate_up.dtype, device=gate_up.device)
    _silu_mul[(tokens, triton.cdiv(width, COLUMNS))](gate_up, out, width, COLUMNS, num_warps=FEW)
    return out


def silu_mul_8(gate_up: torch.Tensor) -> Quantised:
    """As plain.silu_mul_8; gate_up [T, 2F] contiguous."""
    assert gate_up.is_contiguous()
    tokens, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = _empty_8(tokens, width, gate_up.device)
    _silu_mul_8[(tokens,)](gate_up, *out, width, triton.next_power_of_2(width), num_warps=_warps(width))
    return out


def quantise(x: torch.Tensor) -> Quantised:
    """As plain.quantise; x [T, H] contiguous."""
    assert x.is_contiguous()
    out, width = _empty_8(x.shape[0], x.shape[1], x.device), x.shape[1]
    _quantise[(x.shape[0],)](x, *out, width, triton.next_power_of_2(width), num_warps=_warps(width))
    return out


def _warps(width: int) -> int:
    return FEW if width <= 2048 else MANY


def _empty_8(tokens: int, width: int, device: torch.device) -> Quantised:
    values = torch.empty((tokens, width), dtype=E4M3, device=device)
    return Quantised(values, torch.empty((tokens, 1), dtype=torch.float32, device=device))


# Triton reads globals at compile time only as constexpr.
_LARGEST = tl.constexpr(E4M3_MAX)
_SMALLEST_SCALE = tl.constexpr(SMALLEST_SCALE)


@triton.jit
def _store_8(value, out, scales, row, at, inside, width):
    scale = tl.maximum(tl.max(tl.abs(value), axis=0) / _LARGEST, _SMALLEST_SCALE)
    tl.store(out + row * width + at, (value / scale).to(tl.float8e4nv), mask=inside)
    tl.store(scales + row, scale)


@triton.jit
def _rms_norm(x, weight, out, scales, eps, width, BLOCK: tl.constexpr, EIGHT: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value = value * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    if EIGHT:
        _store_8(value, out, scales, row, at, inside, width)
    else:
        tl.store(out + row * width + at, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_rms_norm_8(x, addend, weight, out, scales, eps, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(addend + row * width + at, mask=inside, other=0.0).to(tl.float32)
    rounded = value.to(x.dtype.element_ty)
    tl.store(x + row * width + at, rounded, mask=inside)
    # What the next layer will read is normed, not what was rounded away.
    value = rounded.to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    value = value * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    _store_8(value, out, scales, row, at, inside, width)


@triton.jit
def _norm_rope(
    x,
    weights,
    cos,
    sin,
    positions,
    eps,
    stride,
    queries,
    keys,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    HALF: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, HALF)[None, :]
    position = tl.load(positions + row)
    c = tl.load(cos + position * HALF + at)
    s = tl.load(sin + position * HALF + at)
    start = x + row * stride
    if QUERIES > 0:  # none where the last layer norms its keys alone, and the other way round
        _norm_rope_heads(start, weights, c, s, eps, queries, QUERIES, HALF)
    if KEYS > 0:
        _norm_rope_heads(start + queries * (2 * HALF), weights + 2 * HALF, c, s, eps, keys, KEYS, HALF)


@triton.jit
def _norm_rope_heads(start, weight, c, s, eps, heads, HEADS: tl.constexpr, HALF: tl.constexpr):
    head = tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, HALF)[None, :]
    inside = (head < heads) & (at < HALF)
    place = start + head * (2 * HALF) + at
    first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
    squares = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
    factor = tl.rsqrt(squares / (2 * HALF) + eps)[:, None]
    first = first * factor * tl.load(weight + at).to(tl.float32)
    second = second * factor * tl.load(weight + HALF + at).to(tl.float32)
    tl.store(place, (first * c - second * s).to(start.dtype.element_ty), mask=inside)
    tl.store(place + HALF, (second * c + first * s).to(start.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * width + at, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _silu_mul_8(gate_up, out, scales, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    gate = tl.load(gate_up + row * 2 * width + at, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * 2 * width + width + at, mask=inside, other=0.0).to(tl.float32)
    _store_8(gate * tl.sigmoid(gate) * up, out, scales, row, at, inside, width)


@triton.jit
def _quantise(x, out, scales, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    _store_8(tl.load(x + row * width + at, mask=inside, other=0.0).to(tl.float32), out, scales, row, at, inside, width)
