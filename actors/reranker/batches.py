"""Micro-batches of (query, document) pairs in which the tokens that pairs share are computed once. Pure numpy.

A pair is a head (system, instruction, query) and a tail (document, suffix). All heads of a call begin with the same
tokens, and all documents of a query have the same head:

    common   [common]                                    once in a micro-batch
    head     (common) [rest of its head]                 once for a query with several documents in it
    tail     (common) (rest of its head) [tail]          each of those documents
    alone    (common) [rest of its head, tail]           the only document of its query

What stands in [] is computed; what stands in () are keys that are there already. This is exact: in a causal model no
token sees what comes after it. 85 shared and 108 own tokens: 1.7 times less to compute.

Legend: N pairs, Q queries; m pairs, n sequences, T tokens, K keys of a micro-batch.
"""

from dataclasses import dataclass

import numpy as np

from actors import packed
from actors.reranker.prompt import RerankEncoded

# The keys of a sequence are copied together for attention. A long query with very short documents would need far more
# memory for them than for its tokens; 4 is what the memory measured at start allows for.
KEYS_PER_TOKEN = 4
# With the heads of queries that have several documents, and what all heads begin with, no more than MOST_SEQUENCES.
MOST_PAIRS = 2 * (packed.MOST_SEQUENCES - 1) // 3


@dataclass(frozen=True)
class PairBatch:
    """The tokens of a micro-batch, and which keys each of its n sequences sees.

    Sequence i asks with the next queries_n[i] tokens and sees keys_n[i] tokens, its own among them as the last ones;
    key_rows_K says which, one sequence behind the other (None = its own alone). The m pairs are the last m sequences.
    """

    ids_T: np.ndarray  # int64
    positions_T: np.ndarray  # int64
    queries_n: np.ndarray  # int64
    keys_n: np.ndarray  # int64
    key_rows_K: np.ndarray | None  # int64
    pairs: int


class PairBatches:
    """Plans and lays out the micro-batches of N tokenised pairs. reuse_prefix False: every pair is computed whole."""

    def __init__(self, encoded: RerankEncoded, reuse_prefix: bool) -> None:
        self._reuse = reuse_prefix
        self._ids = np.concatenate([encoded.heads_ids, encoded.tails_ids]).astype(np.int64)
        self._query_of_N = encoded.query_of
        self._head_at_Q, self._head_Q = encoded.heads_offsets[:-1], np.diff(encoded.heads_offsets)
        self._tail_at_N = encoded.tails_offsets[:-1] + len(encoded.heads_ids)
        self._tail_N = np.diff(encoded.tails_offsets)
        self._common = _common(self._ids, self._head_at_Q, self._head_Q) if reuse_prefix else 0

    def plan(self, token_budget: int) -> list[np.ndarray]:
        """Cuts the pairs into micro-batches: index arrays, each pair exactly once.

        Queries in their order, the documents of each from the longest to the shortest (equal lengths share one
        attention call on a CPU). A micro-batch computes at most token_budget tokens, copies at most KEYS_PER_TOKEN
        times as many keys, and has at most MOST_PAIRS pairs; a pair beyond the first two goes alone.
        """
        pair_N = self._head_Q[self._query_of_N] + self._tail_N
        if not self._reuse:
            return packed.micro_batches(pair_N, token_budget)
        order_N = np.lexsort((-self._tail_N, self._query_of_N))
        query_N = self._query_of_N[order_N]
        rest_N = self._head_Q[query_N] - self._common
        first_N = np.diff(query_N, prepend=-1) != 0
        tokens_N = np.cumsum(self._tail_N[order_N] + rest_N * first_N)
        keys_N = np.cumsum(pair_N[order_N])
        batches, start = [], 0
        while start < len(order_N):
            before = int(tokens_N[start] - self._tail_N[order_N[start]] - rest_N[start])
            by_tokens = np.searchsorted(tokens_N, before + token_budget - self._common, side="right")
            seen = int(keys_N[start] - pair_N[order_N[start]])
            by_keys = np.searchsorted(keys_N, seen + KEYS_PER_TOKEN * token_budget, side="right")
            end = max(start + 1, min(int(by_tokens), int(by_keys), start + MOST_PAIRS))
            batches.append(order_N[start:end])
            start = end
        return batches

    def tokens(self, rows_m: np.ndarray) -> int:
        """How many tokens a micro-batch of these pairs computes."""
        heads_m = self._head_Q[self._query_of_N[rows_m]]
        if not self._reuse:
            return int((heads_m + self._tail_N[rows_m]).sum())
        queries = np.unique(self._query_of_N[rows_m])
        return int(self._common + (self._head_Q[queries] - self._common).sum() + self._tail_N[rows_m].sum())

    def batch(self, rows_m: np.ndarray) -> PairBatch:
        """The micro-batch of these pairs, in this order."""
        query_m = self._query_of_N[rows_m]
        queries, which_m, times = np.unique(query_m, return_inverse=True, return_counts=True)
        several = (times > 1) & self._reuse
        is_tail_m = several[which_m]
        heads = queries[several]
        common = self._common if len(queries) > 1 else 0
        begin = queries[: 1 if common else 0]  # any head has the common tokens
        first_n = np.arange(len(begin) + len(heads) + len(rows_m)) < len(begin)
        before = np.zeros(len(begin) + len(heads), dtype=np.int64)  # for the sequences that are no pairs

        rest_m = self._head_Q[query_m] - common
        from_head_n = np.concatenate(
            [np.full(len(begin), common), self._head_Q[heads] - common, np.where(is_tail_m, 0, rest_m)]
        )
        head_at_n = self._head_at_Q[np.concatenate([begin, heads, query_m])] + np.where(first_n, 0, common)
        from_tail_n = np.concatenate([before, self._tail_N[rows_m]])
        tail_at_n = np.concatenate([before, self._tail_at_N[rows_m]])
        own_n = from_head_n + from_tail_n
        own_at_n = np.cumsum(own_n) - own_n

        seen_common_n = np.where(first_n, 0, common)
        seen_head_n = np.concatenate([before, np.where(is_tail_m, rest_m, 0)])
        head_of_m = np.where(is_tail_m, len(begin) + np.searchsorted(heads, query_m), 0)
        seen_head_at_n = np.concatenate([before, own_at_n[head_of_m]])
        keys_n = seen_common_n + seen_head_n + own_n
        nothing_shared = len(keys_n) == len(rows_m)
        return PairBatch(
            ids_T=self._ids[_ranges((head_at_n, from_head_n), (tail_at_n, from_tail_n))],
            positions_T=packed.ranges(keys_n - own_n, own_n),
            queries_n=own_n,
            keys_n=keys_n,
            key_rows_K=None
            if nothing_shared
            else _ranges((np.zeros_like(own_n), seen_common_n), (seen_head_at_n, seen_head_n), (own_at_n, own_n)),
            pairs=len(rows_m),
        )


def _ranges(*parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The ranges (starts, lengths) of the first row of every part, then of the second, ..., int64."""
    starts, lengths = (np.stack([part[i] for part in parts], axis=1).ravel() for i in (0, 1))
    return packed.ranges(starts, lengths)


def _common(ids: np.ndarray, starts_Q: np.ndarray, lengths_Q: np.ndarray) -> int:
    """How many tokens all heads begin with; less than any head's length, so that each has tokens of its own."""
    if len(starts_Q) < 2:
        return 0
    most = int(lengths_Q.min()) - 1
    return next((i for i in range(most) if (ids[starts_Q + i] != ids[starts_Q[0] + i]).any()), most)
