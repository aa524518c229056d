"""From the hidden states of a packed micro-batch to vectors.

Legend: N sequences, T tokens in all, H hidden size, D dimensions of the result.
"""

import torch
import torch.nn.functional as F


def pool(hidden_TH: torch.Tensor, cu_seqlens: torch.Tensor, mode: str) -> torch.Tensor:
    """One fp32 vector per sequence, [N, H], of packed states: mode is "mean", "cls" or "last".

    cu_seqlens is [N+1]: sequence i is hidden_TH[cu_seqlens[i]:cu_seqlens[i + 1]], and none is empty.
    """
    if mode == "cls":
        return hidden_TH[cu_seqlens[:-1].long()].float()
    if mode == "last":
        return hidden_TH[cu_seqlens[1:].long() - 1].float()
    assert mode == "mean", mode
    # Sums each segment in order: unlike index_add, the same every time on CUDA too.
    return torch.segment_reduce(hidden_TH.float(), "mean", lengths=cu_seqlens.diff().long(), axis=0, unsafe=True)


def finish(pooled_NH: torch.Tensor, dimensions: int, normalise: bool) -> torch.Tensor:
    """Cuts to `dimensions`, then scales to length 1, in fp32: [N, D].

    In this order: the other way round a shortened vector has not length 1 (QwenLM/Qwen3-Embedding,
    examples/qwen3_embedding_transformers.py).
    """
    cut_ND = pooled_NH[:, :dimensions].float()
    return F.normalize(cut_ND, p=2, dim=-1) if normalise else cut_ND
