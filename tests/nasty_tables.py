"""Nasties of tables: types of every kind, columns that drift from shard to shard, damaged Parquet and Arrow."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from nasties import Nasty

ID = {"id": "id"}
N = {"columns": ("n",)}


def tables(*shards: dict[str, Any], **options: Any) -> Callable[[Path], None]:
    """One Parquet file a dictionary of columns: 0.parquet, 1.parquet, ..."""

    def make(folder: Path) -> None:
        for number, columns in enumerate(shards):
            pq.write_table(pa.table(columns), folder / f"{number}.parquet", **options)

    return make


def ipc(**columns: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        table = pa.table(columns)
        with pa.ipc.new_file(str(folder / "a.arrow"), table.schema) as writer:
            writer.write_table(table)

    return make


def ids(values: Any, kind: Any, outcome: str) -> Nasty:
    array = pa.array(values, kind)
    return Nasty(f"ids of {array.type}", ipc(id=array, text=["x"] * len(array)), outcome, ID)


def carried(values: Any, kind: Any, outcome: str = "2 embedded", parquet: bool = False) -> Nasty:
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    make = tables if parquet else lambda columns: ipc(**columns)
    return Nasty(f"carried {array.type}", make({"text": ["x"] * len(array), "n": array}), outcome, N)


def drift(name: str, first: Any, then: Any, outcome: str) -> Nasty:
    first, then = ({"text": ["x"] * len(one), "n": one} for one in (first, then))
    return Nasty(f"drift: {name}", tables(first, then), outcome, N)


DAY = datetime.date(2020, 2, 29)
NOON = datetime.datetime(2020, 2, 29, 12)
ONE = decimal.Decimal("1.50")
IDS = [
    *(ids([1, 2], kind, "2 embedded") for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")),
    ids([2**64 - 1, 0], "uint64", "2 embedded"),
    ids(["a", None], "string", "1 embedded, 1 no_id"),
    ids(["a", "a"], "large_string", "1 embedded, 1 duplicate_id"),
    ids(["a", ""], pa.string_view(), "2 embedded"),
    ids(["a", "a"], pa.dictionary("int8", "string"), "1 embedded, 1 duplicate_id"),
    ids([7, 8], pa.dictionary("int32", "int64"), "2 embedded"),
    ids([None, None], "null", "2 no_id"),
    ids([1, 2], pa.decimal128(38, 0), "2 embedded"),
    ids([10**70, 2], pa.decimal256(76, 0), "2 embedded"),
    *(ids(values, kind, "refused: ids must be strings or integers") for values, kind in [
        ([1.0, 2.0], "float64"), ([1.0, 2.0], "float32"), (np.array([1, 2], np.float16), "float16"), ([True, False], "bool"), ([b"a", b"b"], "binary"),
        ([b"a", b"b"], pa.binary(1)), ([NOON, None], pa.timestamp("us")), ([NOON, None], pa.timestamp("ns", "UTC")),
        ([DAY, None], "date32"), ([ONE, None], pa.decimal128(5, 2)), ([["a"], ["b"]], pa.list_(pa.string())),
        ([{"a": 1}, None], pa.struct([("a", pa.int8())])), ([b"a", b"b"], pa.binary_view()),
    ]),
]  # fmt: skip
REFUSED = "refused: a.arrow: the carried column .* which a Lance table cannot hold"
CARRIED = [
    carried([NOON, None], pa.timestamp("us")),
    *(carried([NOON, None], pa.timestamp(unit, zone)) for unit in ("s", "ms", "ns") for zone in (None, "UTC", "America/New_York")),
    carried([2**62, -(2**62)], pa.timestamp("ns")),
    carried([DAY, None], "date32"),
    carried([DAY, None], "date64"),
    carried([datetime.time(1), None], "time32[ms]"),
    carried([datetime.time(1), None], "time64[ns]"),
    carried([datetime.timedelta(1), None], pa.duration("s")),
    carried([(1, 2, 3), None], pa.month_day_nano_interval(), REFUSED),
    carried([ONE, None], pa.decimal32(5, 2), REFUSED),
    carried([ONE, None], pa.decimal64(5, 2), REFUSED),
    carried([ONE, None], pa.decimal128(38, 10)),
    carried([ONE, None], pa.decimal256(76, 10)),
    carried([1, 2], "uint64"),
    carried(np.array([1, 2], np.float16), "float16"),
    carried([True, None], "bool"),
    carried([None, None], "null"),
    carried([b"\xff\x00", None], "binary"),
    carried([b"a", None], "large_binary"),
    carried([b"a", None], pa.binary_view()),
    carried([b"ab", None], pa.binary(2)),
    carried(["a", None], pa.string_view()),
    carried(["a", None], "large_string"),
    carried(["a", None], pa.dictionary("int32", "string")),
    carried([[1], None], pa.list_(pa.int32())),
    carried([[1, None], []], pa.large_list(pa.int32())),
    carried([[1, 2], None], pa.list_(pa.int32(), 2)),
    carried([[1, 2], None], pa.list_view(pa.int32()), REFUSED),
    carried([[[["a"]]], None], pa.list_(pa.list_(pa.list_(pa.string())))),
    carried([{"a": 1, "b": {"c": None}}, None], pa.struct([("a", pa.int8()), ("b", pa.struct([("c", pa.string())]))])),
    carried([{}, None], pa.struct([]), REFUSED),
    carried([[("a", 1)], None], pa.map_(pa.string(), pa.int32())),
    carried([[{"a": "x"}], None], pa.list_(pa.struct([("a", pa.dictionary("int8", "string"))])), "2 embedded"),
    carried([["x"], None], pa.list_(pa.large_string()), "2 embedded"),
    carried([["x"], None], pa.list_(pa.string_view()), "2 embedded"),
    carried(pa.UnionArray.from_dense(pa.array([0, 1], "int8"), pa.array([0, 0], "int32"), [pa.array([1]), pa.array(["a"])]), None, REFUSED),
    carried(pa.RunEndEncodedArray.from_arrays([2], ["a"]), None, REFUSED),
    carried(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))), None, "2 embedded"),
    carried(pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])), None, "2 embedded"),
    carried(pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), None, "2 embedded"),
]  # fmt: skip


def _deep(depth: int) -> pa.Array:
    kind, value = pa.int8(), 1
    for _ in range(depth):
        kind, value = pa.struct([("a", kind)]), {"a": value}
    return pa.array([value, None], kind)


SHAPES = [
    carried([["a", "b"], None], pa.list_(pa.string(), 2), REFUSED),
    carried([[], None], pa.list_(pa.int8(), 0), REFUSED),
    carried([[1], None], pa.list_(pa.dictionary("int8", "int64"))),
    carried(pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), None, REFUSED),
    carried([{"a.b": 1, "": 2}, None], pa.struct([("a.b", pa.int8()), ("", pa.int8())])),
    Nasty(
        "a year beyond Python's in a template",
        ipc(t=pa.array([2**62, 2**40], pa.timestamp("s"))),
        "2 embedded",
        {"text": "{t}"},
    ),
    Nasty(
        "an unknown time zone in a template",
        ipc(t=pa.array([1, 2], pa.timestamp("s", "Mars/Base"))),
        "2 embedded",
        {"text": "{t}"},
    ),
    Nasty(
        "invalid UTF-8 in a dictionary",
        ipc(
            text=pa.DictionaryArray.from_arrays(
                pa.array([0, 1, 0]),
                pa.Array.from_buffers(
                    pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
                ),
            )
        ),
        "2 embedded, 1 undecodable",
    ),
    Nasty(
        "a dictionary index out of range",
        ipc(text=pa.DictionaryArray.from_arrays(pa.array([0, 9]), pa.array(["a"]), safe=False)),
        "failed: damaged",
    ),
    Nasty(
        "offsets out of order",
        ipc(
            text=pa.Array.from_buffers(
                pa.string(), 2, [None, pa.py_buffer(np.array([0, 200, 2], np.int32)), pa.py_buffer(b"ab")]
            )
        ),
        "failed: damaged",
    ),
    Nasty(
        "invalid UTF-8 in a list",
        ipc(
            text=["x"],
            n=pa.ListArray.from_arrays(
                [0, 1],
                pa.Array.from_buffers(
                    pa.string(), 1, [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
                ),
            ),
        ),
        "failed: damaged",
        N,
    ),
    Nasty("Parquet nested 50 deep", tables({"text": ["x", "y"], "n": _deep(50)}), "2 embedded", N),
    Nasty("Parquet nested 400 deep", tables({"text": ["x", "y"], "n": _deep(400)}), "refused: too deeply nested", N),
    Nasty("Parquet nested 50 deep, not taken", tables({"text": ["x", "y"], "n": _deep(50)}), "2 embedded"),
    Nasty("no rows in Parquet", tables({"text": pa.array([], pa.string())}), "refused: hold no rows"),
    Nasty("a Parquet file without rows and columns", tables({"text": ["x"]}, {}), "1 embedded"),
    Nasty(
        "a Parquet file without rows and of other types",
        tables({"text": ["x"], "n": [1]}, {"text": pa.array([], pa.int8())}),
        "1 embedded",
        N,
    ),
    Nasty(
        "the first Parquet file is empty",
        tables({"text": pa.array([], pa.int8())}, {"text": ["x"], "n": [1]}),
        "1 embedded",
        N,
    ),
    Nasty("5,000 columns", tables({"text": ["x"], **{f"c{i}": [i] for i in range(5000)}}), "1 embedded"),
    Nasty(
        "columns named alike",
        lambda folder: pq.write_table(
            pa.table([pa.array(["x"]), pa.array(["y"])], ["text", "text"]), folder / "a.parquet"
        ),
        "refused: 2 columns named 'text'",
    ),
    Nasty(
        "columns named alike but for case",
        tables({"text": ["x"], "Text": ["y"], "TEXT": ["z"]}),
        "1 embedded",
        {"columns": ("Text",)},
    ),
    Nasty(
        "awkward column names",
        tables({"text": ["x"], "a/b": [1], 'a"b': [3], "a b": [4], "'; DROP TABLE": [5], "ü\n": [6]}),
        "1 embedded",
        {"columns": ("a/b", 'a"b', "a b", "'; DROP TABLE", "ü\n")},
    ),
    Nasty(
        "a struct and a column named like its field",
        tables({"text": ["x"], "a": [{"b": 1}], "a.b": [2]}),
        "1 embedded",
        {"columns": ("a",)},
    ),
    Nasty("column names with dots", tables({"a.b": ["x"], "i.d": ["y"]}), "1 embedded", {"text": "a.b", "id": "i.d"}),
    Nasty(
        "duplicate ids across shards",
        tables({"id": ["a"], "text": ["x"]}, {"id": ["a"], "text": ["y"]}),
        "2 embedded",
        ID,
    ),
    Nasty("text is null in all rows", tables({"text": [None, None]}), "2 no_text"),
    Nasty("text is a dictionary", tables({"text": pa.array(["x", "y", "x"]).dictionary_encode()}), "3 embedded"),
    Nasty("text is binary", tables({"text": [b"x"]}), "refused: not a string"),
]
DRIFT = [
    Nasty(
        "drift: column missing, other order, one more",
        tables({"text": ["x"], "n": [1]}, {"text": ["y"]}, {"z": [0], "n": [2], "text": ["z"]}),
        "3 embedded",
        N,
    ),
    Nasty("drift: text missing", tables({"text": ["x"]}, {"txt": ["y"]}), "refused: 1.parquet has no column 'text'"),
    Nasty(
        "drift: id missing",
        tables({"id": ["x"], "text": ["x"]}, {"text": ["y"]}),
        "refused: 1.parquet has no column 'id'",
        ID,
    ),
    Nasty(
        "drift: text of another type",
        tables({"text": ["x"]}, {"text": [1]}),
        "refused: 1.parquet: the text column 'text' is int64",
    ),
    Nasty(
        "drift: id of another type", tables({"id": ["x"], "text": ["x"]}, {"id": [2], "text": ["y"]}), "2 embedded", ID
    ),
    Nasty(
        "drift: id of a type that cannot be one",
        tables({"id": ["x"], "text": ["x"]}, {"id": [2.5], "text": ["y"]}),
        "refused: 1.parquet: the id column",
        ID,
    ),
    drift("narrower", pa.array([1], "int64"), pa.array([2], "int8"), "2 embedded"),
    drift("wider, and fits", pa.array([1], "int8"), pa.array([2], "int64"), "2 embedded"),
    drift("wider, and does not fit", pa.array([1], "int8"), pa.array([2, 300], "int64"), "2 embedded, 1 bad_column"),
    drift("string to int", pa.array([1]), pa.array(["2", "two", None]), "3 embedded, 1 bad_column"),
    drift("int to string", pa.array(["one"]), pa.array([2]), "2 embedded"),
    drift("float to int", pa.array([1]), pa.array([2.0, 2.5, float("nan")]), "2 embedded, 2 bad_column"),
    drift("int to bool", pa.array([True]), pa.array([1, 5, 0, None]), "4 embedded, 1 bad_column"),
    drift("list to int", pa.array([1]), pa.array([[2], None]), "2 embedded, 1 bad_column"),
    drift("struct to string", pa.array(["x"]), pa.array([{"a": 1}, None]), "2 embedded, 1 bad_column"),
    drift("int to struct", pa.array([{"a": 1}]), pa.array([2, None]), "2 embedded, 1 bad_column"),
    drift("struct with other fields", pa.array([{"a": 1}]), pa.array([{"b": 1}, None]), "3 embedded"),
    drift(
        "string to timestamp", pa.array([NOON]), pa.array(["2020-01-01T00:00:00", "noon"]), "2 embedded, 1 bad_column"
    ),
    drift(
        "nanoseconds to microseconds",
        pa.array([NOON], pa.timestamp("us")),
        pa.array([1000, 1], pa.timestamp("ns")),
        "2 embedded, 1 bad_column",
    ),
    drift(
        "no zone to UTC",
        pa.array([NOON], pa.timestamp("us", "UTC")),
        pa.array([NOON], pa.timestamp("us")),
        "2 embedded",
    ),
    drift("nulls first", pa.nulls(1), pa.array([1]), "2 embedded"),
    drift("binary to string", pa.array(["x"]), pa.array([b"ok", b"\xff"]), "2 embedded, 1 bad_column"),
    drift(
        "decimals of another scale",
        pa.array([ONE]),
        pa.array([decimal.Decimal("2.5"), decimal.Decimal("2.555")]),
        "2 embedded, 1 bad_column",
    ),
]


def _big(folder: Path) -> bytes:
    rng = np.random.default_rng(7)
    words = ["".join(map(chr, rng.integers(97, 122, 40))) for _ in range(400)]
    table = pa.table({"id": [f"d{i}" for i in range(400)], "text": words})
    pq.write_table(table, folder / "a.parquet", row_group_size=100, data_page_size=1000, write_page_checksum=True)
    return (folder / "a.parquet").read_bytes()


def _flip(at: float) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        content = bytearray(_big(folder))
        content[int(at * len(content))] ^= 0xFF
        (folder / "a.parquet").write_bytes(content)

    return make


def _cut(at: float) -> Callable[[Path], None]:
    return lambda folder: (lambda c: (folder / "a.parquet").write_bytes(c[: int(at * len(c))]))(_big(folder)) and None


DAMAGE = [
    Nasty("Parquet cut short", _cut(0.5), "refused: a.parquet is damaged"),
    Nasty("Parquet cut in its footer", _cut(0.999), "refused: a.parquet is damaged"),
    Nasty("Parquet with a flipped byte in a page", _flip(0.3), "failed: a.parquet", {}, {"rows_per_unit": 100}),
    Nasty("Parquet with a flipped byte in its last byte", _flip(0.9999), "refused: a.parquet is damaged"),
    Nasty(
        "Parquet of one byte",
        lambda folder: (folder / "a.parquet").write_bytes(b"P") and None,
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "Parquet with a footer of 2 GB",
        lambda folder: (folder / "a.parquet").write_bytes(b"PAR1" + b"\xff\xff\xff\x7fPAR1") and None,
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "encrypted Parquet",
        lambda folder: (folder / "a.parquet").write_bytes(b"PARE" + b"\0" * 20 + b"\x08\0\0\0PARE") and None,
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "Arrow cut short",
        lambda folder: (
            (ipc(text=["x"] * 999)(folder), (folder / "a.arrow").write_bytes((folder / "a.arrow").read_bytes()[:-99]))
            and None
        ),
        "refused: a.arrow is damaged",
    ),
]
ALL = (*IDS, *CARRIED, *SHAPES, *DRIFT, *DAMAGE)
