"""Attention over packed sequences: nothing padded, no T x T mask built (it would cost T^2 bytes and time).

All sequences of a micro-batch lie one behind the other; a Packing says which tokens ask and which keys they see. Used
as an attention function of transformers' models, and directly by actors/network/qwen3.py.

    CUDA, half precision:   torch.nn.attention.varlen, one kernel for all sequences (flash.py)
    CPU, or CUDA float32:   neighbours of equal lengths share one SDPA call (2.1x the padded speed of MiniLM on a CPU
                            core, measured with micro-batches sorted by length)

Legend: n sequences; T tokens that ask, K keys; H query heads, G key heads, D head size.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from actors.network import flash
from actors.spec import ModelError

NAME = "vectormill_packed"


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences of equal lengths: where they begin, how many, and how long each is."""

    first_query: int
    first_key: int
    count: int
    queries: int
    keys: int


@dataclass(frozen=True)
class Packing:
    """Who sees whom.

    Sequence i asks with tokens cu_queries[i]:cu_queries[i + 1] and sees keys cu_keys[i]:cu_keys[i + 1]. Its last token
    stands at its last key, so that to a causal model the keys before are what came before.

    key_rows: the packed token each key is taken from, int64 [K]; None = the tokens themselves, in order. A token may
    be the key of many sequences: that is how a shared prefix is computed once.
    """

    cu_queries: torch.Tensor  # int32 [n+1], on the model's device
    cu_keys: torch.Tensor  # int32 [n+1]
    longest_queries: int
    longest_keys: int
    key_rows: torch.Tensor | None
    runs: tuple[Run, ...]
    varlen: bool


def pack(lengths_n: np.ndarray, device: str, varlen: bool) -> Packing:
    """The packing of n whole sequences with these lengths, in this order."""
    return pack_queries(lengths_n, lengths_n, None, device, varlen)


def pack_queries(
    queries_n: np.ndarray, keys_n: np.ndarray, key_rows: np.ndarray | None, device: str, varlen: bool
) -> Packing:
    """The packing of sequences of which only the last queries_n[i] of keys_n[i] tokens ask."""
    cu_queries, cu_keys = (
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32) for lengths in (queries_n, keys_n)
    )
    cu_queries_device = to_device(cu_queries, device)
    return Packing(
        cu_queries=cu_queries_device,
        cu_keys=cu_queries_device if keys_n is queries_n else to_device(cu_keys, device),
        longest_queries=int(queries_n.max()),
        longest_keys=int(keys_n.max()),
        key_rows=None if key_rows is None else to_device(key_rows, device),
        # The variable-length kernel needs no runs, and looking for them costs time that a GPU would wait for.
        runs=() if varlen else _equal_neighbours(queries_n, keys_n, cu_queries, cu_keys),
        varlen=varlen,
    )


