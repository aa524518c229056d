"""Nasties of types: ids and carried columns of every one."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.nasties.nasty import Nasty
from tests.support.nasties.tables import DAY, ID, NOON, ONE, N, ipc, tables


def ids(values: Any, kind: Any, outcome: str) -> Nasty:
    array = pa.array(values, kind)
    return Nasty(f"ids of {array.type}", ipc(id=array, text=["x"] * len(array)), outcome, ID)


def carried(values: Any, kind: Any, outcome: str = "2 embedded", parquet: bool = False) -> Nasty:
    array = values if isinstance(values, pa.Array) else pa.array(values, kind)
    make = tables if parquet else lambda columns: ipc(**columns)
    return Nasty(f"carried {array.type}", make({"text": ["x"] * len(array), "n": array}), outcome, N)


IDS = [
    *(ids([1, 2], kind, "2 embedded") for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64")),
    ids([2**64 - 1, 0], "uint64", "2 embedded"),
    ids(["a", None], "string", "1 embedded, 1 no_id"),
    ids(["a", "a"], "large_string", "2 embedded"),
    ids(["a", ""], pa.string_view(), "2 embedded"),
    ids(["a", "a"], pa.dictionary("int8", "string"), "2 embedded"),
    ids([7, 8], pa.dictionary("int32", "int64"), "2 embedded"),
    ids([None, None], "null", "2 no_id"),
    ids([1, 2], pa.decimal128(38, 0), "2 embedded"),
    ids([10**70, 2], pa.decimal256(76, 0), "2 embedded"),
    *(ids(values, kind, "2 embedded") for values, kind in [
        ([1.0, 2.0], "float64"), ([1.0, 2.0], "float32"), (np.array([1, 2], np.float16), "float16"),
    ]),
    *(ids(values, kind, "refused: ids must be strings or integers") for values, kind in [
        ([True, False], "bool"), ([b"a", b"b"], "binary"),
        ([b"a", b"b"], pa.binary(1)), ([NOON, None], pa.timestamp("us")), ([NOON, None], pa.timestamp("ns", "UTC")),
        ([DAY, None], "date32"), ([ONE, None], pa.decimal128(5, 2)), ([["a"], ["b"]], pa.list_(pa.string())),
        ([{"a": 1}, None], pa.struct([("a", pa.int8())])), ([b"a", b"b"], pa.binary_view()),
    ]),
]  # fmt: skip
REFUSED = "refused: a.arrow: the carried column .* which a Lance table cannot hold"
CARRIED = [
    carried([["a", "b"], None], pa.list_(pa.string(), 2), REFUSED),
    carried([[], None], pa.list_(pa.int8(), 0), REFUSED),
    carried([[1], None], pa.list_(pa.dictionary("int8", "int64"))),
    carried(pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), None, REFUSED),
    carried([{"a.b": 1, "": 2}, None], pa.struct([("a.b", pa.int8()), ("", pa.int8())])),
    carried([NOON, None], pa.timestamp("us")),
    *(carried([NOON, None], pa.timestamp(unit, zone))
      for unit in ("s", "ms", "ns") for zone in (None, "UTC", "America/New_York")),
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
    carried(pa.UnionArray.from_sparse(pa.array([0, 1], "int8"), [pa.array([1, 2]), pa.array([3.0, 4])]), None, REFUSED),
    carried(pa.RunEndEncodedArray.from_arrays([2], ["a"]), None, REFUSED),
    carried(pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0" * 16, None], pa.binary(16))), None, "2 embedded"),
    carried(pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])), None, "2 embedded"),
    carried(pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())), None, "2 embedded"),
]  # fmt: skip

ALL = (*IDS, *CARRIED)
