"""Shards that are in no corpus, to cut units of."""

from pipelines.units import Shard


def shard(rows, path="a.parquet", **kwargs):
    return Shard(path, 10 * rows, "mtime:1", "blake2b:1", "parquet", rows, **kwargs)
