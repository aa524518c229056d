"""`vectormill optimize`: compact, index, clean. Safe while a job runs: a run's commits rebase over all of it, and
nothing younger than an hour is removed."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import lancedb
from lancedb.index import IvfSq

from pipelines.display import Display
from pipelines.lance_files import TableAddress, reading
from pipelines.status import open_table

ROWS_PER_FRAGMENT = 1 << 20
INDEX_FROM_ROWS = 100_000  # below, exact search takes milliseconds
KEEP_VERSIONS_FOR = timedelta(hours=1)  # a run resolves lost commits by reading recent versions


def optimize(address: TableAddress, display: Display) -> dict[str, Any]:
    """Returns what was done, as counts. Raises TableError if there is no table or it cannot be read, StorageError."""
    with reading(address):
        return _optimize(address, display)


def _optimize(address: TableAddress, display: Display) -> dict[str, Any]:
    dataset = open_table(address).dataset
    before = len(dataset.get_fragments())
    display.say(f"compacting {before:,} fragment(s)")
    compacted = dataset.optimize.compact_files(
        target_rows_per_fragment=ROWS_PER_FRAGMENT, compaction_mode="try_binary_copy"
    )
    index = _index(address, display)
    dataset = address.open()
    display.say("removing versions older than an hour, and unreferenced files older than 7 days")
    cleaned = dataset.cleanup_old_versions(older_than=KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)
    return {
        "table": address.location,
        "fragments_before": before,
        "fragments_after": len(dataset.get_fragments()),
        "fragments_removed": compacted.fragments_removed,
        "index": index,
        "versions_removed": cleaned.old_versions,
        "bytes_removed": cleaned.bytes_removed,
        "version": dataset.version,
    }


def _index(address: TableAddress, display: Display) -> dict[str, Any]:
    """Build the vector index if the table is large enough for one to pay, or bring it up to date."""
    uri, _, name = address.uri.removesuffix(".lance").rpartition("/")
    table = lancedb.connect(uri, storage_options=address.options).open_table(name)
    if "vector" not in table.schema.names:
        return {"action": "none", "why": "the table holds no vectors"}
    rows = table.count_rows("_reason IS NULL")
    existing = [index for index in table.list_indices() if index.columns == ["vector"]]
    if existing:
        display.say("bringing the vector index up to date")
        table.optimize(cleanup_older_than=timedelta(days=36500))  # cleaning is done once, afterwards
        stats = table.index_stats(existing[0].name)
        return {"action": "updated", "type": str(existing[0].index_type), "unindexed_rows": stats.num_unindexed_rows}
    if rows < INDEX_FROM_ROWS:
        return {"action": "none", "why": f"{rows:,} vectors: exact search is fast below {INDEX_FROM_ROWS:,}"}
    partitions = 1 << round(math.log2(math.sqrt(rows)))
    display.say(f"building an IVF_SQ index with {partitions:,} partitions over {rows:,} vectors")
    table.create_index("vector", config=IvfSq(distance_type="cosine", num_partitions=partitions))
    return {"action": "built", "type": "IVF_SQ", "partitions": partitions, "unindexed_rows": 0}
