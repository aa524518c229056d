"""What planning costs when the corpus is very many small files.

    python -m benchmarks.planning [--files 100000] [--format parquet|jsonl]

Generates the files in a temporary folder, plans them twice in this process (the second time with the remembered
counts), cuts, packs and spans the units, deletes the files, and prints one JSON line. The bound to keep: 100,000
files in 60 s of CPU and 1 GB of memory.
"""

from __future__ import annotations

import io
import json
import os
import resource
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import machine
from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.inline import InlineExecutor
from pipelines.run.sizing import bundles, spans
from pipelines.units import cut

ROWS_PER_UNIT = 4096
FILES_PER_FOLDER = 1000
ONE_HOUR = 3600


def generate(folder: str, files: int, kind: str) -> None:
    """`files` files of a few rows each, an hour old, so that their counts may be remembered."""
    old = time.time() - ONE_HOUR
    for number in range(files):
        rows = [{"id": f"{number}-{i}", "text": f"document {i} of file {number}"} for i in range(1 + number % 5)]
        if number % FILES_PER_FOLDER == 0:
            os.makedirs(f"{folder}/{number // FILES_PER_FOLDER:04d}")
        path = f"{folder}/{number // FILES_PER_FOLDER:04d}/{number:06d}.{kind}"
        with open(path, "wb") as stream:
            stream.write(_content(rows, kind))
        os.utime(path, (old, old))


def _content(rows: list[dict[str, str]], kind: str) -> bytes:
    if kind == "jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def plan(folder: str, side_folder: str) -> dict[str, float]:
    """Plan the corpus once; what it found and what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    storage = StorageConfig()
    shards = scan_all(Corpus(CorpusConfig(uri=folder), storage), side_folder, storage, InlineExecutor().map)
    scanned = time.process_time()
    units = (unit for shard in shards for unit in cut(shard, ROWS_PER_UNIT))
    count = sum(1 for _ in spans(bundles(units, ROWS_PER_UNIT)))
    return {
        "shards": len(shards),
        "rows": sum(shard.rows for shard in shards),
        "spans": count,
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "of_it_cutting": round(time.process_time() - scanned, 2),
        "wall_seconds": round(time.perf_counter() - wall, 2),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet")
    options = parser.parse_args()
    facts = machine.facts()
    with tempfile.TemporaryDirectory() as base:
        generate(f"{base}/corpus", options.files, options.format)
        cold, cached = plan(f"{base}/corpus", f"{base}/side"), plan(f"{base}/corpus", f"{base}/side")
        cache_mb = os.path.getsize(f"{base}/side/shards.arrow") / 1e6
    found = {"cold": cold, "with_cache": cached, "cache_mb": round(cache_mb, 1)}
    print(json.dumps(machine.result("planning", vars(options), facts, **found)))


if __name__ == "__main__":
    main()
