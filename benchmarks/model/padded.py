"""transformers' plain forward pass with documents sorted by length, and what padding makes it compute.

Legend: N texts, n sequences of a batch, L its longest, H hidden size.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from actors import packed
from actors.network import attention
from actors.tokenizer.text import Encoded
from benchmarks.model.measure import Done
from benchmarks.model.subjects import Subject


class Counted:
    """Counts the tokens that a model of transformers computes, padding included: those whose embedding it looks up.

    Not the model's own inputs: sentence-transformers calls `model.forward`, past its hooks.
    """

    def __init__(self, model: Any) -> None:
        self.tokens = 0
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, _: Any, args: tuple[torch.Tensor, ...]) -> None:
        self.tokens += args[0].numel()


class Sorted:
    """transformers' forward pass over padded batches of documents sorted by length, as many tokens to a batch, padding
    included, as one of our micro-batches may hold. The vectors come back once, at the end."""

    def __init__(self, subject: Subject, model: Any, token_budget: int) -> None:
        model.set_attn_implementation("sdpa")
        self._model, self._device, self._token_budget = model, str(model.device), token_budget
        self._pooling, self._normalise = subject.recipe.pooling, subject.recipe.normalise
        self._causal = subject.recipe.architecture == "qwen3"
        self._counted = Counted(model)

    @torch.inference_mode()
    def run(self, encoded: Encoded) -> Done:
        self._counted.tokens = 0
        lengths_N = np.diff(encoded.offsets)
        found, order = [], []
        for rows_n in padded_batches(lengths_N, self._token_budget):
            ids_nL, mask_nL = padded(encoded, rows_n)
            ids, mask = (attention.to_device(x, self._device) for x in (ids_nL, mask_nL))
            extra = {"use_cache": False} if self._causal else {}
            states = self._model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
            pooled = self._pooled(states, mask).float()
            found.append(F.normalize(pooled, dim=-1) if self._normalise else pooled)
            order.append(rows_n)
        vectors = torch.cat(found).cpu().numpy()
        return Done(vectors[np.argsort(np.concatenate(order))], self._counted.tokens)

    def _pooled(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[n, L, H] -> [n, H]."""
        if self._pooling == "cls":
            return states[:, 0]
        counts = mask.sum(dim=1)
        if self._pooling == "last":
            return states[torch.arange(len(states), device=states.device), counts - 1]
        return (states * mask.unsqueeze(-1)).sum(dim=1) / counts.unsqueeze(-1)


def padded_batches(lengths_N: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Rows of each batch, longest first; its number of rows times its longest is at most the budget, or it has one."""
    order = np.argsort(-lengths_N, kind="stable")
    found, start = [], 0
    while start < len(order):
        count = max(1, token_budget // int(lengths_N[order[start]]))
        found.append(order[start : start + count])
        start += count
    return found


def padded(encoded: Encoded, rows_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of the rows, int64 [n, L], padded on the right with 0."""
    flat, lengths_n = packed.gather(encoded.ids, encoded.offsets, rows_n)
    mask_nL = np.arange(int(lengths_n.max()))[None, :] < lengths_n[:, None]
    ids_nL = np.zeros(mask_nL.shape, dtype=np.int64)
    ids_nL[mask_nL] = flat
    return ids_nL, mask_nL.astype(np.int64)
