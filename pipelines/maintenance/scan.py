"""One pass over every record of a table: is each result sound, and is each record what was handed to Lance?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.content import row_digests, text_digests
from pipelines.table.digests import BATCH_ROWS, id_digests, record_digests, total
from pipelines.table.schema import text_column_of
from pipelines.table.table import LanceTable
from pipelines.tasks.task import Soundness

BATCH_BYTES = 8 << 20
COLUMNS = ["id", "_shard", "_chunk", "_reason", "_id_digest", "_digest"]


@dataclass
class Scan:
    """results: how many records have one. wrong: not sound (`Soundness.measure`), or beside a reason. least, most: of
    what is measured. changed: records that no longer have the digests that they were written with. ids, pairs: sums of
    the digests made again, over some shards."""

    results: int = 0
    wrong: int = 0
    least: float = np.inf
    most: float = -np.inf
    changed: int = 0
    ids: int = 0
    pairs: int = 0


def scan(
    table: LanceTable, shards: Iterable[int], carried: Sequence[str], results: Sequence[str], soundness: Soundness
) -> Scan:
    """Reads the whole table, so it costs what its storage gives, and a few us of CPU a record. carried: the carried
    columns. results: those that the task fills."""
    found = Scan()
    ours = pa.array(list(shards), pa.int64())
    text = text_column_of(table.schema) if table.metadata.task == "embed" else None
    more = [*carried, *([text] if text else []), "_carried", "_passage"] if table.metadata.format > 2 else []
    columns = [*COLUMNS, *results, *more]
    batch_rows = table.rows_of(BATCH_BYTES, columns, BATCH_ROWS)  # Lance reads several batches ahead
    for batch in table.records(columns, "_shard IS NOT NULL", batch_rows=batch_rows):
        for name in results:
            found.wrong += int(
                np.sum(batch[name].is_null().to_numpy(False) != batch["_reason"].is_valid().to_numpy(False))
            )
        measured, right = soundness.measure(batch)
        found.wrong += int(np.sum(~right))  # NaN is never right
        found.least = min(found.least, measured.min(initial=np.inf))
        found.most = max(found.most, measured.max(initial=-np.inf))
        found.results += len(measured)
        ids = id_digests(batch)
        records = record_digests(batch, ids, results)
        same = (ids == batch["_id_digest"].to_numpy()) & (records == batch["_digest"].to_numpy())
        if more:
            same &= _agree(batch["_carried"], row_digests(pa.table(batch.select(carried)), batch.num_rows))
        if more and text:
            same &= _agree(batch["_passage"], text_digests(batch[text]))
        found.changed += int(np.sum(~same))
        inside = pc.is_in(batch["_shard"], value_set=ours).to_numpy(zero_copy_only=False)
        found.ids += total(ids[inside & (batch["_chunk"].to_numpy() == 0)])
        found.pairs += total(records[inside])
    return found


def _agree(stored: pa.Array, made: pa.Array) -> np.ndarray:
    """Where a digest is what it must be, or nobody took one."""
    return pc.fill_null(pc.equal(stored, made), True).to_numpy(zero_copy_only=False)
