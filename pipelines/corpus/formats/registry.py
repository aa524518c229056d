"""The formats that a corpus may have: one table, a module each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.corpus.formats import arrow, csv, jsonl, lance, parquet, text
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import ShardFile, compression_of, extension
from pipelines.errors import CorpusError
from pipelines.units import Shard, Unit


class Format(Protocol):
    """What the module of a format has.

    EXTENSIONS: of its files. STREAMED: read from its beginning on, so that it may be compressed as a whole.
    SCAN_READS_ALL: its rows are counted by reading them, or its content must be digested."""

    @property
    def EXTENSIONS(self) -> tuple[str, ...]: ...

    @property
    def STREAMED(self) -> bool: ...

    @property
    def SCAN_READS_ALL(self) -> bool: ...

    def reader(self, corpus: CorpusConfig) -> str:
        """The format and those options that decide what a row is; part of a shard's identity."""

    def columns(self, file: ShardFile, wanted: Wanted) -> pa.Schema | None:
        """The columns of this file, the carried ones with the types they have there; None where an empty file says
        nothing. Raises CorpusError where one is lacking that each file must have, StorageError."""

    def scan(self, file: ShardFile, corpus: CorpusConfig) -> Shard:
        """Row count and identity, after checking that the columns are there which every shard must have.

        Raises CorpusError, StorageError."""

    def pieces(self, file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
        """(number of the first row, decoded table) of all rows of the units, ascending.

        Raises CorpusError, StorageError."""


FORMATS: dict[str, Format] = {
    "parquet": parquet,
    "jsonl": jsonl,
    "csv": csv,
    "text": text,
    "arrow": arrow,
    "lance": lance,
}
_BY_EXTENSION = {extension: kind for kind, module in FORMATS.items() for extension in module.EXTENSIONS}


def format_of(path: str) -> str | None:
    """The format that a file's extension says, compression suffix aside; None when it says none.

    CorpusError for a compression that cannot be read, or on a format that is compressed inside."""
    if compression_of(path) is None:
        return _BY_EXTENSION.get(extension(path))
    kind = _BY_EXTENSION.get(extension(path[: -len(extension(path))]))
    if kind is not None and not FORMATS[kind].STREAMED:
        raise CorpusError(f"{path}: {kind} is compressed inside; unpack the {extension(path)} around it")
    return kind
