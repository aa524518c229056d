"""Reranking measured: our packed pairs with each query read once, against whole pairs and against the others' ways.

The pairs are random ids in the true proportions: 61 tokens that all pairs begin with (system prompt and instruction), a
query of about 12, 4 of markup, a document of the mix, 9 that close the pair. Logits, not texts, are compared.

reuse          ours: each query computed once for all its documents
whole          ours: every pair computed whole
card           the model card's way: pairs padded on the left, the product with the whole vocabulary at every position
cross-encoder  as sentence-transformers' CrossEncoder computes: sorted, 32 a batch, padded on the left, the product with
               the whole vocabulary at the last position. Its arithmetic, not the library: made-up ids have no text

Legend: N pairs, Q queries, n pairs of a batch, L its longest, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from actors import attention, batching
from actors.bench import measure, report, subjects, texts
from actors.bench.measure import Done, Way
from actors.bench.options import Options
from actors.bench.peers import Counted, padded_batches
from actors.qwen3_weights import Geometry, Weights
from actors.rerank_batches import PairBatches
from actors.rerank_model import RerankModel
from actors.rerank_prompt import RerankEncoded
from actors.reranker import Reranker
from actors.spec import ModelError, ModelSpec

COMMON, QUERY_MEAN, MARKUP, CLOSING = 61, 12, 4, 9  # tokens
DOCUMENTS_A_QUERY = 64
BATCH = 32  # of the others
FIRST_ID = 64
YES, NO = 9693, 2152  # Qwen's; in a smaller vocabulary two others
WARM_UP_PAIRS = 48


class RandomReranker(Reranker):
    """A Reranker over weights that are made up: without tokenizer and self-check, with all of the rest."""

    def __init__(self, spec: ModelSpec, geometry: Geometry, seed: int) -> None:
        yes, no = (word % geometry.vocabulary for word in (YES, NO))
        with mock.patch.object(Weights, "load", lambda weights, _: weights.randomise(seed)):
            self._model = RerankModel(spec, Path(), geometry, torch.zeros(geometry.hidden))
        self.weights = self._model._weights
        vocabulary_VH = self.weights.embedding
        self.direction_H = (vocabulary_VH[yes].float() - vocabulary_VH[no].float()).contiguous()
        self._model._direction_H = self.direction_H
        self.answers = (yes, no)

    def start(self, token_budget: int | None, longest: int) -> None:
        """To be called once, before scoring; afterwards 8-bit weights have no reference any more."""
        self._model.start(token_budget, longest)
        self.token_budget = self._model.token_budget


def made_up(options: Options, vocabulary: int) -> RerankEncoded:
    """Pairs of about options.tokens tokens in all, whole pairs counted."""
    rng = np.random.default_rng(options.seed)
    mix = texts.MIXES[options.mix]
    around = COMMON + QUERY_MEAN + MARKUP + CLOSING
    pairs = max(2, round(options.tokens / (mix.mean + around)))
    tails_N = texts.lengths(mix, pairs * mix.mean, 1, options.seed) + CLOSING
    queries = -(-len(tails_N) // DOCUMENTS_A_QUERY)
    rests_Q = rng.integers(QUERY_MEAN // 2, 3 * QUERY_MEAN // 2 + 1, queries) + MARKUP
    common = rng.integers(FIRST_ID, vocabulary, COMMON)
    heads = [np.concatenate([common, rng.integers(FIRST_ID, vocabulary, rest)]) for rest in rests_Q]
    return RerankEncoded(
        heads_ids=np.concatenate(heads).astype(np.int32),
        heads_offsets=batching.offsets_of(rests_Q + COMMON),
        tails_ids=rng.integers(FIRST_ID, vocabulary, int(tails_N.sum())).astype(np.int32),
        tails_offsets=batching.offsets_of(tails_N),
        query_of=np.arange(len(tails_N)) // DOCUMENTS_A_QUERY,
        truncated=np.zeros(len(tails_N), dtype=np.bool_),
    )


def first(encoded: RerankEncoded, pairs: int) -> RerankEncoded:
    """The first pairs; the heads stay."""
    ends = encoded.tails_offsets[: pairs + 1]
    return RerankEncoded(
        encoded.heads_ids,
        encoded.heads_offsets,
        encoded.tails_ids[: int(ends[-1])],
        ends,
        encoded.query_of[:pairs],
        encoded.truncated[:pairs],
    )


class Padded:
    """transformers' Qwen3 over pairs padded on the left, as the others score them."""

    def __init__(self, model: Any, vocabulary_VH: torch.Tensor, answers: tuple[int, int], all_positions: bool) -> None:
        self._model, self._vocabulary_VH, self._answers = model, vocabulary_VH, answers
        self._all, self._counted = all_positions, Counted(model)

    @torch.inference_mode()
    def run(self, encoded: RerankEncoded) -> Done:
        """Logits float32 [N, 1]."""
        self._counted.tokens = 0
        pairs = PairBatches(encoded, reuse_prefix=False)
        lengths_N = np.diff(encoded.heads_offsets)[encoded.query_of] + np.diff(encoded.tails_offsets)
        order_N = np.arange(len(lengths_N)) if self._all else np.argsort(-lengths_N, kind="stable")
        logits_N = np.empty(len(lengths_N), dtype=np.float32)
        for start in range(0, len(order_N), BATCH):
            rows_n = order_N[start : start + BATCH]
            logits_N[rows_n] = self._batch(pairs.layout(rows_n).ids_T, lengths_N[rows_n])
        return Done(logits_N[:, None], self._counted.tokens)

    def _batch(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> np.ndarray:
        longest = int(lengths_n.max())
        mask_nL = np.arange(longest)[None, :] >= longest - lengths_n[:, None]
        ids_nL = np.zeros(mask_nL.shape, dtype=np.int64)
        ids_nL[mask_nL] = ids_T
        device = str(self._model.device)
        ids, mask = (attention.to_device(x, device) for x in (ids_nL, mask_nL.astype(np.int64)))
        states = self._model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = F.linear(states if self._all else states[:, -1:], self._vocabulary_VH)[:, -1]
        yes, no = (logits[:, answer].float() for answer in self._answers)
        return (yes - no).cpu().numpy()
