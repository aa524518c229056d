"""The last stage of every task: rows to an invisible part of the table, and a receipt for their units."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.stage import Parcel, Receipt, Result, Tally
from pipelines.errors import StorageError
from pipelines.storage.retry import Backoff
from pipelines.table.digests import DIGEST_FIELDS, with_digests
from pipelines.table.sink import Sink
from pipelines.units import Unit


@dataclass(frozen=True)
class Results:
    """The columns of a table that its task fills and its digests cover: null where a record has a reason.
    may_be_null: those of them that may be null beside a result, too."""

    columns: tuple[str, ...]
    may_be_null: tuple[str, ...] = ()


@dataclass(frozen=True)
class Write:
    """Write parcels as one fragment and give one receipt for all their units."""

    sink: Sink
    results: Results

    def __call__(self, parcels: list[Parcel]) -> Iterable[Result]:
        started = time.perf_counter()
        rows = pa.concat_tables([_as_stored(parcel.rows, self.sink.schema, self.results) for parcel in parcels])
        lacking = rows.select(["_reason", "_shard", "_row"]).filter(rows["_reason"].is_valid())
        reasons = pc.value_counts(lacking["_reason"]).to_pylist()
        bundle = tuple(unit for parcel in parcels for unit in parcel.bundle)
        try:
            fragments, retries = _written(self.sink, rows, bundle)
        except StorageError as bad:  # no other parcel will fare better, and each would cost a GPU's time
            why = f"the table cannot be written: {bad}"
            return [parcel.failed(why, fatal=True) for parcel in parcels]
        counted = Tally(
            bytes=rows.nbytes,
            bad_rows=lacking.group_by(["_shard", "_row"]).aggregate([]).num_rows,
            reasons=Counter({each["values"]: each["counts"] for each in reasons}),
            retries=retries,
            seconds={"write": time.perf_counter() - started},
        )
        return [Receipt(bundle, fragments, reduce(add, (parcel.tally for parcel in parcels), counted))]


def _written(sink: Sink, rows: pa.Table, units: Sequence[Unit]) -> tuple[tuple[str, ...], Counter[str]]:
    """(what was written, counts of what was tried again). Each attempt writes new files, so what a failed one left is
    never committed. Raises StorageError."""
    more = f" and {len(units) - 1} more unit(s)" if len(units) > 1 else ""
    backoff = Backoff(f"writing {units[0]}{more}", sink.location)
    fragments = backoff.run(lambda: sink.write(rows))
    return fragments, Counter({f"writing: {fault}": n for fault, n in backoff.tried_again.items()})


def _as_stored(rows: pa.Table, schema: pa.Schema, results: Results) -> pa.Table:
    """The columns and types of the table, with the digests of what Lance is to keep. Asserts that a result is null
    exactly where there is a reason."""
    for name in set(results.columns) - set(results.may_be_null):
        assert rows[name].is_null().equals(rows["_reason"].is_valid()), f"{name} is null exactly where a reason is"
    given = pa.schema([field for field in schema if field not in DIGEST_FIELDS])
    return with_digests(rows.select(given.names).cast(given), results.columns)


LOST = {
    "crashes_worker": "the process that worked on it died each time",
    "hangs_worker": "the process that worked on it hung each time",
}


def lost_row(unit: Unit, reason: str, sink: Sink, results: Results) -> Receipt:
    """The receipt for a row that kills or hangs its process each time: recorded with its place and the reason, without
    reading it."""
    assert unit.rows == 1
    known = {
        "id": f"{unit.path}#{unit.start}",
        "_shard": unit.shard,
        "_unit": unit.id,
        "_row": unit.start,
        "_chunk": 0,
        "_start": 0,
        "_end": 0,
        "_tokens": 0,
        "_truncated": False,
        "_reason": reason,
        "_detail": f"{unit.path} row {unit.start}: {LOST[reason]}",
    }
    fields = [field for field in sink.schema if field not in DIGEST_FIELDS]
    row = pa.table([pa.array([known.get(field.name)], field.type) for field in fields], schema=pa.schema(fields))
    fragments, retries = _written(sink, with_digests(row, results.columns), (unit,))
    tally = Tally(records=1, bad_rows=1, reasons=Counter([reason]), retries=retries)
    return Receipt((unit,), fragments, tally)
