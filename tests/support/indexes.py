"""Tables of clustered vectors, their indexes, and how much of what is nearest these find."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from pipelines.maintenance.optimize import optimize
from pipelines.table.files import write_rows
from pipelines.table.index.vector import IndexWanted
from pipelines.table.schema import NEW_FIELDS, TableMetadata, with_text
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import vectors_schema
from tests.support.jobs import Said

DIMENSIONS = 32
IDENTITY = {"weights": "fake", "dimensions": DIMENSIONS, "dtype": "float32"}
METADATA = TableMetadata(IDENTITY, {"weights": "fake"}, 8)


def clustered(count, seed=0, clusters=20, spread=0.7):
    """Unit vectors [count, DIMENSIONS] float32 around random centres, the same ones for every seed."""
    centres = np.random.default_rng(1).standard_normal((clusters, DIMENSIONS))
    chance = np.random.default_rng(seed)
    vectors = centres[chance.integers(clusters, size=count)] + spread * chance.standard_normal((count, DIMENSIONS))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def schema_of(dtype="float32", extra=()):
    return vectors_schema(with_text(extra, "text"), DIMENSIONS, dtype, METADATA)


def records(vectors, unit, schema, texts=None, without=0):
    """Rows of one unit; the first `without` of them have a reason in place of a vector."""
    count = len(vectors)
    number = pa.array(np.arange(count))
    values = pa.array(vectors.ravel().astype(np.float16 if "half" in str(schema.field("vector").type) else np.float32))
    missing = pa.array(np.arange(count) < without)
    filled = pa.FixedSizeListArray.from_arrays(values, DIMENSIONS, mask=missing)
    zeros = np.zeros(count, np.int64)
    columns = {
        "id": [f"{unit}-{n}" for n in range(count)],
        "text": texts or [f"row {n}" for n in range(count)],
        "vector": filled,
        **dict.fromkeys(("_shard", "_chunk", "_start", "_end", "_id_digest", "_digest"), zeros),
        "_unit": zeros + unit,
        "_row": number,
        "_first": zeros,
        "_rows": zeros + count,
        "_passages": zeros + 1,
        "_tokens": zeros + 2,
        "_truncated": [False] * count,
        "_reason": ["empty_text" if n < without else None for n in range(count)],
        "_detail": [None] * count,
    }
    nobody_knows = {field.name: pa.nulls(count, field.type) for field in NEW_FIELDS}
    others = {f.name: pa.array([f"{unit}"] * count) for f in schema if f.name not in columns}
    arrays = {**others, **nobody_knows, **{name: pa.array(values) for name, values in columns.items()}}
    return pa.table({name: arrays[name] for name in schema.names}).cast(schema.remove_metadata())


def add(address, *parts, schema=None, **options):
    """Commit each array of vectors as a fragment of its own, as a run would."""
    schema = schema or schema_of()
    table = LanceTable.open_or_create(address, schema)
    table.take_fence("test", {})
    for number, vectors in enumerate(parts):
        rows = records(vectors, table.version + number, schema, **options)
        table.fence.commit(write_rows(address, rows), {})
    return table


def fitted(address, **wanted):
    return optimize(address, Said(), IndexWanted(**wanted)).to_dict()["index"]


def nearest(dataset, query, tuning, limit=10):
    options = {"column": "vector", "q": query, "k": limit, "metric": "cosine", "nprobes": tuning.nprobes}
    if tuning.refine_factor is not None:
        options["refine_factor"] = tuning.refine_factor
    return dataset.scanner(columns=["id", "_distance"], nearest=options).to_table()["id"].to_pylist()


def exactly(dataset, query, limit=10):
    options = {"column": "vector", "q": query, "k": limit, "metric": "cosine", "use_index": False}
    return dataset.scanner(columns=["id", "_distance"], nearest=options).to_table()["id"].to_pylist()


def overlap(dataset, tuning, queries):
    return np.mean([len(set(nearest(dataset, q, tuning)) & set(exactly(dataset, q))) / 10 for q in queries])


def left_over(address):
    """Files of indexes that the table does not have, nor had in another version, and versions that are none."""
    root = Path(address.uri)
    there = {f.name for f in (root / "_indices").iterdir()} if (root / "_indices").exists() else set()
    for version in lance.dataset(address.uri).versions():
        dataset = lance.dataset(address.uri, version=version["version"])
        there -= {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
    return sorted(there) + detached(address)


def detached(address):
    return [f.name for f in (Path(address.uri) / "_versions").iterdir() if f.name.startswith("d")]