def to_device(array: np.ndarray, device: str) -> torch.Tensor:
    """The array as a tensor; to a GPU from pinned memory, without waiting for the copy."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor


def _equal_neighbours(
    queries_n: np.ndarray, keys_n: np.ndarray, cu_queries: np.ndarray, cu_keys: np.ndarray
) -> tuple[Run, ...]:
    changes = np.flatnonzero((np.diff(queries_n) != 0) | (np.diff(keys_n) != 0)) + 1
    firsts = np.concatenate([[0], changes])
    counts = np.diff(np.concatenate([firsts, [len(queries_n)]]))
    places = (cu_queries[firsts], cu_keys[firsts], counts, queries_n[firsts], keys_n[firsts])
    return tuple(Run(*numbers) for numbers in zip(*(place.tolist() for place in places), strict=True))


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
    """query [1, H, T, D], key and value [1, G, T, D] -> [1, T, H, D]. Called by the model, once per layer."""
    packing: Packing = kwargs["packing"]
    assert attention_mask is None, "a mask was built although the packing says who sees whom"
    window = kwargs.get("sliding_window")
    # transformers counts the token itself: 65 means 64 to each side (modernbert) or 64 back (causal models).
    reach = None if window is None or window < 0 else int(window) - 1
    qkv = tuple(x[0].transpose(0, 1) for x in (query, key, value))
    return attend_packed(qkv, packing, bool(module.is_causal), reach, kwargs.get("scaling")).unsqueeze(0), None


def attend_packed(
    qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool, reach: int | None = None, scale: float | None = None
) -> torch.Tensor:
    """query [T, H, D], key and value [tokens, G, D] -> [T, H, D].

    reach: how many tokens back (and ahead, if not causal) a token sees; None = all. scale: None = 1/sqrt(D).
    """
    query, key, value = qkv
    if packing.key_rows is not None:
        key, value = key[packing.key_rows], value[packing.key_rows]
    kernel = _varlen if packing.varlen else _by_equal_lengths
    return kernel((query, key, value), packing, causal, reach, scale)


def _by_equal_lengths(
    qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool, reach: int | None, scale: float | None
) -> torch.Tensor:
    query, key, value = qkv
    out = torch.empty((*query.shape[:2], value.shape[-1]), dtype=query.dtype, device=query.device)
    grouped = key.shape[1] != query.shape[1]
    if grouped and query.is_cuda:  # of its SDPA kernels for float32 only the one that builds T x T scores takes groups
        times = query.shape[1] // key.shape[1]
        key, value, grouped = key.repeat_interleave(times, dim=1), value.repeat_interleave(times, dim=1), False
    for run in packing.runs:
        end = run.first_query + run.count * run.queries
        q = _sequences(query, run.first_query, run.count, run.queries)
        k, v = (_sequences(x, run.first_key, run.count, run.keys) for x in (key, value))
        # A single asking token is the last one, which sees all.
        simple = run.queries == run.keys or run.queries == 1
        mask = None
        if (reach is not None and reach < run.keys - 1) or (causal and not simple):
            mask = _mask(run.queries, run.keys, reach, causal, query.device)
        whole = causal and mask is None and run.queries > 1
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=whole, scale=scale, enable_gqa=grouped
        )
        out[run.first_query : end].unflatten(0, (run.count, run.queries)).copy_(attended.transpose(1, 2))
    return out


def _sequences(packed: torch.Tensor, first: int, count: int, length: int) -> torch.Tensor:
    """[tokens, heads, D] -> [count, heads, length, D], a view."""
    return packed[first : first + count * length].unflatten(0, (count, length)).transpose(1, 2)


@functools.lru_cache(maxsize=4)
def _mask(queries: int, keys: int, reach: int | None, causal: bool, device: torch.device) -> torch.Tensor:
    """bool [queries, keys]: which keys each of the last `queries` tokens sees."""
    back = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)[None, :]
    near = back.abs() <= (keys if reach is None else reach)
    return near & (back >= 0) if causal else near


def _varlen(
    qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool, reach: int | None, scale: float | None
) -> torch.Tensor:
    query, key, value = qkv
    left = -1 if reach is None else reach
    extra: dict[str, Any] = {"scale": scale, "window_size": (left, 0 if causal else left)}
    # torch 2.11 has no such parameter and its kernel takes fewer key heads as they are; 2.12 and later insist on it.
    if "enable_gqa" in _varlen_parameters():
        extra["enable_gqa"] = key.shape[1] != query.shape[1]
    offsets, longest = (packing.cu_queries, packing.cu_keys), (packing.longest_queries, packing.longest_keys)
    return varlen_function()(query, key, value, *offsets, *longest, **extra)


@functools.cache
def varlen_function() -> Callable[..., Any]:
    """torch's variable-length attention, by its operator where that is the one we know.

    Raises ModelError when this torch has none with a window.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError as error:
        raise ModelError(
            f"torch {torch.__version__} has no variable-length attention: use torch 2.11 or later"
        ) from error
    if "window_size" not in inspect.signature(varlen_attn).parameters:
        raise ModelError(f"torch {torch.__version__}: its variable-length attention is too old, use 2.11 or later")
    return flash.varlen if flash.is_known() else varlen_attn


@functools.cache
def _varlen_parameters() -> frozenset[str]:
    return frozenset(inspect.signature(varlen_function()).parameters)
