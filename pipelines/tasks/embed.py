"""A unit's way through the workers: read, tokenise, embed, write. The stages of other tasks are in modules beside.

Each function here makes the function one stage runs; what it closes over is small and picklable, and what is dear to
build (tokenizer, model, table handle) is built once a process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from pipelines.config import ChunkingConfig
from pipelines.corpus.corpus import Corpus
from pipelines.engine import deadline
from pipelines.engine.stage import Parcel, StageFunction
from pipelines.errors import CredentialsRefused, StorageError, StoreUnavailable, VectormillError
from pipelines.run.metrics import RETRY
from pipelines.storage.retry import Backoff
from pipelines.table.digests import DIGEST_FIELDS, with_digests
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.schema import MAY_BE_NULL, results_of
from pipelines.tasks.chunking import passages
from pipelines.units import Bundle, Span, Unit

UnitRead = tuple[Unit, pa.Table | Exception]
ReadUnits = Callable[[list[Unit]], Iterator[pa.Table]]


def reader(
    corpus: Corpus, carried: pa.Schema, timeout_seconds: float | None = None
) -> Callable[[Span], Iterator[Parcel]]:
    """Read a span in one pass. A unit that cannot be read, or not in its time, becomes a parcel of its own, with the
    failure."""

    def in_time(units: list[Unit]) -> Iterator[pa.Table]:
        return _in_time(corpus.read(units, carried), timeout_seconds)

    def units_of(units: list[Unit], retries: Counter[str]) -> Iterator[UnitRead]:
        return _read_units(units, in_time, corpus.config.uri, retries)

    def read(span: Span) -> Iterator[Parcel]:
        retries: Counter[str] = Counter()
        if len(span) > 1:  # bundles of one unit each, of one shard
            started = time.perf_counter()
            for unit, rows in units_of([bundle[0] for bundle in span], retries):
                yield _delivered((unit,), rows, started, retries)
                started = time.perf_counter()
            return
        started = time.perf_counter()
        tables, units = [], []
        for _, group in groupby(span[0], key=lambda unit: unit.shard):
            for unit, rows in units_of(list(group), retries):
                if isinstance(rows, Exception):
                    yield _delivered((unit,), rows, started, retries)
                else:
                    units.append(unit)
                    tables.append(rows)
        if units:
            yield _delivered(tuple(units), pa.concat_tables(tables), started, retries)

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
    attempts = Backoff(f"reading {units[0]}", uri)
    try:
        while at < len(units):
            try:
                for rows in read(units[at:]):
                    assert rows.num_rows == units[at].rows, f"{units[at]}: read {rows.num_rows} rows"
                    yield units[at], rows
                    at += 1
                    if at < len(units):
                        attempts = Backoff(f"reading {units[at]}", uri)
                assert at == len(units), f"read {at} of {len(units)} units"
            except StoreUnavailable as bad:
                attempts.failed(bad)
                retries[f"{RETRY}reading: {bad.fault}"] += 1
    except (VectormillError, OSError, pa.ArrowException, AssertionError) as bad:
        for unit in units[at:]:
            yield unit, bad


def _delivered(bundle: Bundle, rows: pa.Table | Exception, started: float, retries: Counter[str]) -> Parcel:
    """The parcel for the next stage; it takes the counted retries with it."""
    parcel = Parcel(bundle)
    if not isinstance(rows, Exception):
        parcel = parcel.with_rows(rows, "read", started, **retries)
        retries.clear()
        return parcel
    whole_store = isinstance(rows, (StoreUnavailable, CredentialsRefused))  # then no other unit will fare better
    return parcel.failed(f"read: {rows}", fatal=whole_store)


def tokenised(tokenise: Callable[[pa.Table], tuple[pa.Table, int, int]], parcels: list[Parcel]) -> Iterator[Parcel]:
    """Each parcel with what `tokenise` makes of its rows: the table, its tokens, how many texts were truncated."""
    for parcel in parcels:
        started = time.perf_counter()
        assert parcel.rows is not None
        rows, tokens, truncated = tokenise(parcel.rows)
        yield parcel.with_rows(rows, "tokenise", started, tokens=tokens, truncated=truncated, records=rows.num_rows)


@dataclass(frozen=True)
class Tokenise:
    """Cut rows into passages (if asked) and turn text into token ids, so that ids, not text, go to the GPU.

    Takes tables of schema.row_schema; gives them with _chunk, _start, _end, _tokens, _truncated and `_ids`
    (list<int32>, null where there is a reason), and the text under `text_column` or not at all."""

    spec: ModelSpec
    chunking: ChunkingConfig | None
    text_column: str | None

    def __call__(self, parcels: list[Parcel]) -> Iterable[Parcel]:
        return tokenised(self.tokenise, parcels)

    def tokenise(self, rows: pa.Table) -> tuple[pa.Table, int, int]:
        """The table for the embed stage, its token count and how many texts were truncated."""
        tokenizer = _tokenizer(self.spec)
        rows = self._chunked(rows, tokenizer) if self.chunking else _one_chunk_a_row(rows)
        good = rows["_reason"].is_null().to_numpy()
        texts = rows["text"].filter(pa.array(good)).to_pylist()
        encoded = tokenizer.encode(texts)
        lengths = np.zeros(rows.num_rows, np.int32)
        lengths[good] = np.diff(encoded.offsets)
        truncated = np.zeros(rows.num_rows, bool)
        truncated[good] = encoded.truncated
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(encoded.ids, pa.int32()), mask=pa.array(~good))
        rows = rows.append_column("_tokens", pa.array(lengths)).append_column("_truncated", pa.array(truncated))
        rows = rows.append_column("_ids", ids)
        if self.text_column is None:
            rows = rows.drop_columns(["text"])
        elif self.text_column != "text":
            rows = rows.rename_columns([self.text_column if n == "text" else n for n in rows.column_names])
        return rows, int(lengths.sum()), int(truncated.sum())

    def _chunked(self, rows: pa.Table, tokenizer: TextTokenizer) -> pa.Table:
        assert self.chunking is not None
        room = self.chunking.max_tokens - tokenizer.special_tokens
        take, chunk, start, end, pieces = [], [], [], [], []
        for row, text in enumerate(rows["text"].to_pylist()):
            spans = (
                [(0, 0)]
                if text is None
                else passages(text, tokenizer.token_spans(text), room, self.chunking.overlap_tokens)
            )
            for number, (first, last) in enumerate(spans):
                take.append(row)
                chunk.append(number)
                start.append(first)
                end.append(last)
                pieces.append(None if text is None else text[first:last])
        rows = rows.take(pa.array(take, pa.int64()))
        rows = rows.set_column(rows.column_names.index("text"), "text", pa.array(pieces, pa.string()))
        return _with_spans(rows, chunk, start, end)


def _one_chunk_a_row(rows: pa.Table) -> pa.Table:
    zeros = np.zeros(rows.num_rows, np.int32)
    return _with_spans(rows, zeros, zeros, pc.fill_null(pc.utf8_length(rows["text"]), 0).cast(pa.int32()))


def _with_spans(rows: pa.Table, chunk: object, start: object, end: object) -> pa.Table:
    for name, values in (("_chunk", chunk), ("_start", start), ("_end", end)):
        column = values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.int32())
        rows = rows.append_column(name, column)
    return rows


@cache
def _tokenizer(spec: ModelSpec) -> TextTokenizer:
    return TextTokenizer(spec)


def embedder(spec: ModelSpec) -> StageFunction:
    """One replica of an embedder."""
    from actors.replica.embed import EmbedActor  # torch: only where vectors are made

    return replica("embed", partial(EmbedActor, spec))


def replica(stage: str, make: Callable[[], Callable[[pa.Table], pa.Table]]) -> StageFunction:
    """The function of a stage whose model `make` loads. If the model refuses to work (wrong weights, failed self-check,
    a device that is broken from the start, a table it cannot search) every parcel says so and the run stops. Later the
    function raises ReplicaBroken when its process must be replaced."""
    try:
        actor = make()
    except (ModelError, VectormillError) as bad:
        why = f"a replica refuses to work: {bad}"
        return lambda parcels: [parcel.failed(why, fatal=True) for parcel in parcels]

    def work(parcels: list[Parcel]) -> Iterable[Parcel]:
        for parcel in parcels:
            started = time.perf_counter()
            assert parcel.rows is not None
            yield parcel.with_rows(actor(parcel.rows), stage, started)

    return work


@dataclass(frozen=True)
class Write:
    """Write parcels as one invisible Lance fragment and give one receipt for all their units."""

    address: TableAddress
    schema: pa.Schema

    def __call__(self, parcels: list[Parcel]) -> Iterable[Parcel]:
        started = time.perf_counter()
        rows = pa.concat_tables([_as_stored(parcel.rows, self.schema) for parcel in parcels])
        lacking = rows.select(["_reason", "_shard", "_row"]).filter(rows["_reason"].is_valid())
        reasons = pc.value_counts(lacking["_reason"]).to_pylist()
        bundle = tuple(unit for parcel in parcels for unit in parcel.bundle)
        try:
            fragments, retries = _written(self.address, rows, bundle)
        except StorageError as bad:  # no other parcel will fare better, and each would cost a GPU's time
            why = f"the table cannot be written: {bad}"
            return [parcel.failed(why, fatal=True) for parcel in parcels]
        seconds, counts = dict[str, float](), {f"reason:{r['values']}": r["counts"] for r in reasons} | retries
        for parcel in parcels:
            _add(seconds, parcel.seconds)
            _add(counts, parcel.counts)
        seconds["write"] = time.perf_counter() - started
        counts |= {"bytes": rows.nbytes, "bad_rows": lacking.group_by(["_shard", "_row"]).aggregate([]).num_rows}
        return [Parcel(bundle, seconds=seconds, counts=counts, fragments=fragments)]


def _written(address: TableAddress, rows: pa.Table, units: Sequence[Unit]) -> tuple[tuple[str, ...], dict[str, int]]:
    """(the fragments' metadata, counts of what was tried again). Each attempt writes new files, so what a failed one
    left is never committed. Raises StorageError."""
    more = f" and {len(units) - 1} more unit(s)" if len(units) > 1 else ""
    attempts = Backoff(f"writing {units[0]}{more}", address.location)
    fragments = attempts.run(lambda: write_rows(address, rows))
    return fragments, {f"{RETRY}writing: {fault}": n for fault, n in attempts.tried_again.items()}


def _add(total: dict, more: dict) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _as_stored(rows: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """The columns and types of the table, with the digests of what Lance is to keep. Asserts that a result is null
    exactly where there is a reason."""
    assert rows is not None
    results = results_of(schema)
    for name in set(results) - set(MAY_BE_NULL):
        assert rows[name].is_null().equals(rows["_reason"].is_valid()), f"{name} is null exactly where a reason is"
    given = pa.schema([field for field in schema if field not in DIGEST_FIELDS])
    return with_digests(rows.select(given.names).cast(given), results)


LOST = {
    "crashes_worker": "the process that worked on it died each time",
    "hangs_worker": "the process that worked on it hung each time",
}


def lost_row(unit: Unit, reason: str, schema: pa.Schema, address: TableAddress) -> Parcel:
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
    fields = [field for field in schema if field not in DIGEST_FIELDS]
    row = pa.table([pa.array([known.get(field.name)], field.type) for field in fields], schema=pa.schema(fields))
    fragments, retries = _written(address, with_digests(row, results_of(schema)), (unit,))
    counts = {f"reason:{reason}": 1, "bad_rows": 1, "records": 1, **retries}
    return Parcel((unit,), counts=counts, fragments=fragments)
