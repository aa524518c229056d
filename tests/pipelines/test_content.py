"""Digests of what rows say: as the table in pipelines/content.py says, whatever Arrow type or layout they have."""

import struct
from hashlib import blake2b

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.content import row_digests, text_digests

LONG = {pa.string(): str.encode, pa.binary(): bytes}
NUMBERS = {
    pa.int8(): "<b",
    pa.int32(): "<i",
    pa.int64(): "<q",
    pa.uint16(): "<H",
    pa.float32(): "<f",
    pa.float64(): "<d",
}
ITEM = pa.list_(pa.int32())
RECORD = pa.struct([("a", pa.string()), ("b", pa.int8())])
MAPPED = pa.map_(pa.string(), pa.int8())


def digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=16).digest()


def head_and_tail(value, kind) -> tuple[bytes, bytes]:
    """One value, by the words of that table."""
    there = bytes([value is not None])
    if kind in LONG:
        content = b"" if value is None else LONG[kind](value)
        return there + struct.pack("<q", len(content)), content
    if kind in (ITEM, MAPPED):
        inner = ITEM.value_type if kind == ITEM else pa.struct([MAPPED.key_field, MAPPED.item_field])
        parts = [head_and_tail(one, inner) for one in value or ()]
        tails = b"".join(head for head, _ in parts), b"".join(tail for _, tail in parts)
        return there + struct.pack("<q", len(parts)), b"".join(tails)
    if pa.types.is_struct(kind):
        given = value if isinstance(value, tuple) else tuple((value or {}).get(f.name) for f in kind)
        parts = [head_and_tail(one, field.type) for one, field in zip(given, kind, strict=True)]
        return there + b"".join(head for head, _ in parts), b"".join(tail for _, tail in parts)
    if kind == pa.bool_():
        return there + bytes([bool(value)]), b""
    value = 0 if value is None else float("nan") if value != value else value + 0
    return there + struct.pack(NUMBERS[kind], value), b""


def expected(columns: dict, kinds: dict) -> list[bytes]:
    rows = []
    for values in zip(*(columns[name] for name in sorted(columns)), strict=True):
        parts = [head_and_tail(value, kinds[name]) for value, name in zip(values, sorted(columns), strict=True)]
        rows.append(digest(b"".join(head for head, _ in parts) + b"".join(tail for _, tail in parts)))
    return rows


VALUES = {
    pa.string(): st.text(st.characters(codec="utf-8"), max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint16(): st.integers(0, 65_535),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats() | st.just(-0.0),
    ITEM: st.lists(st.none() | st.integers(0, 9), max_size=3),
    RECORD: st.fixed_dictionaries({"a": st.none() | st.text("xyz", max_size=2), "b": st.none() | st.integers(0, 9)}),
    MAPPED: st.lists(st.tuples(st.text("xyz", max_size=2), st.none() | st.integers(0, 9)), max_size=2),
}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_of_all_types_as_is_written_down(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 6))
    kinds = {
        name: data.draw(st.sampled_from(list(VALUES)), label=name)
        for name in data.draw(st.sets(st.sampled_from("abc"), min_size=1))
    }
    columns = {
        name: data.draw(st.lists(st.none() | VALUES[kind], min_size=rows, max_size=rows))
        for name, kind in kinds.items()
    }
    table = pa.table({name: pa.array(columns[name], kind) for name, kind in kinds.items()})
    wanted = expected(columns, kinds)
    assert row_digests(table, rows).to_pylist() == wanted
    cut = data.draw(st.integers(0, rows))
    assert row_digests(table.slice(cut), rows - cut).to_pylist() == wanted[cut:], "of a part"
    assert (
        row_digests(pa.concat_tables([table.slice(cut), table.slice(0, cut)]), rows).to_pylist()
        == wanted[cut:] + wanted[:cut]
    )
    assert row_digests(table.select(table.column_names[::-1]), rows).to_pylist() == wanted, "in any order"


@pytest.mark.parametrize(
    ("plain", "other"),
    [
        (pa.string(), pa.large_string()),
        (pa.string(), pa.string_view()),
        (pa.string(), pa.dictionary(pa.int8(), pa.string())),
        (pa.binary(), pa.large_binary()),
        (pa.int32(), pa.dictionary(pa.int16(), pa.int32())),
        (ITEM, pa.large_list(pa.int32())),
    ],
    ids=str,
)
def test_another_type_of_the_same_values_gives_the_same(plain: pa.DataType, other: pa.DataType) -> None:
    values = {pa.string(): ["a", None, "", "ü"], pa.binary(): [b"a", None, b""], pa.int32(): [1, None, 1]}
    array = pa.array(values.get(plain, [[1, None], None, []]), plain)
    alike = array.dictionary_encode().cast(other) if pa.types.is_dictionary(other) else array.cast(other)
    first, second = (row_digests(pa.table({"c": one}), len(array)).to_pylist() for one in (array, alike))
    assert first == second
    assert len(set(first)) == len(set(map(repr, array.to_pylist()))), "null is told from empty"


def test_of_texts() -> None:
    found = text_digests(pa.chunked_array([["a", None], ["", "量"]]))
    assert found.to_pylist() == [digest(b"a"), None, digest(b""), digest("量".encode())]


def test_of_no_columns() -> None:
    assert row_digests(pa.table({}), 2).to_pylist() == [digest(b"")] * 2
