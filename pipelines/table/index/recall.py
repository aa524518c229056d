"""Recall@10 of a vector index against exact search, and the least work that reaches a wanted recall.

Queries are rows of the table, drawn at random, moved by noise, and held out: a row is never counted among its own
neighbours. A held-out row is what the table's data look like, and needs no query set; without the noise each copy of a
text would find the others for nothing; counted, a row would find itself. Real queries may lie farther from the rows,
and then need more probes: `vectormill evaluate` measures them.

Exact neighbours come from one pass over all vectors, a matrix product a batch, in float32 and without Lance's search.
A found row counts if it is as similar as the tenth exact neighbour, so that it does not matter which of several equal
rows is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.table.index.records import COLUMN

TOP = 10
QUERIES = 256  # one half to choose the settings with, the other to measure what was chosen
NOISE = 0.3  # length of the random vector added to a row of unit length: a cosine of 0.96 to it
DRAWS = 20  # of 4 x QUERIES rows each, as long as too few of them have a vector
BATCH_ROWS = 8192
TOLERANCE = 1e-5  # float32 rounding of a cosine
SEED = 0
REFINE_FACTORS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Sample:
    """queries_QD: float32, unit length. own_Q: row id of each one's row. tenth_Q: cosine to its tenth neighbour."""

    queries_QD: np.ndarray
    own_Q: np.ndarray
    tenth_Q: np.ndarray

    def half(self, which: int) -> Sample:
        return Sample(self.queries_QD[which::2], self.own_Q[which::2], self.tenth_Q[which::2])


@dataclass(frozen=True)
class Measured:
    """Settings, and the mean recall@10 that `queries` queries had with them; margin: half of its 95 % interval."""

    nprobes: int
    refine_factor: int | None
    recall: float
    margin: float
    queries: int


def sample(dataset: Any) -> Sample:
    """Draw queries and find their exact neighbours: one pass over the table's vectors. The same table gives the same
    queries. At least TOP + 1 of its rows must have a vector."""
    chance = np.random.default_rng(SEED)
    vectors_QD, own_Q = _draw(dataset, chance)
    noise_QD = _unit(chance.standard_normal(vectors_QD.shape, np.float32))
    queries_QD = _unit(vectors_QD + NOISE * noise_QD)
    return Sample(queries_QD, own_Q, _tenth(dataset, queries_QD, own_Q))


