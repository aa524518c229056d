"""What is read of a table to judge it: which judged documents are in it, a sample of its vectors, and all of them.

Documents go by the digest of their id, an int64 that each record carries (`pipelines.table.digests`): no list of all
ids is kept.

Legend: n records of a part, N of a sample, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.search.evaluation.beir import Collection
from pipelines.table.digests import ID_DIGEST, id_digests
from pipelines.table.table import LanceTable

SAMPLE_ROWS, SAMPLE_BYTES = 20_000, 64 << 20
WITH_VECTOR, WITHOUT_VECTOR = "_reason IS NULL", "_reason IS NOT NULL"


@dataclass(frozen=True)
class Coverage:
    """What of a collection a table holds. names: id by digest, of the judged documents. found, bad: those of them that
    are in the table with a vector, and without one. vectors: in the table, of whatever document."""

    names: dict[int, str]
    found: set[str]
    bad: set[str]
    vectors: int

    @property
    def missing(self) -> list[str]:
        """Judged documents that are not in the table."""
        return sorted(set(self.names.values()) - self.found - self.bad)


def coverage(table: LanceTable, collection: Collection) -> Coverage:
    """Reads one column of numbers."""
    documents = sorted(collection.documents)
    numbers_N = digests_of(documents)
    names = dict(zip(numbers_N.tolist(), documents, strict=True))

    def among(which: str) -> tuple[set[str], int]:
        seen: set[int] = set()
        rows = 0
        for batch in table.records([ID_DIGEST], which):
            part_n = batch[ID_DIGEST].to_numpy()
            seen.update(part_n[np.isin(part_n, numbers_N)].tolist())
            rows += len(part_n)
        return {names[number] for number in seen}, rows

    (found, vectors), (bad, _) = among(WITH_VECTOR), among(WITHOUT_VECTOR)
    return Coverage(names, found, bad - found, vectors)


def digests_of(ids: Sequence[str]) -> np.ndarray:
    """int64 [N], what the records of these documents carry."""
    return id_digests(pa.record_batch([pa.array(ids, pa.string())], ["id"]))


def sample(table: LanceTable, dimensions: int) -> np.ndarray:
    """Some vectors, float32 [N, D], the same ones for the same version of the table."""
    rows, wanted = table.count_rows(), min(SAMPLE_ROWS, SAMPLE_BYTES // (4 * dimensions))
    places = np.arange(rows)
    if rows > wanted:
        places = np.unique(np.random.default_rng(0).integers(0, rows, wanted))
    vectors_ND = _vectors(table.take(places.tolist(), ["vector"]).combine_chunks()["vector"].chunk(0))
    if not len(vectors_ND):  # nearly all rows are bad
        vectors_ND = np.concatenate([part for _, part in parts(table, wanted)])[:wanted]
    return vectors_ND


def parts(table: LanceTable, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All records that have a vector, `rows` at most at a time: documents int64 [n], vectors float32 [n, D]."""
    columns = [ID_DIGEST, "vector"]
    for batch in table.records(columns, WITH_VECTOR, batch_rows=rows):
        if batch.num_rows:
            yield batch[ID_DIGEST].to_numpy(), _vectors(batch["vector"])


def _vectors(column: pa.FixedSizeListArray) -> np.ndarray:
    """float32 [n, D] of those that are not null."""
    numbers = column.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, column.type.list_size).astype(np.float32, copy=False)
