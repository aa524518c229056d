"""The first stage of every task: a span of units to their rows, in one pass over a stretch of a file."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import pyarrow as pa

from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE
from pipelines.corpus.corpus import Corpus
from pipelines.engine import deadline
from pipelines.engine.stage import Failed, Parcel, Reader, Tally
from pipelines.errors import StoreUnavailable, VectormillError
from pipelines.storage.retry import Backoff
from pipelines.units import Bundle, Span, Unit

UNREAD = (*OF_ONE_FILE, OSError, pa.ArrowException)
UnitRead = tuple[Unit, pa.Table | Exception]
ReadUnits = Callable[[list[Unit]], Iterator[pa.Table]]


def reader(corpus: Corpus, carried: pa.Schema, timeout_seconds: float | None = None) -> Reader:
    """Read a span in one pass. A unit that cannot be read, or not in its time, becomes a parcel of its own, with the
    failure."""

    def in_time(units: list[Unit]) -> Iterator[pa.Table]:
        return _in_time(corpus.read(units, carried), timeout_seconds)

    def units_of(units: list[Unit], retries: Counter[str]) -> Iterator[UnitRead]:
        return _read_units(units, in_time, corpus.config.uri, retries)

    delivered = partial(_delivered, carried.names)

    def read(span: Span) -> Iterator[Parcel | Failed]:
        retries: Counter[str] = Counter()
        if len(span) > 1:  # bundles of one unit each, of one shard
            started = time.perf_counter()
            for unit, rows in units_of([bundle[0] for bundle in span], retries):
                yield delivered((unit,), rows, started, retries)
                started = time.perf_counter()
            return
        started = time.perf_counter()
        tables, units = [], []
        for _, group in groupby(span[0], key=lambda unit: unit.shard):
            for unit, rows in units_of(list(group), retries):
                if isinstance(rows, Exception):
                    yield delivered((unit,), rows, started, retries)
                else:
                    units.append(unit)
                    tables.append(rows)
        if units:
            yield delivered(tuple(units), pa.concat_tables(tables), started, retries)

    return read


def _in_time(tables: Iterator[pa.Table], seconds: float | None) -> Iterator[pa.Table]:
    """The tables; raises deadline.Hung when one does not come within `seconds`."""
    while (table := deadline.call(seconds, lambda: next(tables, None))) is not None:
        yield table


def _read_units(units: list[Unit], read: ReadUnits, uri: str, retries: Counter[str]) -> Iterator[UnitRead]:
    """Each unit with its rows, or with why it (and what follows it in the file) cannot be read.

    While the store is unavailable a unit is read again from its own source; nothing of what a stream gave before it
    failed is used. What was tried again is counted in `retries`."""
    at = 0
    backoff = Backoff(f"reading {units[0]}", uri)
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
        for unit in units[at:]:
            yield unit, bad


def _delivered(
    carried: Sequence[str], bundle: Bundle, rows: pa.Table | Exception, started: float, retries: Counter[str]
) -> Parcel | Failed:
    """What goes to the next stage; a parcel takes the counted retries with it."""
    if isinstance(rows, Exception):
        fatal = type(rows) if isinstance(rows, OF_THE_STORE) else None
        return Failed(bundle, f"read: {rows}", fatal=fatal, unread=isinstance(rows, UNREAD))
    tally = Tally(retries=Counter(retries), seconds={"read": time.perf_counter() - started})
    retries.clear()
    if not carried:
        return Parcel(bundle, rows, tally)
    places = pa.array(range(rows.num_rows), pa.int32())
    return Parcel(bundle, rows.drop_columns(carried).append_column("_at", places), tally, rows.select(carried))
