"""Rows for a table that no run writes: what the layer of the table is tried with."""

import pyarrow as pa

from pipelines.table.schema import TableMetadata
from pipelines.tasks.embed import vectors_schema

METADATA = TableMetadata({"weights": "abc", "dimensions": 4}, {"weights": "fake"}, 8)
SCHEMA = vectors_schema(pa.schema([]), 4, "float32", METADATA)


def rows(unit: int, count: int = 3, shard: int = 1, first: int = 0) -> pa.Table:
    columns = {
        "id": [f"{unit}-{n}" for n in range(count)],
        "vector": [[1.0, 0, 0, 0]] * count,
        "_shard": [shard] * count,
        "_unit": [unit] * count,
        "_row": list(range(first, first + count)),
        "_first": [first] * count,
        "_rows": [count] * count,
        "_chunk": [0] * count,
        "_passages": [1] * count,
        "_start": [0] * count,
        "_end": [1] * count,
        "_tokens": [2] * count,
        "_truncated": [False] * count,
        "_reason": [None] * count,
        "_detail": [None] * count,
        "_id_digest": [0] * count,
        "_digest": [0] * count,
    }
    nobody_knows = {field.name: [None] * count for field in SCHEMA}
    return pa.table({**nobody_knows, **columns}, schema=SCHEMA.remove_metadata())
