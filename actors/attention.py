"""Attention over packed sequences, as an attention function of transformers.

All sequences of a micro-batch lie one behind the other in a batch of one; cu_seq_lens says where each begins, and no
token sees another sequence. No T x T mask is built: it would cost T^2 bytes and time.

    CUDA, bf16:         torch.nn.attention.varlen, one kernel for all sequences
    CPU, or CUDA fp32:  neighbours of equal length share one SDPA call (2.1x the padded speed of MiniLM on a CPU core,
                        measured with micro-batches sorted by length)

Legend: T tokens, n sequences of length L, H query heads, K key heads, D head size.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from actors.spec import ModelError

NAME = "vectormill_packed"


@dataclass(frozen=True)
class Packing:
    """Where the sequences of one micro-batch lie. `runs` are (first token, sequences, length) of equal neighbours."""

    cu_seqlens: torch.Tensor  # int32 [N+1], on the model's device
    longest: int
    runs: tuple[tuple[int, int, int], ...]
    varlen: bool


def pack(lengths_N: np.ndarray, device: str, varlen: bool) -> Packing:
    """The packing of sequences with these lengths, in this order."""
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths_N)]).astype(np.int32)
    changes = np.flatnonzero(np.diff(lengths_N)) + 1
    firsts = np.concatenate([[0], changes])
    counts = np.diff(np.concatenate([firsts, [len(lengths_N)]]))
    runs = zip(cu_seqlens[firsts].tolist(), counts.tolist(), lengths_N[firsts].tolist(), strict=True)
    return Packing(torch.from_numpy(cu_seqlens).to(device), int(lengths_N.max()), tuple(runs), varlen)


def register() -> str:
    """Makes `attend` known to transformers; gives the name to load a model with."""
    from transformers import AttentionInterface

    # Looked up at every call, so that a test can put a broken one in its place.
    AttentionInterface.register(NAME, lambda *args, **kwargs: attend(*args, **kwargs))
    return NAME


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,  # the interface is transformers': each model passes its own extras
) -> tuple[torch.Tensor, None]:
    """query [1, H, T, D], key and value [1, K, T, D] -> [1, T, H, D]. Called by the model, once per layer."""
    packing: Packing = kwargs["packing"]
    assert attention_mask is None, "a mask was built although the packing says who sees whom"
    window = kwargs.get("sliding_window")
    # transformers counts the token itself: 65 means 64 to each side (modernbert) or 64 back (causal models).
    reach = None if window is None or window < 0 else int(window) - 1
    attend_packed = _varlen if packing.varlen else _by_equal_lengths
    return attend_packed((query, key, value), packing, bool(module.is_causal), reach, kwargs.get("scaling")), None


def _by_equal_lengths(
    qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool, reach: int | None, scale: float | None
) -> torch.Tensor:
    query, key, value = qkv
    heads, dim = query.shape[1], value.shape[-1]
    groups = heads // key.shape[1]
    out = torch.empty((1, query.shape[2], heads, dim), dtype=query.dtype, device=query.device)
    for first, count, length in packing.runs:
        end = first + count * length
        q, k, v = (x[0, :, first:end].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value))
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        mask = None
        if reach is not None and reach < length - 1:
            mask = _window_mask(length, reach, causal, query.device)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal and mask is None, scale=scale
        )
        out[0, first:end] = attended.transpose(1, 2).reshape(count * length, heads, dim)
    return out


@functools.lru_cache(maxsize=4)
def _window_mask(length: int, reach: int, causal: bool, device: torch.device) -> torch.Tensor:
    place = torch.arange(length, device=device)
    back = place[:, None] - place[None, :]
    return (back <= reach) & (back >= 0) if causal else back.abs() <= reach


def _varlen(
    qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool, reach: int | None, scale: float | None
) -> torch.Tensor:
    query, key, value = (x[0].transpose(0, 1) for x in qkv)
    left = -1 if reach is None else reach
    extra: dict[str, Any] = {"scale": scale, "window_size": (left, 0 if causal else left)}
    # torch 2.11 has no such parameter and its kernel takes fewer key heads as they are; 2.12 and later insist on it.
    if "enable_gqa" in _varlen_parameters():
        extra["enable_gqa"] = key.shape[1] != query.shape[1]
    cu_seqlens, longest = packing.cu_seqlens, packing.longest
    attended = varlen_function()(query, key, value, cu_seqlens, cu_seqlens, longest, longest, **extra)
    return attended.unsqueeze(0)


@functools.cache
def varlen_function() -> Callable[..., Any]:
    """torch's variable-length attention. Raises ModelError when this torch has none with a window."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise ModelError(
            f"torch {torch.__version__} has no variable-length attention: use torch 2.11 or later"
        ) from error
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        raise ModelError(f"torch {torch.__version__}: its variable-length attention is too old, use 2.11 or later")
    return varlen_attn


@functools.cache
def _varlen_parameters() -> frozenset[str]:
    return frozenset(inspect.signature(varlen_function()).parameters)
