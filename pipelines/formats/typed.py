"""Columns that already have types: Parquet, Arrow and Lance, and CSV and text, whose columns are all strings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.types as pt

from pipelines.config import CorpusConfig
from pipelines.errors import CorpusError
from pipelines.formats.rows import Wanted, fill_template


def plain(kind: pa.DataType) -> pa.DataType:
    """The type a column of `kind` has once decoded: views, large strings and dictionaries become their plain form."""
    if pt.is_dictionary(kind):
        return plain(kind.value_type)
    if pt.is_string_view(kind) or pt.is_large_string(kind):
        return pa.string()
    return pa.binary() if pt.is_binary_view(kind) else kind


def carried_fields(schema: pa.Schema, corpus: CorpusConfig, path: str) -> pa.Schema:
    """The carried columns with their plain types, after checking that all columns of the job are there and fit.

    Raises CorpusError naming the column, the file, and the nearest or the available columns."""
    for role, name in roles(corpus):
        require(role, name, schema.names, path)
    _check_id_and_text(schema, corpus, path)
    return pa.schema([pa.field(name, plain(schema.field(name).type)) for name in corpus.columns])


def roles(corpus: CorpusConfig) -> Iterator[tuple[str, str]]:
    """(what it is for, name) of every column that the job names."""
    yield from (("id", name) for name in (corpus.id,) if name)
    yield from (("text", name) for name in corpus.text_columns)
    yield from (("carried", name) for name in corpus.columns)


def require(role: str, name: str, names: Sequence[str], path: str) -> None:
    """CorpusError unless `name` is exactly once among `names`."""
    found = list(names).count(name)
    if found == 1:
        return
    if found:
        raise CorpusError(f"{path} has {found} columns named {name!r}; rename all but one")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    raise CorpusError(f"{path} has no column {name!r} (the {role} column); {hint}It has: {shown or 'no columns'}")


def _check_id_and_text(schema: pa.Schema, corpus: CorpusConfig, path: str) -> None:
    if corpus.id:
        kind = plain(schema.field(corpus.id).type)
        whole = pt.is_integer(kind) or (pt.is_decimal(kind) and kind.scale == 0)
        if not (pt.is_string(kind) or pt.is_null(kind) or whole):
            raise CorpusError(f"{path}: the id column {corpus.id!r} is {kind}; ids must be strings or integers")
    for name in corpus.text_columns:
        kind = plain(schema.field(name).type)
        if pt.is_string(kind) or pt.is_null(kind):
            continue
        unreadable = pt.is_nested(kind) or pt.is_binary(kind) or pt.is_large_binary(kind)
        if unreadable or not corpus.is_template:
            advice = "name a column of strings" if unreadable else f"write corpus.text as a template: '{{{name}}}'"
            raise CorpusError(f"{path}: the text column {name!r} is {kind}, not a string; {advice}")


def check(schema: pa.Schema, wanted: Wanted, path: str) -> list[str]:
    """Which wanted columns a later shard has: carried ones may be missing (read as nulls), id and text not.

    Raises CorpusError."""
    corpus = wanted.corpus
    here = [name for name in corpus.columns if name in schema.names]
    carried_fields(schema, corpus.model_copy(update={"columns": tuple(here)}), path)
    return [name for name in wanted.columns if name in schema.names]


def from_arrow(table: pa.Table, wanted: Wanted, path: str, notes: Mapping[int, str]) -> pa.Table:
    """The decoded form of a table that has been checked. notes: why rows are undecodable, by position in the table.

    Raises CorpusError when a carried column cannot be cast to its type without loss."""
    corpus, rows = wanted.corpus, table.num_rows
    bad = dict(notes)
    columns = {name: _decoded(table[name]) for name in table.column_names}
    for name, column in columns.items():
        if pt.is_string(column.type):
            columns[name] = _valid(column, name, bad)
    ids = _cast(columns[corpus.id], pa.string(), corpus.id, path) if corpus.id else pa.nulls(rows, pa.string())
    carried = [
        _cast(columns[f.name], f.type, f.name, path) if f.name in columns else pa.nulls(rows, f.type)
        for f in wanted.carried
    ]
    reasons: list[str | None] | None = None
    if corpus.is_template:
        texts, reasons = fill_template(wanted, {n: _values(columns[n]) for n in corpus.text_columns}, rows)
        text = pa.array(texts, pa.string())
    else:
        text = _cast(columns[corpus.text], pa.string(), corpus.text, path)
    if bad:
        reasons = ["undecodable" if i in bad else why for i, why in enumerate(reasons or [None] * rows)]
        note = pa.array([bad.get(i) for i in range(rows)], pa.string())
        ids = pa.array([None if i in bad else one for i, one in enumerate(ids.to_pylist())], pa.string())
    else:
        note = pa.nulls(rows, pa.string())
    reason = pa.array(reasons, pa.string()) if reasons else pa.nulls(rows, pa.string())
    return pa.Table.from_arrays([ids, *carried, text, reason, note], schema=wanted.decoded)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_dictionary(column.type):
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.value_type)
    target = plain(column.type)
    return column if target == column.type else column.cast(target)


def _valid(column: pa.ChunkedArray, name: str, bad: dict[int, str]) -> pa.ChunkedArray:
    """The column without values that are not UTF-8 (files can hold them, Arrow does not look); adds them to `bad`."""
    try:
        column.validate(full=True)
        return column
    except pa.ArrowInvalid:
        pass
    kept: list[str | None] = []
    for row, raw in enumerate(column.cast(pa.binary()).to_pylist()):
        try:
            kept.append(None if raw is None else raw.decode())
        except UnicodeDecodeError:
            kept.append(None)
            bad[row] = f"invalid UTF-8 in column {name!r}"
    return pa.chunked_array([pa.array(kept, pa.string())])


def _cast(column: pa.ChunkedArray, target: pa.DataType, name: str, path: str) -> pa.ChunkedArray:
    if column.type == target:
        return column
    try:
        return column.cast(target)
    except pa.ArrowException:
        # Arrow's message quotes the value, which is content.
        raise CorpusError(
            f"{path}: column {name!r} is {column.type} and not all of it fits the table's {target}; convert the shard, "
            "or leave the column out of corpus.columns"
        ) from None


def _values(column: pa.ChunkedArray) -> list[object]:
    kind = column.type
    if pt.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)  # Python has no nanoseconds
    elif kind in (pa.time64("ns"), pa.duration("ns")):
        column = column.cast(pa.time64("us") if kind == pa.time64("ns") else pa.duration("us"), safe=False)
    values: list[object] = column.to_pylist()
    return values
