"""Parquet: counts, row groups and identity from the footer alone; rows streamed one row group after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pipelines.config import CorpusConfig
from pipelines.corpus.arrow_types import plain
from pipelines.corpus.columns import check, fields_of, from_arrow
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import BATCH_BYTES, BROKEN, ShardFile, breaks_of, overlap
from pipelines.row_bytes import slices
from pipelines.units import Range, Shard, Unit

EXTENSIONS = (".parquet",)
STREAMED = False
SCAN_READS_ALL = False
TAIL_BYTES = 64 << 10  # holds most footers, so that one request is enough
BATCH_ROWS = 8_192
# Of a column, read ahead: not all of it, because a pass may end before it and a row group may be of any size.
BUFFER_BYTES, REMOTE_BUFFER_BYTES = 1 << 20, 8 << 20
WHOLE_GROUP_BYTES = 64 << 20  # a row group in a store that has no more is fetched whole, in few requests
WIDTHS = {"BOOLEAN": 1, "INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8, "INT96": 8}


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
            metadata = pq.read_metadata(stream)
            schema = metadata.schema.to_arrow_schema()
            names = check(schema, wanted.corpus, file.name)
            groups = list(_groups(metadata, units, names))
            parquet = _open(file, stream, metadata, max((group.stored_bytes for group in groups), default=0))
            for group in groups:
                at = group.start
                batches = parquet.iter_batches(group.batch_rows, [group.number], columns=names, use_threads=False)
                for batch in batches:
                    first, stop = max(at, group.inside[0]), min(at + batch.num_rows, group.inside[1])
                    if first < stop:
                        rows = pa.table(batch).select(names).slice(first - at, stop - first)
                        for part in slices(rows, BATCH_BYTES):
                            yield first, from_arrow(_decoded(part, schema), wanted, file.path, {})
                            first += len(part)
                    at += batch.num_rows
                    if at >= group.inside[1]:
                        break
    except BROKEN as bad:
        raise file.broken(bad) from bad


@dataclass(frozen=True)
class _Group:
    """A row group that has rows of the units. inside: the range that holds them. batch_rows: to be read at once.
    stored_bytes: of the wanted columns."""

    number: int
    start: int
    inside: Range
    batch_rows: int
    stored_bytes: int


def _groups(metadata: pq.FileMetaData, units: Sequence[Unit], names: Sequence[str]) -> Iterator[_Group]:
    stop = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        start, stop = stop, stop + group.num_rows
        if inside := overlap(units, start, stop):
            columns = [group.column(i) for i in range(group.num_columns)]
            columns = [one for one in columns if one.path_in_schema.partition(".")[0] in names]
            per_row = sum(map(_read_bytes, columns)) / group.num_rows
            batch_rows = int(min(BATCH_ROWS, max(1, BATCH_BYTES / max(1.0, per_row))))
            yield _Group(number, start, inside, batch_rows, sum(one.total_compressed_size for one in columns))


def _read_bytes(column: pq.ColumnChunkMetaData) -> int:
    """Of a column chunk, as it is read: numbers decoded, strings and bytes as places in a dictionary."""
    width = WIDTHS.get(column.physical_type)
    if width is not None:  # a run of equal ones may be stored in no bytes
        return int(column.num_values * width)
    return int(column.total_uncompressed_size + 4 * column.num_values)


def _open(file: ShardFile, stream: pa.NativeFile, metadata: pq.FileMetaData, most_bytes: int) -> pq.ParquetFile:
    """Strings and bytes come as dictionaries: a long value that many rows share is stored once, and would be there as
    often as there are rows in a batch. Measured: 1 us a row of 500 bytes in place of 0.6."""
    whole = file.remote and most_bytes <= WHOLE_GROUP_BYTES
    buffer = 0 if whole else REMOTE_BUFFER_BYTES if file.remote else BUFFER_BYTES
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    shared = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(
        stream,
        metadata=metadata,
        read_dictionary=shared,
        pre_buffer=whole,
        buffer_size=buffer,
        page_checksum_verification=True,
    )


def _decoded(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows without the dictionaries inside lists and structs that reading put there."""
    for place, name in enumerate(rows.column_names):
        kind = plain(schema.field(name).type)
        if pt.is_nested(kind) and rows.schema.field(place).type != kind:
            rows = rows.set_column(place, name, rows[name].cast(kind))
    return rows
