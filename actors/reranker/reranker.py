"""Queries and documents to relevance: Qwen3-Reranker, packed, each query read once for all its documents.

    Reranker -> RerankPrompt (token ids) -> PairBatches (micro-batches) -> RerankModel (logits) -> order restored

A pair's logit is logit(yes) - logit(no) at its last token, and its score the sigmoid of that: what the model card's
softmax over the two gives. Rank by the logit: scores near 1 are the same in float32 long before the logits are.

Legend: N pairs, Q queries, m pairs of a micro-batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from actors.checks import goldens
from actors.device.double_buffered import Request, run
from actors.device.refusal import setting_up
from actors.network.qwen3_weights import Geometry
from actors.reranker import selfcheck
from actors.reranker.batches import PairBatch, PairBatches
from actors.reranker.fake import FakeRerankModel, FakeRerankPrompt
from actors.reranker.head import head_direction, read_config
from actors.reranker.model import RerankModel
from actors.reranker.prompt import RerankEncoded, RerankPrompt
from actors.reranker.recipe import scores_of
from actors.reranker.tokens import check_pairs
from actors.spec import ModelSpec
from actors.weights.locate import check_digest, locate


@dataclass(frozen=True)
class Scores:
    """Of N pairs, in their order.

    finite: False where the model gave no number, as happens in float16; logit and score are NaN there.
    truncated: the document, or the query, lost tokens.
    """

    logits: np.ndarray  # float32 [N]
    scores: np.ndarray  # float32 [N], 0..1
    truncated: np.ndarray  # bool [N]

    @property
    def finite(self) -> np.ndarray:
        """bool [N]"""
        return np.isfinite(self.logits)


@dataclass(frozen=True)
class Ranked:
    """A document's place in the list it came in, and its relevance; both NaN if the model gave no number."""

    index: int
    score: float
    logit: float


class Model(Protocol):
    """What runs micro-batches: actors/reranker/model.py says what each part does."""

    dtype: str
    token_budget: int

    @property
    def facts(self) -> Mapping[str, str]: ...

    def reference(self, ids_T: np.ndarray) -> tuple[np.ndarray, float]: ...

    def start(self, token_budget: int | None, longest: int) -> None: ...

    def encode(self, batch: PairBatch) -> Any: ...

    def to_host(self, pending: Any) -> np.ndarray: ...

    def states_and_logits(self, batch: PairBatch) -> tuple[np.ndarray, np.ndarray]: ...


def load_model(spec: ModelSpec) -> tuple[RerankPrompt | FakeRerankPrompt, Callable[[], Model]]:
    """The prompt, and what loads the model that runs this spec: the one place where real and fake are told apart."""
    folder = None if spec.is_fake else locate(spec)
    check_digest(spec, folder)
    if folder is None:
        return FakeRerankPrompt(spec), lambda: FakeRerankModel(spec)
    config = read_config(folder)
    prompt = RerankPrompt(spec)
    check_pairs(prompt, folder)
    direction_H = head_direction(folder, config, prompt.yes_id, prompt.no_id)
    return prompt, lambda: RerankModel(spec, folder, Geometry.of(config), direction_H)


