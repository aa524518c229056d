"""Formats whose records are found by reading: JSONL, CSV and text are counted and read by the same splitting.

    blocks of bytes ─cut→ pieces, the last one unfinished ─join→ records ─drop blank ones→ rows

One pass over a file counts its rows, digests its content and, unless it is compressed, notes every BLOCK_BYTES at
which row and byte a reader can start. A record is held whole, so it may have RECORD_BYTES_MAX at most: of a longer one
only its place is kept (None instead of its bytes), and no more than that is ever in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipelines.corpus.shard_file import RECORD_BYTES_MAX, ShardFile, overlap, runs
from pipelines.units import Range, Shard, Unit

BOM = b"\xef\xbb\xbf"
OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # of UTF-16, the first of UTF-32 too
NOT_UTF8 = "is UTF-16 or UTF-32; text must be UTF-8: convert it, for example with iconv -f UTF-16 -t UTF-8"
Raw = bytes | None  # None: too long to be held


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


class _Held:
    """The record that is not complete yet: its pieces while they are few enough, then only whether it is blank."""

    def __init__(self, is_blank: Callable[[bytes], bool]):
        self._is_blank = is_blank
        self._pieces: list[bytes] = []
        self._too_long = self._blank = False
        self.bytes = 0

    def add(self, piece: bytes) -> None:
        self.bytes += len(piece)
        if self._too_long:
            self._blank = self._blank and (not piece or self._is_blank(piece))
            return
        self._pieces.append(piece)
        if self.bytes > RECORD_BYTES_MAX:
            self._blank = all(self._is_blank(one) for one in self._pieces)
            self._too_long, self._pieces = True, []

    def take(self) -> list[Raw]:
        """The record, or nothing if it is blank; empty from then on."""
        whole, too_long, blank = b"".join(self._pieces), self._too_long, self._blank
        self._pieces, self._too_long, self.bytes = [], False, 0
        if too_long:
            return [] if blank else [None]
        return [] if self._is_blank(whole) else [whole]


def records(
    file: ShardFile, framing: Framing, seek: Range | None = None, digest: Callable[[bytes], None] | None = None
) -> Iterator[tuple[int, list[Raw], int]]:
    """(row number of the first, records without newlines, byte offset after them), about one block at a time.

    seek: (row, byte offset) of a record's start. Raises CorpusError naming the row that cannot be split."""
    row, offset = seek or (framing.first, 0)
    cutter = framing.cutter()
    held = _Held(framing.is_blank)
    for block in file.blocks(offset):
        if digest is not None:
            digest(block)
        if offset == 0:
            bom = mark_length(block, file)
            block, offset = block[bom:], bom
        if not block:
            continue  # nothing but the mark
        offset += len(block)
        pieces = cutter.cut(block)
        held.add(pieces.pop(0))
        if pieces:
            whole = [*held.take(), *(r for r in filter(None, pieces[:-1]) if not framing.is_blank(r))]
            held.add(pieces[-1])
            yield row, whole, offset - held.bytes
            row += len(whole)
        if cutter.trouble:
            raise file.error(_place(row) + cutter.trouble)
    cutter.end()
    if cutter.trouble:
        raise file.error(_place(row) + cutter.trouble)
    if last := held.take():
        yield row, last, offset


def mark_length(first: bytes, file: ShardFile) -> int:
    """Bytes of the byte order mark that a file's first block begins with."""
    if first.startswith(OTHER_BOMS):
        raise file.error(NOT_UTF8)
    return len(BOM) if first.startswith(BOM) else 0


def _place(row: int) -> str:
    return f"row {row} " if row >= 0 else "the header "


def scan(file: ShardFile, framing: Framing, reader: str, header: Callable[[Raw], None] | None = None) -> Shard:
    """Rows, marks and the content's digest in one pass. `header` is shown the record before the first row.

    Raises CorpusError, StorageError."""
    digest = None if file.remote else hashlib.blake2b(digest_size=16)
    rows = 0
    marks: list[Range] = []
    for row, found, offset in records(file, framing, None, digest.update if digest else None):
        rows = row + len(found)
        if header is not None and row < 0 < len(found):
            header(found[0])
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


def stretches(file: ShardFile, units: Sequence[Unit], framing: Framing) -> Iterator[tuple[int, list[Raw]]]:
    """The records of the units' rows, about one block at a time; what lies between two marks is read once."""
    for run in runs(units) if file.compression is None else [units]:
        seek = run[0].seek if run[0].seek[1] else None
        for row, found, _ in records(file, framing, seek):
            if inside := overlap(run, row, row + len(found)):
                yield inside[0], found[inside[0] - row : inside[1] - row]
            if row + len(found) >= run[-1].stop:
                break
