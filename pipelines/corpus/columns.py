"""Columns that already have types: Parquet, Arrow and Lance, and CSV and text, whose columns are all strings."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipelines.config import DOCUMENT, QUERY, CorpusConfig, columns_in, is_template
from pipelines.corpus.arrow_types import can_be_stored, fit, plain
from pipelines.corpus.reading import ABSENT, Wanted, columns_of, fill_template, reason_of
from pipelines.errors import CorpusError

BEYOND_PYTHON = (OverflowError, ValueError, KeyError)  # the year 10000; a zone that is not in the data base
CARRIED = "carried"
EXACT_INTEGERS = {16: 2**11, 32: 2**24, 64: 2**53}  # floats of so many bits hold all integers below
ROLES = {"text": "text", QUERY: "query", DOCUMENT: "document"}  # by a text's name between the stages, that in corpus


def fields_of(schema: pa.Schema, corpus: CorpusConfig, path: str) -> pa.Schema:
    """The columns that a file has, with their plain types, after checking that those of the job fit. Carried ones may
    be missing (its rows have nulls), the others not.

    Raises CorpusError naming the column, the file, and the nearest or the available columns."""
    for role, name in roles(corpus):
        if role != CARRIED or name in schema.names:
            require(role, name, schema.names, path)
    _check_id_and_texts(schema, corpus, path)
    here = [pa.field(field.name, plain(field.type)) for field in schema]
    for field in here:
        if field.name in corpus.columns and not can_be_stored(field.type):
            raise CorpusError(
                f"{path}: the carried column {field.name!r} is {field.type}, which a Lance table cannot hold; convert "
                "it, or leave it out of corpus.columns"
            )
    return pa.schema(here)


def roles(corpus: CorpusConfig) -> Iterator[tuple[str, str]]:
    """(what it is for, name) of every column that the job names."""
    yield from (("id", name) for name in (corpus.id,) if name)
    yield from ((ROLES[text], name) for text, source in corpus.texts.items() for name in columns_in(source))
    yield from (("candidates", name) for name in (corpus.candidates,) if name)
    yield from ((CARRIED, name) for name in corpus.columns)


def require(role: str, name: str, names: Sequence[str], path: str) -> None:
    """CorpusError unless `name` is exactly once among `names`."""
    found = list(names).count(name)
    if found > 1:
        raise CorpusError(f"{path} has {found} columns named {name!r}; rename all but one")
    if not found:
        raise CorpusError(lacking(role, name, names, path))


def lacking(role: str, name: str, names: Sequence[str], whole: str, where: str = "") -> str:
    """What to say where a column is not among `names`."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = ", ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")
    return f"{whole} has no column {name!r}{where} (the {role} column); {hint}It has: {shown or 'no columns'}"


def _check_id_and_texts(schema: pa.Schema, corpus: CorpusConfig, path: str) -> None:
    if corpus.id:
        kind = plain(schema.field(corpus.id).type)
        whole = pt.is_integer(kind) or pt.is_floating(kind) or (pt.is_decimal(kind) and kind.scale == 0)
        if not (pt.is_string(kind) or pt.is_null(kind) or whole):
            raise CorpusError(f"{path}: the id column {corpus.id!r} is {kind}; ids must be strings or integers")
    for text, source in corpus.texts.items():
        for name in columns_in(source):
            _check_text(ROLES[text], name, plain(schema.field(name).type), is_template(source), path)
    if corpus.candidates:
        _check_candidates(corpus.candidates, schema.field(corpus.candidates).type, path)


def _check_text(role: str, name: str, kind: pa.DataType, in_template: bool, path: str) -> None:
    if pt.is_string(kind) or pt.is_null(kind):
        return
    unreadable = pt.is_nested(kind) or pt.is_binary(kind) or pt.is_large_binary(kind)
    if unreadable or not in_template:
        advice = "name a column of strings" if unreadable else f"write corpus.{role} as a template: '{{{name}}}'"
        raise CorpusError(f"{path}: the {role} column {name!r} is {kind}, not a string; {advice}")


def _check_candidates(name: str, kind: pa.DataType, path: str) -> None:
    several = any(is_it(kind) for is_it in (pt.is_list, pt.is_large_list, pt.is_fixed_size_list, pt.is_list_view))
    if not pt.is_null(kind) and not (several and plain(kind.value_type) in (pa.string(), pa.null())):
        raise CorpusError(
            f"{path}: the candidates column {name!r} is {kind}, not a list of strings; name a column of lists, or give "
            "corpus.document for one document a row"
        )


def check(schema: pa.Schema, corpus: CorpusConfig, path: str) -> list[str]:
    """Which of the job's columns a file has, after the checks of `fields_of`. Raises CorpusError."""
    try:
        return list(_checked(schema, corpus))
    except CorpusError:
        fields_of(schema, corpus, path)
        raise


@lru_cache(maxsize=64)
def _checked(schema: pa.Schema, corpus: CorpusConfig) -> tuple[str, ...]:
    """Files of one schema are checked once; what is raised names no file."""
    fields_of(schema, corpus, "")
    return tuple(name for name in columns_of(corpus) if name in schema.names)


