"""The last stage of every task: rows to an invisible part of the table, and a receipt for their units."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from actors.replica.columns import set_where
from pipelines.content import DIGEST
from pipelines.engine.stage import Parcel, Receipt, Result, Tally
from pipelines.errors import StorageError
from pipelines.row_bytes import bytes_of_rows, cuts
from pipelines.storage.retry import Backoff
from pipelines.table.digests import DIGESTS, with_digests
from pipelines.table.sink import Sink
from pipelines.units import Unit

BATCH_BYTES = 8 << 20  # handed to Lance at once
BEYOND_FLOAT16 = "a number of the vector is beyond 65,504, the most that float16 holds; set table.vector_dtype: float32"


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
        stored = [Stored.of(parcel, self.sink.schema, self.results) for parcel in parcels]
        rows = pa.concat_tables([one.rows.select(["_reason", "_shard", "_row"]) for one in stored])
        lacking = rows.filter(rows["_reason"].is_valid())
        reasons = pc.value_counts(lacking["_reason"]).to_pylist()
        bundle = tuple(unit for parcel in parcels for unit in parcel.bundle)
        try:
            fragments, retries = _written(self.sink, stored, bundle)
        except StorageError as bad:  # no other parcel will fare better, and each would cost a GPU's time
            why = f"the table cannot be written: {bad}"
            return [parcel.failed(why, fatal=type(bad)) for parcel in parcels]
        counted = Tally(
            bytes=sum(one.bytes for one in stored),
            bad_rows=lacking.group_by(["_shard", "_row"]).aggregate([]).num_rows,
            reasons=Counter({each["values"]: each["counts"] for each in reasons}),
            retries=retries,
            seconds={"write": time.perf_counter() - started},
        )
        return [Receipt(bundle, fragments, reduce(add, (parcel.tally for parcel in parcels), counted))]


@dataclass(frozen=True)
class Stored:
    """Records as the table has them, but for the carried columns: those are joined slice by slice as they are written,
    because a long value that a row carries would be there once for each of its passages. schema: of all columns."""

    rows: pa.Table
    carried: pa.Table | None
    schema: pa.Schema

    @classmethod
    def of(cls, parcel: Parcel, schema: pa.Schema, results: Results) -> Stored:
        """With the digests of what Lance is to keep. Asserts that a result is null exactly where there is a reason."""
        given = parcel.rows
        for name in set(results.columns) - set(results.may_be_null):
            assert given[name].is_null().equals(given["_reason"].is_valid()), f"{name} is null where a reason is"
        there = [field for field in schema if field.name in given.column_names]
        stored = given.select([field.name for field in there]).cast(pa.schema(there))
        stored = _without_passage(_finite(stored, results.columns))
        if parcel.carried is not None:
            stored = stored.append_column("_at", given["_at"])
        return cls(with_digests(stored, results.columns), parcel.carried, schema)

    @cached_property
    def _bytes_N(self) -> np.ndarray:
        """Of each record, about."""
        own_N = bytes_of_rows(self.rows)
        return own_N if self.carried is None else own_N + bytes_of_rows(self.carried)[self.rows["_at"].to_numpy()]

    @property
    def bytes(self) -> int:
        return int(self._bytes_N.sum())

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Of the table's schema, each of about BATCH_BYTES."""
        for start, stop in cuts(self._bytes_N, BATCH_BYTES):
            yield from self._whole(self.rows.slice(start, stop - start)).to_batches()

    def _whole(self, records: pa.Table) -> pa.Table:
        columns = {name: records[name] for name in records.column_names}
        if self.carried is not None:
            at = columns.pop("_at").to_numpy()  # ascending: of the carried rows only these few are looked at
            taken = self.carried.slice(at[0], at[-1] - at[0] + 1).take(pa.array(at - at[0]))
            columns |= {name: taken[name] for name in taken.column_names}
        nulls = {field.name: pa.nulls(len(records), field.type) for field in self.schema}
        return pa.table([(nulls | columns)[name] for name in self.schema.names], schema=self.schema).combine_chunks()


def _finite(rows: pa.Table, results: Sequence[str]) -> pa.Table:
    """A number of a vector may be beyond what its stored type holds: float16 ends at 65,504."""
    for name in results:
        column = rows[name].combine_chunks()
        if not pt.is_fixed_size_list(column.type) or column.type.value_type != pa.float16():
            continue
        there = np.asarray(column.is_valid())
        numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
        beyond = np.zeros(len(rows), bool)
        beyond[there] = ~np.isfinite(numbers).all(axis=1)
        if beyond.any():
            rows = set_where(set_where(rows, "_reason", beyond, "non_finite"), "_detail", beyond, BEYOND_FLOAT16)
            empty = pa.nulls(len(rows), column.type)
            rows = rows.set_column(rows.column_names.index(name), name, pc.if_else(pa.array(beyond), empty, column))
    return rows


def _without_passage(rows: pa.Table) -> pa.Table:
    """Without a result there is nothing to find again by its text."""
    kept = pc.if_else(rows["_reason"].is_null(), rows["_passage"], pa.scalar(None, DIGEST))
    return rows.set_column(rows.column_names.index("_passage"), "_passage", kept)


def _written(sink: Sink, stored: Sequence[Stored], units: Sequence[Unit]) -> tuple[tuple[str, ...], Counter[str]]:
    """(what was written, counts of what was tried again). Each attempt writes new files, so what a failed one left is
    never committed. Raises StorageError."""
    more = f" and {len(units) - 1} more unit(s)" if len(units) > 1 else ""
    backoff = Backoff(f"writing {units[0]}{more}", sink.location)

    def write() -> tuple[str, ...]:
        batches = (batch for one in stored for batch in one.batches())
        return sink.write(pa.RecordBatchReader.from_batches(sink.schema, batches))

    fragments = backoff.run(write)
    return fragments, Counter({f"writing: {fault}": n for fault, n in backoff.tried_again.items()})


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
        "_first": unit.start,
        "_rows": unit.rows,
        "_file": unit.file,
        "_chunk": 0,
        "_passages": 1,
        "_start": 0,
        "_end": 0,
        "_tokens": 0,
        "_truncated": False,
        "_reason": reason,
        "_detail": f"{unit.path} row {unit.start}: {LOST[reason]}",
    }
    fields = [field for field in sink.schema if field.name not in DIGESTS]
    row = pa.table([pa.array([known.get(field.name)], field.type) for field in fields], schema=pa.schema(fields))
    stored = Stored(with_digests(row, results.columns), None, sink.schema)
    fragments, retries = _written(sink, [stored], (unit,))
    tally = Tally(records=1, bad_rows=1, reasons=Counter([reason]), retries=retries)
    return Receipt((unit,), fragments, tally)