class Reranker:
    """A loaded reranker that has shown, on a few pairs, that it gives the reference's scores in every layout.

    spec: which model, or the weights' name alone; dimensions and prompt mean nothing to it, and max_tokens is that of a
    whole pair. Raises ModelError when the weights are no Qwen3-Reranker's, are not those of spec.digest, or score
    wrongly, and for whatever else fails (`setting_up`).
    """

    def __init__(self, spec: ModelSpec | str) -> None:
        spec = ModelSpec(spec) if isinstance(spec, str) else spec
        with setting_up(spec):
            self._prompt, make = load_model(spec)
        with setting_up(spec, on_device=True):
            self._start(spec, make())

    def _start(self, spec: ModelSpec, model: Model) -> None:
        """Has the model show what it must, and get ready."""
        self._model = model
        checked = selfcheck.check_pairs(self._prompt.encode)
        pairs = PairBatches(checked, reuse_prefix=False)
        alone = [pairs.batch(np.array([i])) for i in range(len(checked.query_of))]
        reference = [self._model.reference(batch.ids_T) for batch in alone]
        self._model.start(spec.token_budget, self._prompt.max_tokens)
        self.token_budget = self._model.token_budget
        self.comparisons = selfcheck.compare(checked, reference, self._one_micro_batch)
        selfcheck.check(self.comparisons, self._model.dtype)
        if published := goldens.hub_id(spec, "rerank"):
            goldens.check_reranker(self, published, self._model.dtype)

    @property
    def facts(self) -> Mapping[str, str]:
        """As Embedder.facts."""
        return self._model.facts

    def rank(
        self, query: str, documents: Sequence[str], instruction: str | None = None, top: int | None = None
    ) -> list[Ranked]:
        """The documents, most relevant first; the first `top` of them. Equal logits keep their order.

        A document whose logit is not finite stands last, whatever it is, with NaN.
        """
        found = self.score_pairs([(query, document) for document in documents], instruction)
        order = np.argsort(-found.logits, kind="stable")  # NaN last
        return [Ranked(int(i), float(found.scores[i]), float(found.logits[i])) for i in order[:top]]

    def score_pairs(self, pairs: Sequence[tuple[str, str]], instruction: str | None = None) -> Scores:
        """Relevance of N >= 0 (query, document) pairs, in any order; pairs of the same query share its computation.

        The same pair twice is scored once, and so twice alike. instruction: what to judge by; None = the recipe's.
        """
        places: dict[tuple[str, str], int] = {}
        which_N = np.array([places.setdefault((query, document), len(places)) for query, document in pairs], dtype=int)
        encoded = self.encode_pairs(list(places), instruction)
        logits_N = self.score_encoded(encoded)[which_N]
        return Scores(logits_N, scores_of(logits_N), encoded.truncated[which_N])

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], instruction: str | None = None) -> RerankEncoded:
        """The token ids of the pairs, each different query once."""
        places: dict[str, int] = {}
        query_of_N = np.array([places.setdefault(query, len(places)) for query, _ in pairs], dtype=np.int64)
        return self._prompt.encode(list(places), [document for _, document in pairs], query_of_N, instruction)

    def score_encoded(self, encoded: RerankEncoded, reuse_prefix: bool = True) -> np.ndarray:
        """Logits float32 [N] of tokenised pairs; NaN where not finite. reuse_prefix False: to measure what it brings.

        A micro-batch that does not fit the device is halved, and the token budget with it, for good.
        Raises ReplicaBroken when a single pair does not fit, or the device fails.
        """
        return run(self.request(encoded, reuse_prefix))

    def request(self, encoded: RerankEncoded, reuse_prefix: bool = True) -> Request[np.ndarray]:
        """The same for whoever has the device's queue, to be sent behind another."""
        logits_N = np.full(len(encoded.query_of), np.nan, dtype=np.float32)
        batches = PairBatches(encoded, reuse_prefix)

        def receive(rows_m: np.ndarray, pending: Any) -> None:
            logits_N[rows_m] = self._model.to_host(pending)

        def too_large(rows_m: np.ndarray) -> None:
            self.token_budget = max(1, min(self.token_budget, batches.tokens(rows_m) // 2))

        return Request(
            plan=lambda: batches.plan(self.token_budget),
            send=lambda rows_m: self._model.encode(batches.batch(rows_m)),
            receive=receive,
            too_large=too_large,
            result=lambda: np.where(np.isfinite(logits_N), logits_N, np.float32(np.nan)),
        )

    def _one_micro_batch(self, batches: PairBatches, rows_m: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._model.states_and_logits(batches.batch(rows_m))
