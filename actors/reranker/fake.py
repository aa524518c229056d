"""The fake reranker: a document is as relevant as its words are like the query's.

Its logit is SCALE times the cosine of two of the fake model's vectors, that of instruction and query and that of the
document. Sums of small integers are exact, so the result is the same bit for bit in every layout, process and platform.
Use it to try a pipeline out and to test it; not to order anything by relevance.

Legend: N pairs, Q queries, T tokens in all; m pairs, K keys of a micro-batch; D dimensions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from actors import fake, packed
from actors.reranker.batches import PairBatch
from actors.reranker.prompt import RerankEncoded
from actors.spec import ModelError, ModelSpec
from actors.tokenizer import cutting

DIMENSIONS = 256  # more than the fake embedder has: fewer words are alike by chance
SCALE = 8.0
NOTHING = np.zeros(0, dtype=np.int32)


class FakeRerankPrompt:
    """The tokenizer: a head is the words of instruction and query, a tail those of the document; an end token closes
    each of them. Same surface as RerankPrompt."""

    special_tokens = 2

    def __init__(self, spec: ModelSpec) -> None:
        self.max_tokens = spec.max_tokens or fake.MAX_TOKENS
        self._words = fake.HashedWords()
        self._most_of_head = self.max_tokens // 2
        if self._most_of_head < self.special_tokens:
            raise ModelError(f"max_tokens is {self.max_tokens}: nothing of a query would be read. Raise it")

    def encode(
        self, queries: Sequence[str], documents: Sequence[str], query_of: np.ndarray, instruction: str | None = None
    ) -> RerankEncoded:
        """As RerankPrompt.encode; query and instruction get half of max_tokens at most."""
        query_of_N = np.asarray(query_of, dtype=np.int64)
        heads_T, heads_Q, cut_Q = self._closed(
            [f"{instruction or ''} {query}" for query in queries], np.full(len(queries), self._most_of_head)
        )
        tails_T, tails_N, cut_N = self._closed(documents, self.max_tokens - heads_Q[query_of_N])
        return RerankEncoded(
            heads_ids=heads_T,
            heads_offsets=packed.offsets_of(heads_Q),
            tails_ids=tails_T,
            tails_offsets=packed.offsets_of(tails_N),
            query_of=query_of_N,
            truncated=cut_N | cut_Q[query_of_N],
        )

    def _closed(self, texts: Sequence[str], room_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids int32 [T], lengths int64 [n], end token included, and bool [n] that says which were cut to their room."""
        content_T, content_n = self._words.content(texts)
        kept_n = np.minimum(content_n, room_n - 1)
        return *cutting.around(content_T, content_n, kept_n, NOTHING, self._words.suffix), content_n > kept_n


class FakeRerankModel:
    """The model: same surface as RerankModel. A pair's state is its two vectors, float32 [2 D]."""

    dtype = "float32"
    facts: Mapping[str, str] = {}

    def __init__(self, spec: ModelSpec) -> None:
        self.token_budget = fake.TOKEN_BUDGET
        self.device = fake.SimulatedDevice(spec.tokens_per_second())
        self._words_VD = fake.word_vectors(DIMENSIONS)

    def reference(self, ids_T: np.ndarray) -> tuple[np.ndarray, float]:
        """The state and the logit of one pair, summed word by word."""
        head_length = ids_T.tolist().index(fake.END_ID)
        totals = [np.zeros(DIMENSIONS, dtype=np.int64) for _ in range(2)]
        for place, word in enumerate(ids_T.tolist()):
            totals[place > head_length] += self._words_VD[word]
        state_H, logits = _judged(np.stack(totals)[None])
        return state_H[0], float(logits[0])

    def start(self, token_budget: int | None, longest: int) -> None:
        """Ready at once; takes a token budget if one is given."""
        self.token_budget = token_budget or fake.TOKEN_BUDGET

    def encode(self, batch: PairBatch) -> fake.Pending:
        """Queues one micro-batch."""
        at = self.device.queue(len(batch.ids_T))  # this sum is what the device does
        return fake.Pending(self.states_and_logits(batch)[1], at)

    def to_host(self, pending: fake.Pending) -> np.ndarray:
        """The logits, float32 [m]; waits for them."""
        return self.device.fetch(pending)

    def states_and_logits(self, batch: PairBatch) -> tuple[np.ndarray, np.ndarray]:
        """Float32 [m, 2 D] and [m], at once. Sums what each pair sees, whoever computed it."""
        seen_K = batch.ids_T if batch.key_rows_K is None else batch.ids_T[batch.key_rows_K]
        seen_K = seen_K[len(seen_K) - int(batch.keys_n[-batch.pairs :].sum()) :]
        ends = np.flatnonzero(seen_K == fake.END_ID)
        assert len(ends) == 2 * batch.pairs, "each pair has two parts"
        starts = np.concatenate([[0], ends[:-1] + 1])
        sums = np.add.reduceat(self._words_VD[seen_K].astype(np.int64), starts, axis=0)
        return _judged(sums.reshape(batch.pairs, 2, DIMENSIONS))


def _judged(sums_m2D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """States float32 [m, 2 D] and logits float32 [m] of the sums of both parts' words."""
    norms_m2 = np.maximum(np.sqrt(np.square(sums_m2D).sum(axis=2)), 1.0)
    cosine_m = (sums_m2D[:, 0] * sums_m2D[:, 1]).sum(axis=1) / norms_m2.prod(axis=1)
    states = (sums_m2D / norms_m2[:, :, None]).reshape(len(sums_m2D), 2 * DIMENSIONS)
    return states.astype(np.float32), (SCALE * cosine_m).astype(np.float32)
