"""Parquet: counts, row groups and identity from the footer alone; rows streamed one row group after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.config import CorpusConfig
from pipelines.corpus.columns import check, fields_of, from_arrow
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import BROKEN, ShardFile, breaks_of, overlap
from pipelines.units import Shard, Unit

EXTENSIONS = (".parquet",)
STREAMED = False
SCAN_READS_ALL = False
TAIL_BYTES = 64 << 10  # holds most footers, so that one request is enough
BATCH_BYTES = 16 << 20
BATCH_ROWS = 32_768


def reader(corpus: CorpusConfig) -> str:
    return "parquet"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema:
    return fields_of(_footer(file)[1], wanted.corpus, file.name)


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """Raises CorpusError, StorageError."""
    metadata, schema, raw = _footer(file)
    if metadata.num_rows:
        check(schema, corpus, file.name)
    groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    rows, breaks = breaks_of(groups)
    version = file.stamp if file.remote else f"footer:{hashlib.blake2b(raw, digest_size=16).hexdigest()}"
    return Shard(file.path, file.size, file.stamp, version, reader(corpus), rows, breaks)


def _footer(file: ShardFile) -> tuple[pq.FileMetaData, pa.Schema, bytes]:
    """The parsed footer, the schema in it, and its bytes, by one or two small reads from the end."""
    try:
        with file.open() as stream:
            size = stream.size()
            tail = stream.read_at(min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
            need = 8 + int.from_bytes(tail[-8:-4], "little")
            if tail[-4:] == b"PAR1" and len(tail) < need <= size:
                tail = stream.read_at(need, size - need)
            metadata = pq.read_metadata(pa.BufferReader(tail))
            return metadata, metadata.schema.to_arrow_schema(), tail[-need:]
    except BROKEN as bad:
        raise file.broken(bad) from bad


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    try:
        with file.open() as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=file.remote, page_checksum_verification=True)
            names = check(parquet.schema_arrow, wanted.corpus, file.name)
            stop = 0
            for group in range(parquet.num_row_groups):
                start, stop = stop, stop + parquet.metadata.row_group(group).num_rows
                inside = overlap(units, start, stop)
                if inside is None:
                    continue
                rows = _batch_rows(parquet.metadata.row_group(group))
                at = start
                for batch in parquet.iter_batches(rows, row_groups=[group], columns=names, use_threads=False):
                    if at >= inside[1]:
                        break
                    if at + batch.num_rows > inside[0]:
                        yield at, from_arrow(pa.table(batch).select(names), wanted, file.path, {})
                    at += batch.num_rows
    except BROKEN as bad:
        raise file.broken(bad) from bad


def _batch_rows(group: pq.RowGroupMetaData) -> int:
    per_row = group.total_byte_size / max(1, group.num_rows)
    return int(min(BATCH_ROWS, max(64, BATCH_BYTES / max(1.0, per_row))))
