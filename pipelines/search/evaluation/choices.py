"""What would be lost: every smaller dimension and stored form of a table's vectors, measured on its judged queries.

The stored vectors are read once and encoded in every way; no model runs. Memory is that of one part of the table and
of the candidates. Cutting is what `model.dimensions` does (first numbers, unit length again), so a line says what a
table made with that setting would find.

Legend: Q queries, N records, n of a part, D dimensions, M measures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from pipelines.search.evaluation import measures
from pipelines.search.evaluation.forms import Form, cut, forms_of
from pipelines.search.evaluation.measures import Bootstrap, Estimate
from pipelines.search.evaluation.nearest import Best

DIMENSIONS = (1024, 768, 512, 256, 128, 64, 32)
LOSS_ALLOWED = 0.01  # nDCG@10
TIMED_QUERIES = 16
RULE = (
    f"the fewest bytes among the tables that vectormill can make, of those whose loss of nDCG@10 against the table as "
    f"it is stays within {LOSS_ALLOWED:g} with 95 % confidence (paired bootstrap over the queries)"
)


@dataclass(frozen=True, eq=False)
class Choice:
    """One way to store the vectors. change: nDCG@10 minus that of the table as it is, query by query; its `low` is the
    most that is lost. efficient: nothing with as few bytes is better. milliseconds: of one exact search by numpy."""

    form: Form
    dimensions: int
    quality: dict[str, dict[str, float]]
    change: Estimate
    milliseconds: float
    efficient: bool = False
    recommended: bool = False

    @property
    def bytes(self) -> int:
        """Of one vector."""
        return self.form.bytes(self.dimensions)

    @property
    def ndcg(self) -> float:
        return self.quality["nDCG@10"]["mean"]

    @property
    def within(self) -> bool:
        """Its loss stays within what is allowed."""
        return self.change.low >= -LOSS_ALLOWED

    @property
    def settings(self) -> str:
        """What to write in the job file, if the form is one for a table."""
        return f"model.dimensions: {self.dimensions}, table.vector_dtype: {self.form.name}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "dimensions": self.dimensions,
            "form": self.form.name,
            "bytes_per_million_rows": self.bytes * 1_000_000,
            **self.quality,
            "nDCG@10_change": self.change.to_dict(),
            "milliseconds": round(self.milliseconds, 4),
            "searched_by_store": self.form.store or "yes",
            "efficient": self.efficient,
            "recommended": self.recommended,
        }


class Trial:
    """All the choices there are for a table of so many dimensions and this type, being measured.

    sample_ND: some of the table's vectors; int8's scales are taken from them, and searches timed over them."""

    def __init__(self, queries_QD: np.ndarray, vector_dtype: str, sample_ND: np.ndarray):
        full = queries_QD.shape[1]
        sizes = (full, *(size for size in DIMENSIONS if size < full))
        self._queries = {size: cut(queries_QD, size) for size in sizes}
        self._sample_ND = sample_ND
        self._largest = {size: np.abs(cut(sample_ND, size)).max(axis=0) for size in sizes}
        self._best = {
            (form, size): Best(self._queries[size], measures.DEPTH, form.coarse)
            for size in sizes
            for form in forms_of(vector_dtype)
        }

    @property
    def timed_over(self) -> int:
        """Vectors in the sample."""
        return len(self._sample_ND)

    @property
    def ways(self) -> list[tuple[Form, int]]:
        """The (form, dimensions) that are measured, the table's own first."""
        return list(self._best)

    def add(self, documents_n: np.ndarray, vectors_nD: np.ndarray) -> None:
        """The next part of the table."""
        for size, ways in groupby(self._best, key=itemgetter(1)):
            short_nd = cut(vectors_nD, size)
            for form, _ in ways:
                self._best[form, size].add(form.encode(short_nd, self._largest[size]), documents_n)

    def documents(self, form: Form, dimensions: int) -> list[list[int]]:
        """Of each query what is found, the best first."""
        return self._best[form, dimensions].documents()

    def milliseconds(self, form: Form, dimensions: int) -> float:
        """Median time of an exact search of the sample by numpy, one query after the other; encoding not counted."""
        codes = form.encode(cut(self._sample_ND, dimensions), self._largest[dimensions])
        documents_N = np.arange(len(self._sample_ND))
        queries_QD = self._queries[dimensions][:TIMED_QUERIES]
        spent = []
        for at in range(len(queries_QD)):
            started = time.perf_counter()
            best = Best(queries_QD[at : at + 1], measures.DEPTH, form.coarse)
            best.add(codes, documents_N)
            best.documents()
            spent.append(time.perf_counter() - started)
        return 1000 * float(np.median(spent))


def weigh(trial: Trial, judge: Callable[[list[list[int]]], np.ndarray], bootstrap: Bootstrap) -> list[Choice]:
    """The choices, the table as it is first. judge: measures float64 [Q, M] of what each query found."""
    values = {way: judge(trial.documents(*way)) for way in trial.ways}
    ndcg_of_full_Q = values[trial.ways[0]][:, 0]
    found = [
        Choice(
            form,
            dimensions,
            bootstrap.estimates(values_QM),
            bootstrap.estimate(values_QM[:, 0] - ndcg_of_full_Q),
            trial.milliseconds(form, dimensions),
        )
        for (form, dimensions), values_QM in values.items()
    ]
    return _marked(found)


def _marked(found: Sequence[Choice]) -> list[Choice]:
    """With the efficient ones and the recommended one marked."""
    best = -np.inf
    efficient = set()
    for choice in sorted(found, key=lambda c: (c.bytes, -c.ndcg)):
        if choice.ndcg > best:
            efficient.add(choice)
            best = choice.ndcg
    taken = min((c for c in found if c.form.in_table and c.within), key=lambda c: (c.bytes, -c.ndcg))
    return [replace(choice, efficient=choice in efficient, recommended=choice is taken) for choice in found]


def advice(choices: Sequence[Choice]) -> str:
    """The recommended line in words, and what would be smaller if the store could search it."""
    full, taken = choices[0], next(choice for choice in choices if choice.recommended)
    words = f"Keep the table as it is ({taken.settings}): no smaller one stays within {LOSS_ALLOWED:g} nDCG@10."
    if taken is not full:
        change = taken.change
        words = (
            f"{taken.settings}: {full.bytes / taken.bytes:.3g} times fewer bytes than now, nDCG@10 {taken.ndcg:.4f} "
            f"({change.mean:+.4f}, 95 % between {change.low:+.4f} and {change.high:+.4f})."
        )
    smallest = min((c for c in choices if c.within), key=lambda c: (c.bytes, -c.ndcg))
    if smallest.bytes < taken.bytes:
        words += (
            f" Of all forms, {smallest.form.name} with {smallest.dimensions} dimensions is the smallest within "
            f"{LOSS_ALLOWED:g}: {taken.bytes / smallest.bytes:.3g} times fewer bytes again. But "
            f"{str(smallest.form.store).partition(': ')[2]}."
        )
    return words
