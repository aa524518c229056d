"""Values of Arrow in JSON: one form, nothing lost, whatever Python can hold."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.values import json_form, json_row, python_rows

SECOND = 10**9
NOON = 1_714_564_800  # 2024-05-01T12:00:00Z


def array(value, kind):
    """Also of what pyarrow itself would have to convert by Python."""
    return pa.array([value], pa.int64()).view(kind) if isinstance(value, int) and kind.bit_width == 64 else None


@pytest.mark.parametrize(
    ("scalar", "shown"),
    [
        (pa.scalar(None, pa.timestamp("ns")), None),
        (pa.scalar(2**63 - 1, pa.int64()), 2**63 - 1),
        (pa.scalar(2**64 - 1, pa.uint64()), 2**64 - 1),
        (pa.scalar(True), True),
        (pa.scalar(0.1), 0.1),
        (pa.scalar(float("nan")), "NaN"),
        (pa.scalar(float("inf"), pa.float32()), "Infinity"),
        (pa.scalar(np.float16("-inf"), pa.float16()), "-Infinity"),
        (pa.scalar(np.float16(1.5), pa.float16()), 1.5),
        (pa.scalar(Decimal("1.50")), "1.50"),
        (pa.scalar(Decimal("1E+3"), pa.decimal128(38, 0)), "1000"),
        (pa.scalar(Decimal("-0.000000000000000000001"), pa.decimal256(40, 21)), "-0.000000000000000000001"),
        (pa.scalar(b"\xff\x00"), "/wA="),
        (pa.scalar(b"abcd", pa.binary(4)), "YWJjZA=="),
        (array(NOON * 1, pa.timestamp("s"))[0], "2024-05-01T12:00:00"),
        (array(NOON * 1000 + 7, pa.timestamp("ms"))[0], "2024-05-01T12:00:00.007"),
        (array(NOON * SECOND + 1, pa.timestamp("ns"))[0], "2024-05-01T12:00:00.000000001"),
        (array(NOON * SECOND + 120_000_000, pa.timestamp("ns"))[0], "2024-05-01T12:00:00.120"),
        (array(NOON, pa.timestamp("s", "Europe/Berlin"))[0], "2024-05-01T12:00:00Z"),
        (array(NOON, pa.timestamp("s", "+05:30"))[0], "2024-05-01T12:00:00Z"),
        (array(NOON, pa.timestamp("s", "Mars/Olympus"))[0], "2024-05-01T12:00:00Z"),
        (array(253_402_300_800, pa.timestamp("s"))[0], "+10000-01-01T00:00:00"),
        (array(-62_167_219_201, pa.timestamp("s"))[0], "-0001-12-31T23:59:59"),
        (array(-1, pa.timestamp("ns"))[0], "1969-12-31T23:59:59.999999999"),
        (array(2**63 - 1, pa.timestamp("s"))[0], "+292277026596-12-04T15:30:07"),
        (pa.array([3_000_000], pa.int32()).view(pa.date32())[0], "+10183-09-21"),
        (array(NOON // 86_400 * 86_400_000, pa.date64())[0], "2024-05-01"),
        (array(34_200 * SECOND + 1, pa.time64("ns"))[0], "09:30:00.000000001"),
        (pa.scalar(datetime.time(9, 30), pa.time32("s")), "09:30:00"),
        (array(90 * SECOND, pa.duration("ns"))[0], "PT90S"),
        (array(-1, pa.duration("ns"))[0], "-PT0.000000001S"),
        (pa.array(["x"]).dictionary_encode()[0], "x"),
        (pa.array([[array(1, pa.time64("ns"))[0].as_py(), None]], pa.list_(pa.time64("ns")))[0], ["00:00:00", None]),
        (pa.scalar({"b": b"x", "f": float("nan")}, pa.struct([("b", pa.binary()), ("f", pa.float64())])),
         {"b": "eA==", "f": "NaN"}),
        (pa.scalar([(b"k", 1)], pa.map_(pa.binary(), pa.int64())), [["aw==", 1]]),
        (pa.scalar([1.0, float("inf")], pa.list_(pa.float32(), 2)), [1.0, "Infinity"]),
    ],
)  # fmt: skip
def test_each_type(scalar, shown):
    assert json_form(scalar) == shown
    assert json.loads(json.dumps(json_form(scalar), allow_nan=False)) == shown


@given(st.datetimes())
def test_times_are_as_python_writes_them(moment):
    shown = json_form(pa.scalar(moment, pa.timestamp("us")))
    assert datetime.datetime.fromisoformat(shown) == moment
    assert shown[:19] == f"{moment:%H:%M:%S}".join([moment.date().isoformat() + "T", ""])


@given(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Odd/Zone"]),
)
def test_any_time_can_be_shown(value, unit, zone):
    table = pa.table(
        {"t": array(value, pa.timestamp(unit, zone)), "l": pa.array([[value]]).view(pa.list_(pa.duration(unit)))}
    )
    json.dumps(json_row(table), allow_nan=False)
    (row,) = python_rows(table)
    assert set(row) == {"t", "l"}


def test_python_has_its_own_values_where_they_are_exact():
    table = pa.table(
        {
            "day": [datetime.date(2024, 5, 1)],
            "time": array(1_000, pa.time64("ns")),
            "odd": array(1_001, pa.time64("ns")),
            "late": array(253_402_300_800, pa.timestamp("s")),
            "bytes": [b"x"],
            "nan": [float("nan")],
        }
    )
    (row,) = python_rows(table)
    assert row.pop("nan") != row
    assert row == {
        "day": datetime.date(2024, 5, 1),
        "time": datetime.time(0, 0, 0, 1),
        "odd": "00:00:00.000001001",
        "late": "+10000-01-01T00:00:00",
        "bytes": b"x",
    }
