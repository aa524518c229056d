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

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

from actors import packed
from actors.device.auto import resolve_device, resolve_dtype
from actors.device.device import Pending
from actors.network import attention
from actors.network.qwen3_weights import Geometry, Weights
from actors.reranker.batches import PairBatch, PairBatches
from actors.reranker.model import RerankModel
from actors.reranker.prompt import RerankEncoded
from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from benchmarks import machine
from benchmarks.model import measure, report, subjects, texts
from benchmarks.model.measure import Done, Way
from benchmarks.model.options import Options
from benchmarks.model.padded import Counted

COMMON, QUERY_MEAN, MARKUP, CLOSING = 61, 12, 4, 9  # tokens
DOCUMENTS_A_QUERY = 64
BATCH = 32  # of the others
FIRST_ID = 64
YES, NO = 9693, 2152  # Qwen's; in a smaller vocabulary two others
WARM_UP_PAIRS = 48


class Counting(RerankModel):
    """Counts the tokens it computes."""

    tokens = 0

    def encode(self, batch: PairBatch) -> Pending:
        self.tokens += len(batch.ids_T)
        return super().encode(batch)


class RandomReranker(Reranker):
    """A Reranker over weights that are made up: without tokenizer and self-check, with all of the rest."""

    def __init__(self, spec: ModelSpec, geometry: Geometry, seed: int) -> None:
        yes, no = (word % geometry.vocabulary for word in (YES, NO))
        with mock.patch.object(Weights, "load", lambda weights, _: weights.randomise(seed)):
            self.model = self._model = Counting(spec, Path(), geometry, torch.zeros(geometry.hidden))
        self.weights = self.model._weights
        vocabulary_VH = self.weights.embedding
        self.model._direction_H = vocabulary_VH[yes].float() - vocabulary_VH[no].float()
        self.answers = (yes, no)

    def start(self, token_budget: int | None, longest: int) -> None:
        """To be called once, before scoring; afterwards 8-bit weights have no reference any more."""
        self.model.start(token_budget, longest)
        self.token_budget = self.model.token_budget

    def scored(self, encoded: RerankEncoded, reuse_prefix: bool) -> Done:
        """Logits float32 [N, 1]."""
        self.model.tokens = 0
        logits_N = self.score_encoded(encoded, reuse_prefix)
        return Done(logits_N[:, None], self.model.tokens)


def run(options: Options) -> dict[str, Any]:
    """Measures; gives the report, ready for JSON. Raises ModelError for what cannot be run."""
    config = subjects.RANDOM.get(options.model, {})
    if config.get("model_type") != "qwen3" or options.tokenizer or options.path != "fused":
        raise ModelError(
            "--task rerank takes a Qwen3 of the known sizes with random weights, and no --tokenizer or --path"
        )
    spec = ModelSpec("random", device=options.device, dtype=options.dtype, threads=options.threads)
    device, dtype = resolve_device(spec), resolve_dtype(spec)
    facts = machine.facts(device)
    ours = RandomReranker(spec, Geometry.of(config), options.seed)
    model = ours.weights.reference() if options.peers else None
    encoded = made_up(options, config["vocab_size"])
    lengths_N = pair_lengths(encoded)
    ours.start(options.token_budget, int(lengths_N.max()))
    runs = measure.rounds(_ways(options, ours, model, encoded), options.rounds, device)
    results = {name: report.result(done, lengths_N, None, [], options.price) for name, done in runs.items()}
    for name in runs:
        if name != "reuse":
            results[name] |= _compared(runs["reuse"], runs[name])
    shared = np.diff(encoded.heads_offsets)[encoded.query_of].mean()
    settings = asdict(options) | {"device": device, "dtype": dtype, **report.settings(ours.token_budget)}
    found: dict[str, Any] = {
        "model": options.model,
        "weights": "random",
        "work": texts.summary(lengths_N)
        | {"mix": options.mix, "words": f"pairs of random ids, of which {shared:.0f} before the document"},
        "ours": {name: results[name] for name in runs if name not in options.peers},
        "peers": {name: results[name] for name in options.peers},
        "tokenising": None,
        "ceilings": [],
    }
    return machine.result("model layer", settings, facts, **found)


def _ways(options: Options, ours: RandomReranker, model: Any, encoded: RerankEncoded) -> list[Way]:
    scored: dict[str, Callable[[RerankEncoded], Done]] = {
        "reuse": lambda pairs: ours.scored(pairs, True),
        "whole": lambda pairs: ours.scored(pairs, False),
    }
    for name in options.peers:
        scored[name] = Padded(model, ours.weights.embedding, ours.answers, all_positions=name == "card").run
    some = first(encoded, WARM_UP_PAIRS)
    return [Way(name, partial(way, encoded), partial(way, some)) for name, way in scored.items()]


def _compared(ours: Sequence[Done], other: Sequence[Done]) -> dict[str, Any]:
    error = float(np.abs(ours[-1].vectors - other[-1].vectors).max())
    spread = float(ours[-1].vectors.std())
    return {
        "ours_is": round(measure.ratio(ours, other), 3),
        "ours_is_in_cpu_time": round(measure.cpu_ratio(ours, other), 3),
        "agrees": f"logits within {error:.1e} of {spread:.2g}",
        "largest_logit_difference": error,
        "spread_of_logits": spread,
    }


def pair_lengths(encoded: RerankEncoded) -> np.ndarray:
    """Tokens of whole pairs, int64 [N]."""
    return np.diff(encoded.heads_offsets)[encoded.query_of] + np.diff(encoded.tails_offsets)


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
        heads_offsets=packed.offsets_of(rests_Q + COMMON),
        tails_ids=rng.integers(FIRST_ID, vocabulary, int(tails_N.sum())).astype(np.int32),
        tails_offsets=packed.offsets_of(tails_N),
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
        lengths_N = pair_lengths(encoded)
        order_N = np.arange(len(lengths_N)) if self._all else np.argsort(-lengths_N, kind="stable")
        logits_N = np.empty(len(lengths_N), dtype=np.float32)
        for start in range(0, len(order_N), BATCH):
            rows_n = order_N[start : start + BATCH]
            logits_N[rows_n] = self._batch(pairs.batch(rows_n).ids_T, lengths_N[rows_n])
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
