"""Arrow IPC: files (also Feather 2) and streams, which Hugging Face datasets are kept in.

The footer of an IPC file holds no statistics, so equal footers may belong to different content: local files are
identified by a digest of the whole content. A mark is (row, number of the batch that begins with it).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.corpus.columns import check, fields_of, from_arrow
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import BATCH_BYTES, BROKEN, ShardFile, breaks_of, overlap
from pipelines.row_bytes import slices
from pipelines.units import Shard, Unit

EXTENSIONS = (".arrow", ".feather")
STREAMED = False
SCAN_READS_ALL = True
MAGIC = b"ARROW1"


def reader(corpus: CorpusConfig) -> str:
    return "arrow"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema | None:
    """None for an empty file. Raises CorpusError."""
    if not file.size:
        return None
    try:
        with file.open() as stream:
            return fields_of(_open(stream).schema, wanted.corpus, file.name)
    except BROKEN as bad:
        raise file.broken(bad) from bad


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """Raises CorpusError, StorageError."""
    lengths: list[int] = []
    seekable = True
    try:
        if file.size:
            with file.open() as stream:
                opened = _open(stream, pa.ipc.IpcReadOptions(included_fields=[0], use_threads=False))
                seekable = isinstance(opened, pa.ipc.RecordBatchFileReader)
                lengths = [batch.num_rows for batch in _batches(opened)]
                if any(lengths):
                    check(_open(stream).schema, corpus, file.name)
    except BROKEN as bad:
        raise file.broken(bad) from bad
    version = file.stamp if file.remote else file.digest()
    rows, breaks = breaks_of(lengths)
    starts = [0, *accumulate(lengths)]
    marks = tuple((starts[i], i) for i, length in enumerate(lengths) if length and i) if seekable else ()
    return Shard(
        path=file.path, size=file.size, stamp=file.stamp, version=version, reader=reader(corpus), rows=rows,
        breaks=breaks, marks=marks, seekable=seekable,
    )  # fmt: skip


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    try:
        with file.open() as stream:
            schema = _open(stream).schema
            names = check(schema, wanted.corpus, file.name)
            indices = [schema.get_field_index(name) for name in names]
            opened = _open(stream, pa.ipc.IpcReadOptions(included_fields=indices, use_threads=False))
            stop, first = units[0].seek
            for batch in _batches(opened, first):
                start, stop = stop, stop + batch.num_rows
                inside = overlap(units, start, stop)
                if inside:
                    batch.validate()  # the sizes of its buffers, on which every later check leans; pa.table hides them
                    table = pa.table(batch).select(names).slice(inside[0] - start, inside[1] - inside[0])
                    at = inside[0]
                    for part in slices(table, BATCH_BYTES):  # dictionaries may name long values many times
                        yield at, from_arrow(part, wanted, file.path, {})
                        at += len(part)
                if stop >= units[-1].stop:
                    break
    except BROKEN as bad:
        raise file.broken(bad) from bad


def _open(
    stream: pa.NativeFile, options: pa.ipc.IpcReadOptions | None = None
) -> pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader:
    stream.seek(0)
    magic = stream.read(len(MAGIC))
    stream.seek(0)
    if magic[:4] == b"FEA1":
        raise pa.ArrowInvalid("Feather version 1; write it again as Feather 2 or Parquet")
    opened = pa.ipc.open_file if magic == MAGIC else pa.ipc.open_stream
    return opened(stream, options=options)


def _batches(
    reader: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader, first: int = 0
) -> Iterator[pa.RecordBatch]:
    """From the batch of this number on; a stream can only be read from its beginning."""
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        for i in range(first, reader.num_record_batches):
            yield reader.get_batch(i)
    else:
        yield from reader
