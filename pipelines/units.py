"""Shards and work units: who they are, and which are still to do.

Identity is content, never position: a shard is named by its path below the corpus root, its size and its content
version (etag, footer digest or content digest); a unit by its shard and its row range. Adding, renaming the root or
re-listing in another order renames nothing.

    corpus ─list→ Listing ─scan→ Shard(rows) ─cut→ Unit(start, stop) ─pack→ Bundle ─join→ Span

Units travel in *bundles* (several small units, or one large one, at most about `rows_per_unit` rows and UNIT_BYTES of
files), and one read task gets a *span*: bundles that are read in a single pass over one stretch of a file.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

Range = tuple[int, int]
UNSEEKABLE = -1
UNIT_BYTES = 32 << 20  # of a file: where rows are long, a unit or a bundle has fewer of them
# Of rows as they are read, and again of what they have become before a model reads them: what travels together. A unit
# that comes to more than four times that is cut anew.
PARCEL_BYTES, UNIT_BYTES_MOST = 64 << 20, 256 << 20


def content_id(*parts: object) -> int:
    """A 63-bit id from the parts' text; stable over machines and releases."""
    digest = hashlib.blake2b("\x1f".join(str(p) for p in parts).encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "big") >> 1


@dataclass(frozen=True, slots=True)
class Listing:
    """One input file as listed, before it is opened.

    path: relative to the corpus root, `/` as separator. size: bytes.
    stamp: what tells cheaply that the file was touched: `etag:...`, `mtime:<ns>,ctime:<ns>,inode:<n>` of a local one,
        `fragment:...`."""

    path: str
    size: int
    stamp: str


@dataclass(frozen=True, slots=True)
class Shard:
    """One input file, scanned: exact row count and content identity.

    version: `etag:...` (object stores), `footer:...` (Parquet), `blake2b:...` (other files) or `fragment:...` (Lance).
    breaks: rows at which a reader can start cheaply (row group or record batch starts), ascending, without 0 and rows.
    marks: (row, place) pairs from which a reader can begin, ascending: place is a byte offset of plain text, the number
        of a record batch of Arrow.
    seekable: False for a stream that can only be read from its beginning: a compressed one, or one of Arrow."""

    path: str
    size: int
    stamp: str
    version: str
    reader: str  # the format and those options that decide what a row is
    rows: int
    breaks: tuple[int, ...] = ()
    marks: tuple[Range, ...] = ()
    seekable: bool = True
    id: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", content_id("shard", self.path, self.size, self.version, self.reader))

    @property
    def listing(self) -> Listing:
        return Listing(self.path, self.size, self.stamp)

    @property
    def content(self) -> int:
        """An id of what the file holds and how it is read, wherever it lies."""
        return content_id("file", self.size, self.version, self.reader)


@dataclass(frozen=True, slots=True)
class Unit:
    """A contiguous row range [start, stop) of one shard: the grain of retry and of checkpoint.

    seek: the mark at or before `start`, from which a reader may start.
    stretch: number of the row group or batch it lies in, or UNSEEKABLE; units of one stretch are read in one pass.
    size, stamp: what the reader must still find; a file changed under the run fails the unit.
    share: bytes of the file that are its rows, about. file: the shard's `content`."""

    shard: int
    path: str
    start: int
    stop: int
    size: int
    stamp: str
    seek: Range = (0, 0)
    stretch: int = 0
    share: int = 0
    file: int = 0
    id: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", content_id("unit", self.shard, self.start, self.stop))

    @property
    def rows(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.path} rows {self.start:,} to {self.stop:,}"


Bundle = tuple[Unit, ...]
Span = tuple[Bundle, ...]


def split(unit: Unit) -> tuple[Unit, ...]:
    """Two halves of a unit, or the unit itself when it is one row: how a row that kills its process is found."""
    if unit.rows < 2:
        return (unit,)
    middle = unit.start + unit.rows // 2
    return (_sub(unit, unit.start, middle), _sub(unit, middle, unit.stop))


def _sub(unit: Unit, start: int, stop: int) -> Unit:
    return replace(unit, start=start, stop=stop)


def missing_ranges(rows: int, done: Iterable[Range]) -> list[Range]:
    """What of [0, rows) the ranges in `done` leave uncovered."""
    gaps, at = [], 0
    for start, stop in sorted(done):
        if start >= rows:
            break
        if start > at:
            gaps.append((at, start))
        at = max(at, stop)
    if at < rows:
        gaps.append((at, rows))
    return gaps


def cut(shard: Shard, rows_per_unit: int, done: Iterable[Range] = ()) -> Iterator[Unit]:
    """The shard's pending units. Boundaries depend only on the shard and `rows_per_unit`, so the same job cuts the
    same units again; where committed units were cut otherwise, what they leave open is cut to fit."""
    edges = _edges(shard, rows_per_unit)
    content = shard.content
    mark_at = 0
    for gap_start, gap_stop in missing_ranges(shard.rows, done):
        inner = edges[bisect_right(edges, gap_start) : bisect_left(edges, gap_stop)]
        for start, stop in pairwise([gap_start, *inner, gap_stop]):
            while mark_at + 1 < len(shard.marks) and shard.marks[mark_at + 1][0] <= start:
                mark_at += 1
            seek = shard.marks[mark_at] if shard.marks and shard.marks[mark_at][0] <= start else (0, 0)
            stretch = bisect_right(shard.breaks, start) if shard.seekable else UNSEEKABLE
            share = shard.size * (stop - start) // shard.rows
            yield Unit(shard.id, shard.path, start, stop, shard.size, shard.stamp, seek, stretch, share, content)


def count_units(shard: Shard, rows_per_unit: int, done: Iterable[Range] = ()) -> int:
    """How many units `cut` gives, without making them: 20 million of them would take minutes."""
    edges = _edges(shard, rows_per_unit)
    gaps = missing_ranges(shard.rows, done)
    return sum(1 + bisect_left(edges, stop) - bisect_right(edges, start) for start, stop in gaps)


def single_row(shard: Shard, row: int) -> Unit:
    """A unit of one row, to read it alone."""
    at = bisect_right(shard.marks, (row, shard.size)) - 1
    seek = shard.marks[at] if at >= 0 else (0, 0)
    return Unit(shard.id, shard.path, row, row + 1, shard.size, shard.stamp, seek, file=shard.content)


def _edges(shard: Shard, rows_per_unit: int) -> list[int]:
    """Unit boundaries in (0, rows): on breaks where these lie closer than a unit, inside a stretch that is longer."""
    rows_per_unit = min(rows_per_unit, max(1, UNIT_BYTES * shard.rows // max(1, shard.size)))
    edges: list[int] = []
    at = 0
    for brk in (*shard.breaks, shard.rows):
        if brk - at < rows_per_unit and brk < shard.rows:
            continue  # small row groups: gather until a unit is full
        pieces = max(1, round((brk - at) / rows_per_unit))
        edges.extend(at + (brk - at) * k // pieces for k in range(1, pieces + 1))
        at = brk
    return [e for e in edges if 0 < e < shard.rows]


def left_of(span: Span, missing: Container[int]) -> Span:
    """What of a span has not come back; `missing` are unit ids."""
    bundles = (tuple(unit for unit in bundle if unit.id in missing) for bundle in span)
    return tuple(bundle for bundle in bundles if bundle)
