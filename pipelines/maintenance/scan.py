"""One pass over every record of a table: is each result sound, and is each record what was handed to Lance?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.reranker.recipe import scores_of
from pipelines.table.digests import BATCH_ROWS, id_digests, record_digests, total
from pipelines.table.schema import results_of
from pipelines.table.table import LanceTable

NORM_TOLERANCE = {"float32": 1e-3, "float16": 5e-3}
SCORE_TOLERANCE = 1e-6
COLUMNS = ["id", "_shard", "_chunk", "_reason", "_id_digest", "_digest"]


@dataclass
class Scan:
    """results: how many records have one. wrong: not finite, or a vector that is not of unit length or a score that is
    not its logit's, or beside a reason. least, most: length of a vector, or score. changed: records that no longer have
    the digests that they were written with. ids, pairs: sums of the digests made again, over some shards."""

    results: int = 0
    wrong: int = 0
    least: float = np.inf
    most: float = -np.inf
    changed: int = 0
    ids: int = 0
    pairs: int = 0


def scan(table: LanceTable, shards: Iterable[int]) -> Scan:
    """Reads the whole table, so it costs what its storage gives, and a few us of CPU a record."""
    found = Scan()
    ours = pa.array(list(shards), pa.int64())
    results = results_of(table.schema)
    columns = [*COLUMNS, *results]
    for batch in table.dataset.scanner(columns=columns, batch_size=BATCH_ROWS).to_batches():
        for name in results:
            found.wrong += int(
                np.sum(batch[name].is_null().to_numpy(False) != batch["_reason"].is_valid().to_numpy(False))
            )
        if table.metadata.task == "embed":
            _measure_vectors(found, batch["vector"], table.metadata.identity["normalise"])
        else:
            _measure_scores(found, batch)
        ids = id_digests(batch)
        records = record_digests(batch, ids, results)
        same = (ids == batch["_id_digest"].to_numpy()) & (records == batch["_digest"].to_numpy())
        found.changed += int(np.sum(~same))
        inside = pc.is_in(batch["_shard"], value_set=ours).to_numpy(zero_copy_only=False)
        found.ids += total(ids[inside & (batch["_chunk"].to_numpy() == 0)])
        found.pairs += total(records[inside])
    return found


def _measure_vectors(found: Scan, vector: pa.FixedSizeListArray, unit_length: bool) -> None:
    stored = "float16" if vector.type.value_type == pa.float16() else "float32"
    values = vector.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    norms = np.linalg.norm(values.reshape(-1, vector.type.list_size), axis=1)
    right = np.abs(norms - 1.0) <= NORM_TOLERANCE[stored] if unit_length else (norms > 0) & np.isfinite(norms)
    _add(found, norms, right)


def _measure_scores(found: Scan, batch: pa.RecordBatch) -> None:
    there = pc.and_(batch["score"].is_valid(), batch["logit"].is_valid())
    scores, logits = (batch[name].filter(there).to_numpy(zero_copy_only=False) for name in ("score", "logit"))
    _add(found, scores, np.isfinite(logits) & (np.abs(scores - scores_of(logits)) <= SCORE_TOLERANCE))


def _add(found: Scan, measured: np.ndarray, right: np.ndarray) -> None:
    found.wrong += int(np.sum(~right))  # NaN is never right
    found.least = min(found.least, measured.min(initial=np.inf))
    found.most = max(found.most, measured.max(initial=-np.inf))
    found.results += len(measured)
