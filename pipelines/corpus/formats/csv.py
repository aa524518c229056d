"""CSV as RFC 4180 has it: a header in each file, quotes around fields that hold the delimiter, quotes or newlines.

Records are split by the parity of quotes, the same way for counting and for reading; that is right only if a quote
opens at the start of a field, which is checked for every quote.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from pipelines.config import CorpusConfig
from pipelines.corpus.columns import check, fields_of, from_arrow
from pipelines.corpus.formats import lines
from pipelines.corpus.formats.lines import Framing, Raw, records, stretches
from pipelines.corpus.reading import TOO_LONG, Piece, Wanted
from pipelines.corpus.shard_file import RECORD_BYTES_MAX, ShardFile
from pipelines.units import Shard, Unit

EXTENSIONS = (".csv",)
STREAMED = True
SCAN_READS_ALL = True
QUOTE, NEWLINE = 34, 10
STRAY = (
    "has a quote inside an unquoted field, so that records cannot be told apart; put the field in quotes and double "
    "the quotes in it"
)
UNCLOSED = "opens a quote that is not closed before the end of the file"

csv.field_size_limit(RECORD_BYTES_MAX)  # the module's own limit is 128 KiB


class QuoteCutter:
    def __init__(self, delimiter: str):
        self.trouble: str | None = None
        self._openers = (*delimiter.encode()[-1:], NEWLINE, QUOTE)
        self._inside = 0  # 1 while in a quoted field
        self._last = NEWLINE

    def cut(self, block: bytes) -> list[bytes]:
        codes = np.frombuffer(block, np.uint8)
        quotes = np.flatnonzero(codes == QUOTE)
        if not len(quotes):
            self._last = block[-1]
            return [block] if self._inside else block.split(b"\n")
        newlines = np.flatnonzero(codes == NEWLINE)
        ends = newlines[(np.searchsorted(quotes, newlines) + self._inside) % 2 == 0]
        opening = quotes[self._inside :: 2]
        before = np.where(opening > 0, codes[opening - 1], self._last)
        stray = opening[~np.isin(before, self._openers)]
        if len(stray):
            self.trouble = STRAY
            ends = ends[ends < stray[0]]
        self._inside = (self._inside + len(quotes)) % 2
        self._last = block[-1]
        starts = [0, *(ends + 1).tolist()]
        return [block[a:b] for a, b in zip(starts, [*ends.tolist(), len(block)], strict=True)]

    def end(self) -> None:
        if self._inside:
            self.trouble = UNCLOSED


def _blank(record: bytes) -> bool:
    return record in (b"", b"\r")  # not white space: with tabs as delimiter that is a record of empty fields


def framing(corpus: CorpusConfig) -> Framing:
    return Framing(partial(QuoteCutter, corpus.csv_delimiter), _blank, first=-1)


def reader(corpus: CorpusConfig) -> str:
    return f"csv:{corpus.csv_delimiter}"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema | None:
    """All strings; None for an empty file. Raises CorpusError."""
    names = header(file, wanted.corpus)
    return fields_of(_schema(names), wanted.corpus, file.name) if names else None


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """As `lines.scan`, and that the header has the columns it must have. Raises CorpusError, StorageError."""
    names: list[str] = []
    shard = lines.scan(file, framing(corpus), reader(corpus), lambda raw: names.extend(_names(raw, file, corpus)))
    if shard.rows:
        check(_schema(names), corpus, file.name)
    return shard


def header(file: ShardFile, corpus: CorpusConfig) -> list[str]:
    """The names in a file's header, none for an empty file. Raises CorpusError."""
    for _, found, _ in records(file, framing(corpus)):
        if found:
            return _names(found[0], file, corpus)
    return []


def _names(raw: Raw, file: ShardFile, corpus: CorpusConfig) -> list[str]:
    names = None if raw is None else _fields(raw, corpus.csv_delimiter)
    if names is None:
        raise file.error("the header is not a UTF-8 CSV record; rows must end with a newline, or CR and newline")
    return names


def _schema(names: Sequence[str]) -> pa.Schema:
    return pa.schema([pa.field(name, pa.string()) for name in names])


def _fields(record: bytes, delimiter: str) -> list[str] | None:
    try:
        parsed = list(csv.reader([record.decode()], delimiter=delimiter, strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None
    return parsed[0] if len(parsed) == 1 else None


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    corpus = wanted.corpus
    names = header(file, corpus)
    here = check(_schema(names), corpus, file.name)
    places = [names.index(name) for name in here]
    for row, found in stretches(file, units, framing(corpus)):
        notes: dict[int, str] = {}
        taken: list[list[str | None]] = []
        for i, record in enumerate(found):
            fields = None if record is None else _fields(record, corpus.csv_delimiter)
            if fields is None or len(fields) != len(names):
                wrong = "not a CSV record in UTF-8" if fields is None else f"{len(fields)} fields, not {len(names)}"
                notes[i] = TOO_LONG if record is None else wrong
                taken.append([None] * len(here))
            else:
                taken.append([fields[place] for place in places])
        table = pa.table([pa.array(column, pa.string()) for column in zip(*taken, strict=True)], schema=_schema(here))
        if corpus.id:
            table = _empty_ids_are_null(table, corpus.id)
        yield row, from_arrow(table, wanted, file.path, notes)


def _empty_ids_are_null(table: pa.Table, name: str) -> pa.Table:
    ids = pa.array([one or None for one in table[name].to_pylist()], pa.string())
    return table.set_column(table.schema.get_field_index(name), name, ids)
