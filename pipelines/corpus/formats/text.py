"""Plain text: a row a non-blank line, or a row a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.corpus.columns import fields_of, from_arrow
from pipelines.corpus.formats import lines
from pipelines.corpus.formats.lines import LINES, Raw, mark_length, stretches
from pipelines.corpus.reading import TOO_LONG, Piece, Wanted
from pipelines.corpus.shard_file import RECORD_BYTES_MAX, ShardFile
from pipelines.units import Shard, Unit

EXTENSIONS = (".txt", ".md")
STREAMED = True
SCAN_READS_ALL = True
SCHEMA = pa.schema([pa.field("text", pa.string()), pa.field("path", pa.string())])


def reader(corpus: CorpusConfig) -> str:
    return f"text:{corpus.text_rows}"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema:
    return fields_of(SCHEMA, wanted.corpus, file.name)


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """Raises CorpusError, StorageError."""
    if corpus.text_rows == "line":
        return lines.scan(file, LINES, reader(corpus))
    version = file.stamp if file.remote else file.digest()
    seekable = file.compression is None
    return Shard(file.path, file.size, file.stamp, version, reader(corpus), rows=1, seekable=seekable)


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    if wanted.corpus.text_rows == "file":
        yield 0, _text_table(file, [_whole(file)], wanted)
        return
    for row, found in stretches(file, units, LINES):
        yield row, _text_table(file, [line and line.rstrip(b"\r") for line in found], wanted)


def _whole(file: ShardFile) -> Raw:
    held, size = [], 0
    for block in file.blocks():
        held.append(block)
        size += len(block)
        if size > RECORD_BYTES_MAX:
            return None
    content = b"".join(held)
    return content[mark_length(content, file) :]


def _text_table(file: ShardFile, found: list[Raw], wanted: Wanted) -> pa.Table:
    texts: list[str | None] = []
    notes: dict[int, str] = {}
    for i, raw in enumerate(found):
        try:
            texts.append(None if raw is None else raw.decode())
            if raw is None:
                notes[i] = TOO_LONG
        except UnicodeDecodeError:
            texts.append(None)
            notes[i] = "invalid UTF-8"
    table = pa.table({"text": pa.array(texts, pa.string()), "path": [file.path] * len(found)}, SCHEMA)
    return from_arrow(table, wanted, file.path, notes)
