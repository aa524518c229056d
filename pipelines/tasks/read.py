"""The first stage of every task: a span of units to their rows, in one pass over a stretch of a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby, islice, takewhile

import pyarrow as pa

from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE
from pipelines.corpus.corpus import Corpus
from pipelines.engine import deadline
from pipelines.engine.stage import Failed, Parcel, Reader, Tally
from pipelines.errors import StoreUnavailable, TooLarge, VectormillError
from pipelines.storage.retry import Backoff
from pipelines.units import PARCEL_BYTES, Bundle, Span, Unit

UNREAD = (*OF_ONE_FILE, OSError, pa.ArrowException)
UnitRead = tuple[Unit, pa.Table | Exception]
ReadUnits = Callable[[list[Unit]], Iterator[pa.Table]]


def reader(corpus: Corpus, carried: pa.Schema, timeout_seconds: float | None = None) -> Reader:
    """Read a span in one pass a shard, a parcel a bundle, or several where it is many bytes. A unit that cannot be
    read, or not in its time, comes on its own, with the failure."""

    def in_time(units: list[Unit]) -> Iterator[pa.Table]:
        return _in_time(corpus.read(units, carried), timeout_seconds)

    def units_of(units: list[Unit], retries: Counter[str]) -> Iterator[UnitRead]:
        return _read_units(units, in_time, corpus.config.uri, retries)

    delivered = partial(_delivered, carried.names)

    def read(span: Span) -> Iterator[Parcel | Failed]:
        retries: Counter[str] = Counter()
        by_shard = groupby(chain.from_iterable(span), key=lambda unit: unit.shard)
        stream = (found for _, units in by_shard for found in units_of(list(units), retries))
        for bundle in span:
            started = time.perf_counter()
            held: list[tuple[Unit, pa.Table]] = []
            size = 0
            for unit, rows in islice(stream, len(bundle)):
                if isinstance(rows, Exception):
                    yield delivered((unit,), rows, started, retries)
                    continue
                held.append((unit, rows))
                size += rows.nbytes
                if size > PARCEL_BYTES:  # of files that unpack to many times their size
                    yield delivered(*_together(held), started, retries)
                    started, held, size = time.perf_counter(), [], 0
            if held:
                yield delivered(*_together(held), started, retries)

    return read


def _together(held: list[tuple[Unit, pa.Table]]) -> tuple[Bundle, pa.Table]:
    """Many small units become one piece of memory: every later stage, and Ray, would pay for each piece."""
    units, tables = zip(*held, strict=True)
    rows = pa.concat_tables(tables)
    return units, rows.combine_chunks() if len(tables) > 1 else rows


def _in_time(tables: Iterator[pa.Table], seconds: float | None) -> Iterator[pa.Table]:
    """The tables; raises deadline.Hung when one does not come within `seconds`."""
    while (table := deadline.call(seconds, lambda: next(tables, None))) is not None:
        yield table


def _read_units(units: list[Unit], read: ReadUnits, uri: str, retries: Counter[str]) -> Iterator[UnitRead]:
    """Each unit with its rows, or with why it cannot be read, which costs what follows it in the same stretch as well:
    the next row group may be whole.

    While the store is unavailable a unit is read again from its own source; nothing of what a stream gave before it
    failed is used. What was tried again is counted in `retries`."""
    at = 0
    while at < len(units):
        backoff = Backoff(f"reading {units[at]}", uri)
        try:
            while at < len(units):
                try:
                    for rows in read(units[at:]):
                        assert rows.num_rows == units[at].rows, f"{units[at]}: read {rows.num_rows} rows"
                        yield units[at], rows
                        at += 1
                        if at < len(units):
                            backoff = Backoff(f"reading {units[at]}", uri)
                    assert at == len(units), f"read {at} of {len(units)} units"
                except StoreUnavailable as bad:
                    backoff.failed(bad)
                    retries[f"reading: {bad.fault}"] += 1
        except (VectormillError, OSError, pa.ArrowException, AssertionError) as bad:
            with_it = partial(_fails_with, units[at], isinstance(bad, OF_THE_STORE))
            for unit in takewhile(with_it, units[at:]):
                yield unit, bad
                at += 1


def _fails_with(failed: Unit, all_do: bool, unit: Unit) -> bool:
    return all_do or unit.stretch == failed.stretch


def _delivered(
    carried: Sequence[str], bundle: Bundle, rows: pa.Table | Exception, started: float, retries: Counter[str]
) -> Parcel | Failed:
    """What goes to the next stage; a parcel takes the counted retries with it."""
    if isinstance(rows, Exception):
        fatal = type(rows) if isinstance(rows, OF_THE_STORE) else None
        too_large = isinstance(rows, TooLarge)
        unread = isinstance(rows, UNREAD) and not too_large
        return Failed(bundle, f"read: {rows}", fatal, unread=unread, too_large=too_large)
    tally = Tally(retries=Counter(retries), seconds={"read": time.perf_counter() - started})
    retries.clear()
    if not carried:
        return Parcel(bundle, rows, tally)
    places = pa.array(range(rows.num_rows), pa.int32())
    return Parcel(bundle, rows.drop_columns(carried).append_column("_at", places), tally, rows.select(carried))
