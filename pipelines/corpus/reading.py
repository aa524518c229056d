"""From what a format module decodes to the tables a run works on, with a reason for every row that lacks a text.

A format module yields *pieces*: (number of the first row, decoded table). A decoded table has the columns `id`
(string or null), the carried columns in their types, the texts of `rows.text_fields` (or null), and for rows that the
decoder already knows to be bad `_reason` and `_note` (what more can be said than the reason itself; never content).
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipelines.config import DOCUMENT, QUERY, CorpusConfig, columns_in
from pipelines.content import DIGEST, row_digests, text_digests
from pipelines.corpus.partitions import filled
from pipelines.corpus.shard_file import RECORD_BYTES_MAX
from pipelines.errors import CorpusError, TooLarge
from pipelines.rows import REASONS, row_schema, text_fields
from pipelines.units import UNIT_BYTES_MOST, Unit

TOO_LONG = REASONS["too_long"]  # the note of a row whose record was too long to be held
Piece = tuple[int, pa.Table]
Texts = list[str | None]
# The reason of a row that has none of this text, and of one whose text is empty or white space.
ABSENT = {"text": "no_text", QUERY: "no_query", DOCUMENT: "no_document"}
BLANK = {"text": "empty_text", QUERY: "no_query", DOCUMENT: "no_document"}


def columns_of(corpus: CorpusConfig) -> tuple[str, ...]:
    """The columns that a job names, in order of first use."""
    single = tuple(name for name in (corpus.id, corpus.candidates) if name)
    return tuple(dict.fromkeys((*single, *corpus.text_columns, *corpus.columns)))


@dataclass(frozen=True)
class Wanted:
    """What is taken from each record. carried: the carried columns with the types they have in the table."""

    corpus: CorpusConfig
    carried: pa.Schema

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns a reader has to read, in order of first use."""
        return columns_of(self.corpus)

    @cached_property
    def decoded(self) -> pa.Schema:
        said = [pa.field(name, pa.string()) for name in ("_reason", "_note")]
        return pa.schema([pa.field("id", pa.string()), *self.carried, *text_fields(self.corpus), *said])

    @cached_property
    def nothing(self) -> pa.Table:
        return self.decoded.empty_table()

    @cached_property
    def rows(self) -> pa.Schema:
        return row_schema(self.carried, self.corpus)


def reason_of(note: str) -> str:
    """The reason that belongs to what a decoder noted of a record it gave up."""
    return "too_long" if note == TOO_LONG else "undecodable"


def fill_template(source: str, columns: dict[str, list[object]], rows: int, absent: str) -> tuple[Texts, Texts]:
    """(texts, reasons) of a template over `rows` rows; lists and objects are no text, a null counts as empty.

    absent: the reason of a row whose columns are all null."""
    texts: Texts = []
    reasons: Texts = []
    names = columns_in(source)
    parts = [(literal, name) for literal, name, _, _ in string.Formatter().parse(source)]
    for values in zip(*(columns[name] for name in names), strict=True) if rows else ():
        nested = any(isinstance(v, (list, dict, bytes)) for v in values)
        empty = all(v is None for v in values)
        reasons.append("not_a_string" if nested else absent if empty else None)
        if nested or empty:
            texts.append(None)
            continue
        shown = {name: "" if v is None else str(v) for name, v in zip(names, values, strict=True)}
        texts.append("".join(literal + (shown[name] if name else "") for literal, name in parts))
    return texts, reasons


def by_unit(pieces: Iterable[Piece], units: Sequence[Unit], wanted: Wanted) -> Iterator[pa.Table]:
    """One table of `row_schema(carried)` a unit, in order. Raises CorpusError when the rows do not add up,
    TooLarge for a unit of several rows that come to more than UNIT_BYTES_MOST."""
    stream = iter(pieces)
    first, table = 0, wanted.nothing
    for unit in units:
        parts, need, held = [], unit.start, 0
        while need < unit.stop:
            if need >= first + table.num_rows:
                first, table = next(stream, (unit.stop, wanted.nothing))
                if first > need:
                    break
                continue
            part = table.slice(need - first, unit.stop - need)
            parts.append(part)
            need += part.num_rows
            if (held := held + part.nbytes) > UNIT_BYTES_MOST and unit.rows > 1:
                raise TooLarge(f"{unit}: more than {UNIT_BYTES_MOST >> 20} MiB, too much to be held at once")
        if need != unit.stop:
            raise CorpusError(
                f"{unit.path} has only {need:,} rows where at least {unit.stop:,} were counted: it changed while the "
                "run was going on; run the command again"
            )
        decoded = pa.concat_tables(parts) if parts else wanted.nothing
        yield finish(unit, decoded, wanted)


