"""The best documents of many queries, over a table that is read part by part: memory does not grow with the table.

A document may have several passages (chunks), in one part or in several; its score is that of its best passage.
Documents are int64 numbers (digests of their ids).

Legend: Q queries, n passages of a part, u different documents of a part, K candidates kept.
"""

from __future__ import annotations

import numpy as np

from pipelines.search.evaluation.forms import Codes

MULTIPLE = 4  # of a coarse form, so many times the wanted documents are scored again
QUERIES_AT_ONCE = 1024


class Best:
    """Of each query the best `depth` documents so far; rows of fewer are filled up with -inf.

    coarse: the form gives a first order only (`Codes.rescored`); then MULTIPLE * depth passages are kept, and scored
    again, before the best `depth` documents are taken."""

    def __init__(self, queries_QD: np.ndarray, depth: int, coarse: bool):
        self._queries_QD, self._depth, self._coarse = queries_QD, depth, coarse
        empty = (len(queries_QD), 0)
        self._keys_QK = np.empty(empty, np.float32)  # what candidates are kept by
        self._scores_QK = np.empty(empty, np.float32)  # what they are ordered by in the end
        self._documents_QK = np.empty(empty, np.int64)

    def add(self, codes: Codes, documents_n: np.ndarray) -> None:
        """The next part of the table."""
        at_once = range(0, len(self._queries_QD), QUERIES_AT_ONCE)
        blocks = [self._block(codes, documents_n, slice(at, at + QUERIES_AT_ONCE)) for at in at_once]
        self._keys_QK, self._scores_QK, self._documents_QK = (
            np.concatenate(parts) for parts in zip(*blocks, strict=True)
        )

    def _block(self, codes: Codes, documents_n: np.ndarray, block: slice) -> tuple[np.ndarray, ...]:
        queries_QD = self._queries_QD[block]
        keys_Qn = codes.scores(queries_QD)
        keep = self._depth
        if self._coarse:
            keep *= MULTIPLE
        else:
            keys_Qn, documents_n = _by_document(keys_Qn, documents_n)
        taken_Qk = _largest(keys_Qn, keep)
        keys_Qk = np.take_along_axis(keys_Qn, taken_Qk, axis=1)
        scores_Qk = keys_Qk
        if self._coarse:
            scored = [codes.rescored(q_D, taken_k) for q_D, taken_k in zip(queries_QD, taken_Qk, strict=True)]
            scores_Qk = np.stack([row for row in scored if row is not None])
        return _kept(
            np.concatenate([self._keys_QK[block], keys_Qk], axis=1),
            np.concatenate([self._scores_QK[block], scores_Qk], axis=1),
            np.concatenate([self._documents_QK[block], documents_n[taken_Qk]], axis=1),
            keep,
            each_once=not self._coarse,
        )

    def documents(self) -> list[list[int]]:
        """Of each query its documents, the best first."""
        _, scores_QK, documents_QK = _kept(
            self._scores_QK, self._scores_QK, self._documents_QK, self._depth, each_once=True
        )
        return [
            documents_K[np.isfinite(scores_K)].tolist()
            for scores_K, documents_K in zip(scores_QK, documents_QK, strict=True)
        ]


def _by_document(scores_Qn: np.ndarray, documents_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores [Q, u] of the different documents [u] of a part."""
    order_n = np.argsort(documents_n, kind="stable")
    sorted_n = documents_n[order_n]
    starts_u = np.flatnonzero(np.append(True, sorted_n[1:] != sorted_n[:-1]))
    if len(starts_u) == len(documents_n):
        return scores_Qn, documents_n
    return np.maximum.reduceat(scores_Qn[:, order_n], starts_u, axis=1), sorted_n[starts_u]


def _largest(keys_Qn: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` largest are, in no order, [Q, count]; all if there are no more."""
    if keys_Qn.shape[1] <= count:
        return np.broadcast_to(np.arange(keys_Qn.shape[1]), keys_Qn.shape)
    return np.argpartition(-keys_Qn, count - 1, axis=1)[:, :count]


def _kept(
    keys_QK: np.ndarray, scores_QK: np.ndarray, documents_QK: np.ndarray, keep: int, each_once: bool
) -> tuple[np.ndarray, ...]:
    """The `keep` candidates with the largest keys, largest first; with `each_once`, a document's best alone (what is
    then missing is -inf)."""
    keys_QK, scores_QK, documents_QK = _sorted(keys_QK, scores_QK, documents_QK)
    if each_once and (again_QK := _seen_before(documents_QK)).any():
        lost = np.float32(-np.inf)
        keys_QK, scores_QK, documents_QK = _sorted(
            np.where(again_QK, lost, keys_QK), np.where(again_QK, lost, scores_QK), documents_QK
        )
    return keys_QK[:, :keep], scores_QK[:, :keep], documents_QK[:, :keep]


def _sorted(keys_QK: np.ndarray, *others_QK: np.ndarray) -> tuple[np.ndarray, ...]:
    order_QK = np.argsort(-keys_QK, axis=1, kind="stable")
    return tuple(np.take_along_axis(values_QK, order_QK, axis=1) for values_QK in (keys_QK, *others_QK))


def _seen_before(documents_QK: np.ndarray) -> np.ndarray:
    """bool [Q, K]: the document stands further to the left too."""
    order_QK = np.argsort(documents_QK, axis=1, kind="stable")
    sorted_QK = np.take_along_axis(documents_QK, order_QK, axis=1)
    again_QK = np.zeros(documents_QK.shape, np.bool_)
    np.put_along_axis(again_QK, order_QK[:, 1:], sorted_QK[:, 1:] == sorted_QK[:, :-1], axis=1)
    return again_QK
