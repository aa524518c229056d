"""Quality of ranked lists by pytrec_eval, and how sure one can be of it.

pytrec_eval (trec_eval's own code) orders a list by its scores and breaks ties by document id. What is judged here is
the order in which a search returned its documents, so it gets ranks in place of scores.

Legend: Q queries, M measures, S resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines.errors import ConfigError

MEASURES = ("nDCG@10", "recall@100", "MRR@10")
DEPTH = 100  # documents of a list that are looked at
TOP = 10  # of those, the first that a user sees
RESAMPLES = 1000
CONFIDENCE = 0.95

Judged = Mapping[str, Mapping[str, int]]
Lists = Sequence[Sequence[str]]  # of each query, document ids, the best first


def check_installed() -> Any:
    """The module pytrec_eval. Raises ConfigError, saying how to get it."""
    try:
        import pytrec_eval
    except ImportError:
        raise ConfigError(
            "evaluate needs pytrec_eval, which is not installed: pip install 'vectormill[evaluate]'"
        ) from None
    return pytrec_eval


def per_query(judged: Judged, lists: Lists) -> np.ndarray:
    """float64 [Q, M] of the lists of the queries of `judged`, in that order.

    A judged document that no list can hold counts as not found. MRR looks at the first 10 documents only."""
    evaluator = check_installed().RelevanceEvaluator
    deep = evaluator(judged, {f"ndcg_cut.{TOP}", f"recall.{DEPTH}"}).evaluate(_ranked(judged, lists, DEPTH))
    first = evaluator(judged, {"recip_rank"}).evaluate(_ranked(judged, lists, TOP))
    none: dict[str, float] = {}  # a query for which nothing was found
    names = (f"ndcg_cut_{TOP}", f"recall_{DEPTH}")
    rows = [
        [*(deep.get(query, none).get(name, 0.0) for name in names), first.get(query, none).get("recip_rank", 0.0)]
        for query in judged
    ]
    return np.array(rows, np.float64)


def _ranked(judged: Judged, lists: Lists, depth: int) -> dict[str, dict[str, float]]:
    return {
        query: {document: float(depth - rank) for rank, document in enumerate(found[:depth])}
        for query, found in zip(judged, lists, strict=True)
    }


def overlap(lists: Sequence[Sequence[int]], reference: Sequence[Sequence[int]], depth: int = TOP) -> float:
    """Mean share of the first `depth` documents of the reference that are among the first `depth` of the lists."""
    pairs = [
        (set(found[:depth]), set(right[:depth])) for found, right in zip(lists, reference, strict=True) if len(right)
    ]
    return float(np.mean([len(found & right) / len(right) for found, right in pairs])) if pairs else 1.0


@dataclass(frozen=True)
class Estimate:
    """A mean over the queries, and the interval in which it lies in 95 of 100 draws of as many queries."""

    mean: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


class Bootstrap:
    """Means over the same S resamples of Q queries for everything that is estimated, so that differences are paired.

    A resample of Q queries with replacement is how often each query is in it: [S, Q] counts, and the means of any
    number of columns are one matrix product."""

    def __init__(self, queries: int, seed: int = 0, resamples: int = RESAMPLES):
        drawn = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), size=resamples)
        self._weights_SQ = drawn.astype(np.float32)
        self._queries = queries

    def estimate(self, values_Q: np.ndarray) -> Estimate:
        means_S = self._weights_SQ @ values_Q / self._queries
        tail = 100 * (1 - CONFIDENCE) / 2
        low, high = np.percentile(means_S, [tail, 100 - tail])
        return Estimate(float(values_Q.mean()), float(low), float(high))

    def estimates(self, values_QM: np.ndarray) -> dict[str, dict[str, float]]:
        """By the name of the measure."""
        return {name: self.estimate(values_QM[:, at]).to_dict() for at, name in enumerate(MEASURES)}