def from_arrow(table: pa.Table, wanted: Wanted, path: str, notes: Mapping[int, str]) -> pa.Table:
    """The decoded form of a table that has been checked. notes: why rows are undecodable, by position in the table.

    A value that does not fit the type of its carried column makes its row a bad one. Raises pa.ArrowInvalid for data
    that breaks Arrow's own rules, as a damaged file may hold."""
    corpus, rows = wanted.corpus, table.num_rows
    bad = dict(notes)
    columns = {name: _sound(table[name], name, bad) for name in table.column_names}
    reasons: dict[int, str] = {}
    why: dict[int, str] = {}
    ids = _ids(columns[corpus.id]) if corpus.id else pa.nulls(rows, pa.string())
    carried = []
    for field in wanted.carried:
        fitted, misfits = fit(columns.get(field.name, pa.chunked_array([pa.nulls(rows)])), field.type)
        carried.append(fitted)
        for i in misfits:
            reasons[i], why[i] = "bad_column", f"the value of {field.name!r} does not fit the table's {field.type}"
    # What is said of the first one stands.
    texts = [_text(name, source, columns, reasons) for name, source in reversed(corpus.texts.items())][::-1]
    if corpus.candidates:
        texts.append(columns[corpus.candidates].cast(pa.list_(pa.string())))
    if bad:
        reasons.update({i: reason_of(note) for i, note in bad.items()})
        why.update(bad)
        ids = pa.array([None if i in bad else one for i, one in enumerate(ids.to_pylist())], pa.string())
    return pa.Table.from_arrays(
        [ids, *carried, *texts, _sparse(reasons, rows), _sparse(why, rows)], schema=wanted.decoded
    )


def _ids(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As strings. Integers of which one is missing are written by pandas as floats: 1.0 is 1 again, as far as floats
    tell integers apart; other floats are no ids."""
    if pt.is_floating(column.type):
        most = EXACT_INTEGERS[column.type.bit_width]
        column = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), most))
        column = pc.if_else(pc.fill_null(whole, False), column, pa.scalar(None, pa.float64())).cast(pa.int64())
    return column.cast(pa.string())


def _text(
    name: str, source: str, columns: Mapping[str, pa.ChunkedArray], reasons: dict[int, str]
) -> pa.Array | pa.ChunkedArray:
    """One of the texts of each row; what is wrong with it is added to `reasons`, by position."""
    if is_template(source):
        names = columns_in(source)
        rows = len(columns[names[0]])
        made, found = fill_template(source, {n: _values(columns[n]) for n in names}, rows, ABSENT[name])
        reasons.update({i: reason for i, reason in enumerate(found) if reason})
        return pa.array(made, pa.string())
    text = columns[source].cast(pa.string())
    if reasons:
        missing = text.is_null().to_numpy()
        reasons.update({i: ABSENT[name] for i in reasons if missing[i]})
    return text


def _sparse(values: dict[int, str], rows: int) -> pa.Array:
    return pa.array([values.get(i) for i in range(rows)], pa.string()) if values else pa.nulls(rows, pa.string())


def _sound(column: pa.ChunkedArray, name: str, bad: dict[int, str]) -> pa.ChunkedArray:
    """The column in its plain type, without strings that are not UTF-8 (files can hold them, Arrow does not look): null
    in their place, and their positions in `bad`. Everything else that is not valid raises pa.ArrowInvalid, and nothing
    is read before it is known to be valid: offsets of a damaged file may point anywhere."""
    try:
        column.validate(full=True)
        return _decoded(column)
    except pa.ArrowInvalid:
        kind = column.type
        if pt.is_dictionary(kind):
            for chunk in column.chunks:
                chunk.indices.validate(full=True)
                found = pc.min_max(chunk.indices).as_py()
                if found["min"] is not None and not 0 <= found["min"] <= found["max"] < len(chunk.dictionary):
                    raise
                _bytes_of(chunk.dictionary).validate(full=True)
            column = pa.chunked_array([c.dictionary_decode() for c in column.chunks], kind.value_type)
        elif plain(kind) != pa.string():
            raise
    raw = _bytes_of(column)
    raw.validate(full=True)
    kept: list[str | None] = []
    for row, value in enumerate(raw.to_pylist()):
        try:
            kept.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            kept.append(None)
            bad[row] = f"invalid UTF-8 in column {name!r}"
    return pa.chunked_array([pa.array(kept, pa.string())])


def _bytes_of(strings: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if plain(strings.type) != pa.string():
        raise pa.ArrowInvalid(f"a dictionary of {strings.type} is not valid")
    if pt.is_string_view(strings.type):
        return strings.cast(pa.binary_view())
    return strings.cast(pa.large_binary() if pt.is_large_string(strings.type) else pa.binary())


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pt.is_dictionary(column.type):
        chunks = [chunk.dictionary_decode() for chunk in column.chunks]
        column = pa.chunked_array(chunks, column.type.value_type)
    target = plain(column.type)
    return column if target == column.type else column.cast(target)


def _values(column: pa.ChunkedArray) -> list[object]:
    kind = column.type
    if pt.is_timestamp(kind) and kind.unit == "ns":
        column = column.cast(pa.timestamp("us", kind.tz), safe=False)  # Python has no nanoseconds
    elif kind in (pa.time64("ns"), pa.duration("ns")):
        column = column.cast(pa.time64("us") if kind == pa.time64("ns") else pa.duration("us"), safe=False)
    try:
        values: list[object] = column.to_pylist()
    except BEYOND_PYTHON:
        values = [_value(one) for one in column]  # each by itself: its neighbours are written as they always are
    return values


def first_beyond_python(column: pa.ChunkedArray) -> int | None:
    """The place of the first time that Python cannot hold, None if there is none."""
    found = (i for i, (one, value) in enumerate(zip(column, _values(column), strict=True)) if _is_count(one, value))
    return next(found, None)


def _is_count(one: pa.Scalar, value: object) -> bool:
    return one.is_valid and isinstance(value, int)


def _value(one: pa.Scalar) -> object:
    """A time beyond Python's, or of a zone that nobody knows, as the count of its unit."""
    try:
        return one.as_py()
    except BEYOND_PYTHON:
        return one.value
