"""Micro-batches under a token budget. Pure numpy.

Nothing is padded, so grouping by length is not needed for correctness; it lets equal lengths share one attention
call on a CPU, and longest first makes a memory that is too small show at once.

Legend: N sequences, T tokens in all, n and t those of one micro-batch.
"""

import numpy as np

MOST_SEQUENCES = 65_535  # of a micro-batch: CUDA's attention kernels number them by a grid's second or third dimension


def micro_batches(lengths_N: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Cuts N sequences into micro-batches: index arrays, longest sequences first, each index exactly once.

    A micro-batch holds at most token_budget tokens and MOST_SEQUENCES sequences; a single sequence longer than that
    goes alone.
    """
    assert token_budget >= 1
    order_N = np.argsort(-lengths_N, kind="stable")
    ends_N = np.cumsum(lengths_N[order_N], dtype=np.int64)
    batches = []
    start, used = 0, 0
    while start < len(order_N):
        end = max(start + 1, int(np.searchsorted(ends_N, used + token_budget, side="right")))
        end = min(end, start + MOST_SEQUENCES)
        batches.append(order_N[start:end])
        start, used = end, int(ends_N[end - 1])
    return batches


def gather(ids_T: np.ndarray, offsets: np.ndarray, rows_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the chosen sequences, one behind the other, int [t], and their lengths, int64 [n].

    offsets is int64 [N+1]: sequence i is ids_T[offsets[i]:offsets[i + 1]].
    """
    lengths_n = offsets[rows_n + 1] - offsets[rows_n]
    return ids_T[ranges(offsets[rows_n], lengths_n)], lengths_n


def ranges(starts_n: np.ndarray, lengths_n: np.ndarray) -> np.ndarray:
    """start, start + 1, ... start + length - 1 of every range, one behind the other, int64 [sum of lengths]."""
    before_n = np.cumsum(lengths_n) - lengths_n
    return np.repeat(starts_n - before_n, lengths_n) + np.arange(int(lengths_n.sum()), dtype=np.int64)


def offsets_of(lengths_N: np.ndarray) -> np.ndarray:
    """0, then the running sums of the lengths, int64 [N+1]."""
    offsets = np.zeros(len(lengths_N) + 1, dtype=np.int64)
    np.cumsum(lengths_N, out=offsets[1:])
    return offsets
