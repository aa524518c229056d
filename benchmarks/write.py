"""What the write path costs: its MB/s over a raw write of as many bytes to the same folder.

    python -m benchmarks.write [--fragments 4] [--rows 65536] [--dimensions 1024] [--rounds 5] [--folder DIR]

A fragment is `--rows` records as a run writes them (id, unit vector, provenance), built before the clock starts. Each
round measures, one after the other, with the disk's queue emptied (os.sync) before each:

lance         write_rows for each fragment, then one fenced commit: what a worker and the driver do
lance_synced  the same, then fsync of every file of the table
raw           as many bytes as the table's data files have, from the same vectors, one file a fragment, 8 MiB at a time
raw_synced    the same with an fsync of each file

MB/s is bytes of the data files (10^6) over wall seconds. Two ratios: lance/raw, both into the page cache (Lance itself
calls no fsync), and lance_synced/raw_synced, both to the disk. Medians over the rounds, for vectors of both precisions.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import machine
from pipelines.config import StorageConfig
from pipelines.content import text_digests
from pipelines.table.digests import DIGEST_FIELDS, with_digests
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.schema import TableMetadata
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import vectors_schema

PIECE_BYTES = 8 << 20
TYPES = {"float32": np.float32, "float16": np.float16}


def schema_for(dimensions: int, vector_dtype: str) -> pa.Schema:
    metadata = TableMetadata({"dimensions": dimensions, "vector_dtype": vector_dtype}, {"weights": "none"}, 1)
    return vectors_schema(pa.schema([]), dimensions, vector_dtype, metadata)


def records(first: int, rows: int, dimensions: int, vector_dtype: str) -> pa.Table:
    """Records as the embed stage hands them over: random unit vectors, which do not compress."""
    vectors = np.random.default_rng(first).standard_normal((rows, dimensions), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    numbers = np.arange(first, first + rows)
    zeros = np.zeros(rows, np.int32)
    columns = {
        "id": pa.array([f"document-{n:010d}" for n in numbers]),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(TYPES[vector_dtype]).ravel()), dimensions),
        "_shard": pa.array(np.full(rows, 7)),
        "_unit": pa.array(numbers // 8192),
        "_row": pa.array(numbers),
        "_first": pa.array(numbers // 8192 * 8192),
        "_rows": pa.array(np.full(rows, 8192)),
        "_file": pa.array(np.full(rows, 8)),
        "_chunk": pa.array(zeros),
        "_passages": pa.array(zeros + 1),
        "_mark": pa.nulls(rows, pa.string()),
        "_unknown": pa.array(zeros),
        "_start": pa.array(zeros),
        "_end": pa.array(zeros + 700),
        "_tokens": pa.array(zeros + 180),
        "_truncated": pa.array(np.zeros(rows, bool)),
        "_reason": pa.nulls(rows, pa.string()),
        "_detail": pa.nulls(rows, pa.string()),
    }
    columns |= dict.fromkeys(("_text", "_carried", "_passage"), text_digests(columns["id"]))
    given = pa.schema([field for field in schema_for(dimensions, vector_dtype) if field not in DIGEST_FIELDS])
    return with_digests(pa.table([columns[name] for name in given.names], schema=given))


def write_lance(folder: Path, parts: list[pa.Table], schema: pa.Schema, synced: bool) -> float:
    """Seconds to write and commit the parts as a table in `folder`."""
    address = TableAddress(str(folder / "t.lance"), StorageConfig())
    table = LanceTable.open_or_create(address, schema)
    table.take_fence("benchmark", {})
    os.sync()
    started = time.perf_counter()
    table.fence.commit([fragment for part in parts for fragment in write_rows(address, part)], {})
    if synced:
        for file in folder.rglob("*"):
            if file.is_file():
                with open(file, "rb") as opened:
                    os.fsync(opened.fileno())
    seconds = time.perf_counter() - started
    assert table.count_rows() == sum(part.num_rows for part in parts)
    return seconds


def write_raw(folder: Path, parts: list[pa.Table], size: int, synced: bool) -> float:
    """Seconds to write each part's vectors to a file, and some of them again up to `size` bytes."""
    os.sync()
    started = time.perf_counter()
    for number, part in enumerate(parts):
        vectors = memoryview(part["vector"].chunk(0).values.buffers()[1]).cast("B")
        with open(folder / f"raw-{number}", "wb", buffering=0) as file:
            left = size
            while left:
                at = (size - left) % len(vectors)
                left -= file.write(vectors[at : at + min(PIECE_BYTES, left)])
            if synced:
                os.fsync(file.fileno())
    return time.perf_counter() - started