def _draw(dataset: Any, chance: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    rows = dataset.count_rows()
    vectors, own = [], []
    for _ in range(DRAWS):
        drawn = np.unique(chance.integers(rows, size=4 * QUERIES))
        vectors_BD, ids_B = _vectors(dataset.take(drawn.tolist(), columns=[COLUMN, "_rowid"]))
        vectors.append(vectors_BD)
        own.append(ids_B)
        if sum(map(len, own)) >= QUERIES:
            break
    if sum(map(len, own)) < QUERIES:  # hardly any row has a vector: the first ones that do
        only = f"{COLUMN} IS NOT NULL"
        rest = dataset.to_table(columns=[COLUMN], filter=only, with_row_id=True, limit=QUERIES)
        vectors_BD, ids_B = _vectors(rest)
        vectors.append(vectors_BD)
        own.append(ids_B)
    own_Q, first = np.unique(np.concatenate(own), return_index=True)
    picked = chance.permutation(len(own_Q))[:QUERIES]
    return np.concatenate(vectors)[first[picked]], own_Q[picked]


def _vectors(rows: pa.Table | pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """(unit vectors [B, D] float32, row ids [B]) of those rows that have a vector."""
    rows = rows.filter(rows[COLUMN].is_valid())
    column = rows[COLUMN]
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return _unit(values.reshape(-1, column.type.list_size)), rows["_rowid"].to_numpy()


def _unit(vectors_BD: np.ndarray) -> np.ndarray:
    return vectors_BD / np.maximum(np.linalg.norm(vectors_BD, axis=1, keepdims=True), 1e-30)


def _tenth(dataset: Any, queries_QD: np.ndarray, own_Q: np.ndarray) -> np.ndarray:
    """The cosine [Q] of each query to its tenth nearest row, its own aside."""
    query_of = {int(row): query for query, row in enumerate(own_Q)}
    best_QK = np.full((len(own_Q), TOP), -np.inf, np.float32)
    for batch in dataset.scanner(columns=[COLUMN], with_row_id=True, batch_size=BATCH_ROWS).to_batches():
        vectors_BD, ids_B = _vectors(batch)
        cosines_QB = queries_QD @ vectors_BD.T
        for place in np.flatnonzero(np.isin(ids_B, own_Q)):
            cosines_QB[query_of[int(ids_B[place])], place] = -np.inf
        better_B = (cosines_QB > best_QK.min(axis=1, keepdims=True)).any(axis=0)  # few, after the first batches
        both = np.concatenate([best_QK, cosines_QB[:, better_B]], axis=1)
        best_QK = np.partition(both, -TOP, axis=1)[:, -TOP:]
    return best_QK.min(axis=1)


def recall(dataset: Any, queries: Sample, nprobes: int, refine_factor: int | None) -> np.ndarray:
    """Recall@10 [Q] of each query, in 0..1, through the index that `dataset` has. Exactly `nprobes` partitions are
    probed: a search that takes them for its least, as it must to find enough behind a filter, finds no less."""
    found_Q = np.zeros(len(queries.own_Q))
    for number, (query_D, own, tenth) in enumerate(
        zip(queries.queries_QD, queries.own_Q, queries.tenth_Q, strict=True)
    ):
        nearest = {"column": COLUMN, "q": query_D, "k": TOP + 1, "metric": "cosine", "nprobes": nprobes}
        if refine_factor is not None:
            nearest["refine_factor"] = refine_factor
        columns = ["_rowid", COLUMN]
        rows = dataset.scanner(columns=columns, nearest=nearest, disable_scoring_autoprojection=True).to_table()
        vectors_KD, ids_K = _vectors(rows)
        cosines_K = (vectors_KD @ query_D)[ids_K != own][:TOP]
        found_Q[number] = np.sum(cosines_K >= tenth - TOLERANCE) / TOP
    return found_Q


def tune(dataset: Any, queries: Sample, partitions: int, min_recall: float, codes: bool) -> Measured | None:
    """The fewest probes, and then the smallest refine factor, that reach `min_recall`; None if nothing does.

    Half of the loss that is allowed goes to partitions that are not probed, the rest to codes. Chosen on one half of
    the queries, measured on the other: the settings that just reach it on the half they were chosen with tend to be
    lucky there. There the whole 95 % interval must be above `min_recall`, so that other queries find as much; where it
    is not the settings are raised until it is."""
    choosing, measuring = queries.half(0), queries.half(1)
    most = REFINE_FACTORS[-1] if codes else None
    least = (1 + min_recall) / 2
    nprobes = _fewest(lambda n: recall(dataset, choosing, n, most).mean() >= least, partitions)
    ladder: list[int | None] = list(REFINE_FACTORS) if codes else [None]
    reached = (f for f in ladder if recall(dataset, choosing, nprobes, f).mean() >= min_recall)
    step = ladder.index(next(reached, most))
    while True:
        recall_Q = recall(dataset, measuring, nprobes, ladder[step])
        margin = 1.96 * float(recall_Q.std(ddof=1)) / len(recall_Q) ** 0.5
        if recall_Q.mean() - margin >= min_recall:
            return Measured(nprobes, ladder[step], float(recall_Q.mean()), margin, len(recall_Q))
        if nprobes == partitions and step == len(ladder) - 1:
            return None
        nprobes, step = min(partitions, nprobes + -(-nprobes // 2)), min(step + 1, len(ladder) - 1)


def _fewest(enough: Any, most: int) -> int:
    """The smallest number up to `most` that is enough, if more is never worse; `most` if none is."""
    high = 1
    while high < most and not enough(high):
        high = min(2 * high, most)
    low = high // 2  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
