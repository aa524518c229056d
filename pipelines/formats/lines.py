"""Formats whose records are found by reading: JSONL, CSV and text are counted and read by the same splitting.

    blocks of bytes ─cut→ pieces, the last one unfinished ─join→ records ─drop blank ones→ rows

One pass over a file counts its rows, digests its content and, unless it is compressed, notes every BLOCK_BYTES at
which row and byte a reader can start. A record is held whole, so it may have RECORD_BYTES_MAX at most.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from pipelines.formats.files import RECORD_BYTES_MAX, ShardFile, overlap, runs
from pipelines.formats.rows import Piece, Wanted
from pipelines.formats.typed import carried_fields, from_arrow
from pipelines.plan import Range, Shard, Unit

TOO_LONG = f"is longer than {RECORD_BYTES_MAX >> 20} MiB, the most that one row may hold"
BOM = b"\xef\xbb\xbf"
TEXT_SCHEMA = pa.schema([pa.field("text", pa.string()), pa.field("path", pa.string())])


class Cutter(Protocol):
    """Cuts consecutive blocks of one file; may keep state from block to block.

    trouble: set when the record after the last complete one makes splitting impossible."""

    trouble: str | None

    def cut(self, block: bytes) -> list[bytes]:
        """Pieces without their newline; the last one goes on in the next block."""

    def end(self) -> None:
        """Called at the end of the file; may set trouble."""


class LineCutter:
    trouble: str | None = None

    def cut(self, block: bytes) -> list[bytes]:
        return block.split(b"\n")

    def end(self) -> None:
        pass


@dataclass(frozen=True)
class Framing:
    """What a record is. first: number of a file's first record; -1 where that is a header."""

    cutter: Callable[[], Cutter]
    is_blank: Callable[[bytes], bool]
    first: int = 0


def blank_line(record: bytes) -> bool:
    return not record or record.isspace()


LINES = Framing(LineCutter, blank_line)


def records(
    file: ShardFile, framing: Framing, seek: Range | None = None, digest: Callable[[bytes], None] | None = None
) -> Iterator[tuple[int, list[bytes], int]]:
    """(row number of the first, records without newlines, byte offset after them), about one block at a time.

    seek: (row, byte offset) of a record's start. Raises CorpusError naming the row that cannot be split."""
    row, offset = seek or (framing.first, 0)
    cutter = framing.cutter()
    held: list[bytes] = []
    held_bytes = 0
    for block in file.blocks(offset):
        if digest is not None:
            digest(block)
        if offset == 0 and block.startswith(BOM):
            block = block[len(BOM) :]
            offset = len(BOM)
        if not block:
            continue  # nothing but the mark
        offset += len(block)
        pieces = cutter.cut(block)
        held.append(pieces.pop(0))
        held_bytes += len(held[-1])
        if pieces:
            whole = [r for r in (b"".join(held), *pieces[:-1]) if not framing.is_blank(r)]
            held, held_bytes = [pieces[-1]], len(pieces[-1])
            yield row, whole, offset - held_bytes
            row += len(whole)
        if cutter.trouble or held_bytes > RECORD_BYTES_MAX:
            raise file.error(_place(row) + (cutter.trouble or TOO_LONG))
    cutter.end()
    if cutter.trouble:
        raise file.error(_place(row) + cutter.trouble)
    last = b"".join(held)
    if not framing.is_blank(last):
        yield row, [last], offset


def _place(row: int) -> str:
    return f"row {row} " if row >= 0 else "the header "


def scan(file: ShardFile, framing: Framing, reader: str) -> Shard:
    """Rows, marks and the content's digest in one pass. Raises CorpusError, StorageError."""
    digest = None if file.remote else hashlib.blake2b(digest_size=16)
    rows = 0
    marks: list[Range] = []
    for row, found, offset in records(file, framing, None, digest.update if digest else None):
        rows = row + len(found)
        if file.compression is None and rows > (marks[-1][0] if marks else 0):
            marks.append((rows, offset))
    rows = max(rows, 0)
    if marks and marks[-1][0] == rows:
        marks.pop()
    version = f"blake2b:{digest.hexdigest()}" if digest else file.stamp
    return Shard(
        path=file.path, size=file.size, stamp=file.stamp, version=version, reader=reader, rows=rows,
        marks=tuple(marks), seekable=file.compression is None,
    )  # fmt: skip


def stretches(file: ShardFile, units: Sequence[Unit], framing: Framing) -> Iterator[tuple[int, list[bytes]]]:
    """The records of the units' rows, about one block at a time: one pass a gapless run, one in all if compressed."""
    for run in runs(units) if file.compression is None else [units]:
        seek = run[0].seek if run[0].seek[1] else None
        for row, found, _ in records(file, framing, seek):
            if inside := overlap(run, row, row + len(found)):
                yield inside[0], found[inside[0] - row : inside[1] - row]
            if row + len(found) >= run[-1].stop:
                break


def text_columns(file: ShardFile, wanted: Wanted) -> pa.Schema:
    return carried_fields(TEXT_SCHEMA, wanted.corpus, file.path)


def file_scan(file: ShardFile, reader: str) -> Shard:
    """For text of which each file is one row. Raises CorpusError, StorageError."""
    version, size = (file.stamp, file.size) if file.remote else file.digest()
    if size > RECORD_BYTES_MAX:
        raise file.error(TOO_LONG)
    return Shard(file.path, file.size, file.stamp, version, reader, rows=1, seekable=file.compression is None)


def text_pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    if wanted.corpus.text_rows == "file":
        yield 0, _text_table(file, [_whole(file)], wanted)
        return
    for row, found in stretches(file, units, LINES):
        yield row, _text_table(file, [line.rstrip(b"\r") for line in found], wanted)


def _whole(file: ShardFile) -> bytes:
    held, size = [], 0
    for block in file.blocks():
        held.append(block)
        size += len(block)
        if size > RECORD_BYTES_MAX:
            raise file.error(TOO_LONG)
    return b"".join(held).removeprefix(BOM)


def _text_table(file: ShardFile, found: list[bytes], wanted: Wanted) -> pa.Table:
    texts: list[str | None] = []
    notes: dict[int, str] = {}
    for i, raw in enumerate(found):
        try:
            texts.append(raw.decode())
        except UnicodeDecodeError:
            texts.append(None)
            notes[i] = "invalid UTF-8"
    table = pa.table({"text": pa.array(texts, pa.string()), "path": [file.path] * len(found)}, TEXT_SCHEMA)
    return from_arrow(table, wanted, file.path, notes)
