"""Attention written out, in float64, one sequence and head at a time; and torch's variable-length kernel made of it,
for machines without CUDA.

Legend: T tokens that ask, K keys; H query heads, G key heads, D head size.
"""

import torch

Qkv = tuple[torch.Tensor, ...]


def seen(queries: int, keys: int, left: int, right: int) -> torch.Tensor:
    """bool [queries, keys]: the last query stands at the last key, and sees `left` back and `right` ahead; -1 = all."""
    ahead = torch.arange(keys)[None, :] - torch.arange(keys - queries, keys)[:, None]
    back_ok = ahead >= -left if left >= 0 else torch.ones_like(ahead, dtype=torch.bool)
    return back_ok & (ahead <= right) if right >= 0 else back_ok


def one_by_one(qkv: Qkv, cu_q: torch.Tensor, cu_k: torch.Tensor, window: tuple[int, int], scale: float) -> torch.Tensor:
    """query [T, H, D], key and value [K, G, D] -> [T, H, D]; query head i takes key head i * G // H."""
    query, key, value = (x.double() for x in qkv)
    out = torch.empty_like(query)
    for i in range(len(cu_q) - 1):
        asking, keys = slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))
        mask = seen(asking.stop - asking.start, keys.stop - keys.start, *window)
        for head in range(query.shape[1]):
            source = head * key.shape[1] // query.shape[1]
            scores = (query[asking, head] @ key[keys, source].T * scale).masked_fill(~mask, -torch.inf)
            out[asking, head] = scores.softmax(-1) @ value[keys, source]
    return out.to(qkv[0].dtype)


# What the CUDA kernel computes, under the two signatures it has had: int32 offsets, window (left, right), -1 = open,
# bottom-right aligned, as flash attention does where there are fewer queries than keys.
def varlen_of_torch_2_11(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1)):
    assert (max_q, max_k) == (int(cu_q.diff().max()), int(cu_k.diff().max()))
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert (cu_q[-1], cu_k[-1]) == (len(q), len(k))
    return one_by_one((q, k, v), cu_q, cu_k, window_size, q.shape[-1] ** -0.5 if scale is None else scale)


def varlen_of_torch_2_13(q, k, v, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    assert enable_gqa == (q.shape[1] != k.shape[1])
    return varlen_of_torch_2_11(q, k, v, cu_q, cu_k, max_q, max_k, scale=scale, window_size=window_size)
