"""One pass over every record of a table: is each vector sound, and is each record what was handed to Lance?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.digests import BATCH_ROWS, id_digests, record_digests, total
from pipelines.lance_table import LanceTable

NORM_TOLERANCE = {"float32": 1e-3, "float16": 5e-3}
COLUMNS = ["id", "vector", "_shard", "_chunk", "_reason", "_id_digest", "_digest"]


@dataclass
class Scan:
    """vectors: how many. wrong: not finite, not of unit length, or beside a reason. changed: records that no longer
    have the digests that they were written with. ids, pairs: sums of the digests made again, over some shards."""

    vectors: int = 0
    wrong: int = 0
    shortest: float = np.inf
    longest: float = 0.0
    changed: int = 0
    ids: int = 0
    pairs: int = 0


def scan(table: LanceTable, shards: Iterable[int]) -> Scan:
    """Reads the whole table, so it costs what its storage gives, and a few us of CPU a record."""
    found = Scan()
    ours = pa.array(list(shards), pa.int64())
    for batch in table.dataset.scanner(columns=COLUMNS, batch_size=BATCH_ROWS).to_batches():
        _measure(found, batch, table.metadata.identity["normalise"])
        ids = id_digests(batch)
        records = record_digests(batch, ids)
        same = (ids == batch["_id_digest"].to_numpy()) & (records == batch["_digest"].to_numpy())
        found.changed += int(np.sum(~same))
        inside = pc.is_in(batch["_shard"], value_set=ours).to_numpy(zero_copy_only=False)
        found.ids += total(ids[inside & (batch["_chunk"].to_numpy() == 0)])
        found.pairs += total(records[inside])
    return found


def _measure(found: Scan, batch: pa.RecordBatch, unit_length: bool) -> None:
    vector, reason = batch["vector"], batch["_reason"]
    stored = "float16" if vector.type.value_type == pa.float16() else "float32"
    found.wrong += int(np.sum(vector.is_null().to_numpy(False) != reason.is_valid().to_numpy(False)))
    values = vector.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    norms = np.linalg.norm(values.reshape(-1, vector.type.list_size), axis=1)
    right = np.abs(norms - 1.0) <= NORM_TOLERANCE[stored] if unit_length else (norms > 0) & np.isfinite(norms)
    found.wrong += int(np.sum(~right))  # NaN is never right
    found.shortest = min(found.shortest, norms.min(initial=np.inf))
    found.longest = max(found.longest, norms.max(initial=0.0))
    found.vectors += len(norms)
