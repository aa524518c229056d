"""Which module knows which format. Lance is imported only for corpora that need it: that takes a second."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.corpus.formats import arrow, jsonl, lines, parquet
from pipelines.corpus.formats import csv as delimited
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import ShardFile, reader_of
from pipelines.units import Shard, Unit


def columns(kind: str, file: ShardFile, wanted: Wanted) -> pa.Schema | None:
    """The carried columns with the types they have in this file, after checking that all columns of the job are in it;
    None where an empty file says nothing. Raises CorpusError, StorageError."""
    match kind:
        case "parquet":
            return parquet.columns(file, wanted)
        case "arrow":
            return arrow.columns(file, wanted)
        case "csv":
            return delimited.columns(file, wanted)
        case "jsonl":
            return jsonl.columns(file, wanted)
        case "lance":
            from pipelines.corpus.formats import lance

            return lance.columns(file, wanted)
    return lines.text_columns(file, wanted)


def scan(kind: str, file: ShardFile, corpus: CorpusConfig) -> Shard:
    """Row count and identity, after checking that the columns are there which every shard must have.

    Raises CorpusError, StorageError."""
    reader = reader_of(kind, corpus)
    match kind:
        case "parquet":
            return parquet.scan(file, corpus, reader)
        case "arrow":
            return arrow.scan(file, corpus, reader)
        case "lance":
            from pipelines.corpus.formats import lance

            return lance.scan(file, corpus, reader)
        case "text" if corpus.text_rows == "file":
            return lines.file_scan(file, reader)
        case "csv":
            return delimited.scan(file, corpus, reader)
    return lines.scan(file, lines.LINES, reader)


def pieces(kind: str, file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    """(number of the first row, decoded table) of all rows of the units, ascending.

    Raises CorpusError, StorageError."""
    match kind:
        case "parquet":
            return parquet.pieces(file, units, wanted)
        case "arrow":
            return arrow.pieces(file, units, wanted)
        case "csv":
            return delimited.pieces(file, units, wanted)
        case "jsonl":
            return jsonl.pieces(file, units, wanted)
        case "lance":
            from pipelines.corpus.formats import lance

            return lance.pieces(file, units, wanted)
    return lines.text_pieces(file, units, wanted)