def finish(unit: Unit, decoded: pa.Table, wanted: Wanted) -> pa.Table:
    """The unit's table: ids completed, reasons settled in the order of rows.REASONS, provenance and digests stamped.
    What a row becomes depends on that row alone."""
    assert decoded.num_rows == unit.rows, (decoded.num_rows, unit)
    decoded = filled(decoded, unit.path, wanted.carried)
    numbers = pa.array(np.arange(unit.start, unit.stop))
    ids, reason = decoded["id"], decoded["_reason"]
    texts = {field.name: decoded[field.name] for field in text_fields(wanted.corpus)}
    if flaws := [found for name, text in texts.items() for found in _flaws(name, text)]:
        reason = pc.coalesce(reason, *flaws)
    named = wanted.corpus.id is not None
    if named and ids.null_count:
        settled = pc.coalesce(_where(pc.is_null(ids), "no_id"), reason)
        unread = pc.is_in(reason, pa.array(["undecodable", "too_long"]))  # whatever its id would have been
        reason = pc.if_else(unread, reason, settled)
    if not named or ids.null_count:
        own_ids = pc.binary_join_element_wise(unit.path, numbers.cast(pa.string()), "#")
        ids = pc.coalesce(ids, own_ids) if named else own_ids
    whole = _text_digests(list(texts.values()))
    if reason.null_count != unit.rows:
        good = pc.is_null(reason)
        texts = {name: pc.if_else(good, text, pa.scalar(None, text.type)) for name, text in texts.items()}
    shard, of, first, rows, file = (
        pa.array(np.full(unit.rows, number, np.int64))
        for number in (unit.shard, unit.id, unit.start, unit.rows, unit.file)
    )
    carried = decoded.select(wanted.carried.names)
    digests = [whole, row_digests(carried, unit.rows)]
    details = _details(unit, reason, decoded["_note"])
    table = pa.Table.from_arrays(
        [ids, *carried.columns, *texts.values(), shard, of, numbers, first, rows, file, *digests, reason, details],
        schema=wanted.rows,
    )
    assert table.num_rows == unit.rows, (table.num_rows, unit)
    return table


def _flaws(name: str, text: pa.ChunkedArray) -> list[pa.ChunkedArray]:
    """The reasons against a text, the first that holds counts: null where there is none. Of a text that nothing is the
    matter with, none, after a look at each row: this is done for each unit, and small files have few rows."""
    if pt.is_list(text.type):
        sizes = pc.list_value_length(text)
        held = pa.array([sum(len(one or "") for one in several or ()) for several in text.to_pylist()], pa.int64())
        none = pc.or_kleene(pc.is_null(text), pc.equal(sizes, 0))
        return [_where(pc.greater(held, RECORD_BYTES_MAX), "too_long"), _where(none, ABSENT[name])]
    found = []
    lengths = pc.binary_length(text)
    if text.nbytes > RECORD_BYTES_MAX:  # of formats that hold it in a column
        found.append(_where(pc.greater(lengths, RECORD_BYTES_MAX), "too_long"))
    blank = pc.or_(pc.utf8_is_space(text), pc.equal(lengths, 0))
    if pc.any(blank).as_py():
        found.append(_where(blank, BLANK[name]))
    if text.null_count:
        found.append(_where(pc.is_null(text), ABSENT[name]))
    return found


def _where(mask: pa.ChunkedArray, reason: str) -> pa.ChunkedArray:
    return pc.if_else(pc.fill_null(mask, False), pa.scalar(reason), pa.scalar(None, pa.string()))


def _text_digests(texts: Sequence[pa.ChunkedArray]) -> pa.Array:
    """Of each row's whole text, also where it is empty: null where there is none. Of several texts (a query, a
    document, a list of them) those that are there, each in its place."""
    if len(texts) == 1:
        return text_digests(texts[0])
    said = pa.table(list(texts), names=[f"{place}" for place in range(len(texts))])
    there = pc.invert(reduce(pc.and_, (pc.is_null(text) for text in texts)))
    return pc.if_else(there.combine_chunks(), row_digests(said, said.num_rows), pa.scalar(None, DIGEST))


def _details(unit: Unit, reason: pa.ChunkedArray, notes: pa.ChunkedArray) -> pa.Array:
    if reason.null_count == unit.rows:
        return pa.nulls(unit.rows, pa.string())
    details: Texts = []
    for row, (why, note) in enumerate(zip(reason.to_pylist(), notes.to_pylist(), strict=True), unit.start):
        what = note if note and why in ("undecodable", "bad_column") else REASONS.get(why)
        details.append(f"{unit.path} row {row}: {what}" if why else None)
    return pa.array(details, pa.string())