def measure(base: str, parts: list[pa.Table], schema: pa.Schema, rounds: int) -> dict[str, Any]:
    """Alternating rounds over one kind of vectors."""
    with _folder(base) as folder:
        write_lance(folder, parts, schema, synced=False)  # warms up, and tells the sizes
        sizes = [file.stat().st_size for file in (folder / "t.lance" / "data").iterdir()]
    size = sum(sizes) // len(parts)
    kinds: dict[str, Callable[[Path], float]] = {
        "lance": lambda folder: write_lance(folder, parts, schema, synced=False),
        "raw": lambda folder: write_raw(folder, parts, size, synced=False),
        "lance_synced": lambda folder: write_lance(folder, parts, schema, synced=True),
        "raw_synced": lambda folder: write_raw(folder, parts, size, synced=True),
    }
    megabytes = sum(sizes) / 1e6
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        for kind, write in kinds.items():
            with _folder(base) as folder:
                rates[kind].append(megabytes / write(folder))
    median = {kind: statistics.median(found) for kind, found in rates.items()}
    ratios = [a / b for a, b in zip(rates["lance"], rates["raw"], strict=True)]
    synced = [a / b for a, b in zip(rates["lance_synced"], rates["raw_synced"], strict=True)]
    return {
        "data_mb": round(megabytes, 1),
        "logical_mb": round(sum(part.nbytes for part in parts) / 1e6, 1),
        "mb_per_second": {kind: round(rate, 1) for kind, rate in median.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_synced": round(statistics.median(synced), 3),
        "ratio_each_round": [round(ratio, 3) for ratio in ratios],
        "ratio_synced_each_round": [round(ratio, 3) for ratio in synced],
    }


class _folder:
    """A folder that is removed, and its blocks freed, before the next measurement."""

    def __init__(self, base: str):
        self._path = tempfile.mkdtemp(dir=base)

    def __enter__(self) -> Path:
        return Path(self._path)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._path)
        os.sync()


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--fragments", type=int, default=4)
    parser.add_argument("--rows", type=int, default=65_536, help="in a fragment")
    parser.add_argument("--dimensions", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where to write; absent: the folder for temporary files")
    options = parser.parse_args()
    facts = machine.facts()
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as base:
        for kind in TYPES:
            firsts = range(0, options.fragments * options.rows, options.rows)
            parts = [records(first, options.rows, options.dimensions, kind) for first in firsts]
            found[kind] = measure(base, parts, schema_for(options.dimensions, kind), options.rounds)
    print(
        f"{'vectors':>8} {'lance MB/s':>11} {'raw MB/s':>9} {'ratio':>6} {'synced: lance':>14} {'raw':>7} {'ratio':>6}"
    )
    for kind, f in found.items():
        rate = f["mb_per_second"]
        cached = f"{rate['lance']:11,.0f} {rate['raw']:9,.0f} {f['ratio']:6.2f}"
        print(f"{kind:>8} {cached} {rate['lance_synced']:14,.0f} {rate['raw_synced']:7,.0f} {f['ratio_synced']:6.2f}")
    print(json.dumps(machine.result("write", vars(options), facts, **found)))


if __name__ == "__main__":
    main()
