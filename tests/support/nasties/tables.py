"""Nasties of tables: types of every kind, columns that drift from shard to shard, damaged Parquet and Arrow."""

from __future__ import annotations

import datetime
import decimal
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.nasties.nasty import Nasty

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


def drift(name: str, first: Any, then: Any, outcome: str) -> Nasty:
    first, then = ({"text": ["x"] * len(one), "n": one} for one in (first, then))
    return Nasty(f"drift: {name}", tables(first, then), outcome, N)


DAY = datetime.date(2020, 2, 29)
NOON = datetime.datetime(2020, 2, 29, 12)
ONE = decimal.Decimal("1.50")


def _deep(depth: int) -> pa.Array:
    kind, value = pa.int8(), 1
    for _ in range(depth):
        kind, value = pa.struct([("a", kind)]), {"a": value}
    return pa.array([value, None], kind)


SHAPES = [
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
    Nasty("drift: text missing", tables({"text": ["x"]}, {"txt": ["y"]}), "failed: .*1.parquet has no column 'text'"),
    Nasty(
        "drift: id missing",
        tables({"id": ["x"], "text": ["x"]}, {"text": ["y"]}),
        "failed: .*1.parquet has no column 'id'",
        ID,
    ),
    Nasty(
        "drift: text of another type",
        tables({"text": ["x"]}, {"text": [1]}),
        "failed: .*1.parquet: the text column 'text' is int64",
    ),
    Nasty(
        "drift: id of another type", tables({"id": ["x"], "text": ["x"]}, {"id": [2], "text": ["y"]}), "2 embedded", ID
    ),
    Nasty(
        "drift: id of a type that cannot be one",
        tables({"id": ["x"], "text": ["x"]}, {"id": [b"x"], "text": ["y"]}),
        "failed: .*1.parquet: the id column",
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


def _list_beyond_its_buffers(folder: Path) -> None:
    """Arrow's full validation of such a column reads beyond its buffers: a crash."""
    values = pa.array([1, None] * 611)
    ipc(text=["x"], n=pa.ListArray.from_arrays([0, len(values)], values))(folder)
    node, damaged = (struct.pack("<qq", length, 611) for length in (1222, 2**40))
    content = (folder / "a.arrow").read_bytes()
    assert content.count(node) == 1
    (folder / "a.arrow").write_bytes(content.replace(node, damaged))


DAMAGE = [
    Nasty("a list beyond its buffers", _list_beyond_its_buffers, "failed: a.arrow is damaged", N),
    Nasty("Parquet cut short", _cut(0.5), "refused: a.parquet is damaged"),
    Nasty("Parquet cut in its footer", _cut(0.999), "refused: a.parquet is damaged"),
    Nasty("Parquet with a flipped byte in a page", _flip(0.3), "failed: a.parquet", {}, {"rows_per_unit": 100}),
    Nasty("Parquet with a flipped byte in its last byte", _flip(0.9999), "refused: a.parquet is damaged"),
    Nasty(
        "Parquet of one byte",
        lambda folder: (folder / "a.parquet").write_bytes(b"P"),
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "Parquet with a footer of 2 GB",
        lambda folder: (folder / "a.parquet").write_bytes(b"PAR1" + b"\xff\xff\xff\x7fPAR1"),
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "encrypted Parquet",
        lambda folder: (folder / "a.parquet").write_bytes(b"PARE" + b"\0" * 20 + b"\x08\0\0\0PARE"),
        "refused: a.parquet is damaged",
    ),
    Nasty(
        "Arrow cut short",
        lambda folder: (
            ipc(text=["x"] * 999)(folder),
            (folder / "a.arrow").write_bytes((folder / "a.arrow").read_bytes()[:-99]),
        ),
        "refused: a.arrow is damaged",
    ),
]
ALL = (*SHAPES, *DRIFT, *DAMAGE)
