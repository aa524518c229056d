"""Values of Arrow as Python and as JSON have them, none of them changed.

| of Arrow | in JSON |
|---|---|
| null, bool, integers, finite floats, strings | as they are |
| NaN, infinities | "NaN", "Infinity", "-Infinity": JSON has no such numbers |
| decimals | a string of all digits |
| dates, times, timestamps | ISO 8601 with 0, 3, 6 or 9 digits of a second, as many as are needed; a timestamp of any zone as UTC, ending in Z; years of more than 4 digits or before 0 with their sign |
| durations | ISO 8601, in seconds: PT90S, -PT0.000000001S |
| bytes | base64 |
| lists; structs; maps | arrays; objects; arrays of [key, value] |
"""  # noqa: E501

from __future__ import annotations

import base64
import math
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
DAY = 86_400
Json = Any  # what `json.dumps(..., allow_nan=False)` takes


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """A dict a row, as `to_pylist`; a value that Python cannot hold, such as the year 10000 or a nanosecond of a time,
    in its JSON form."""
    columns = {name: _python(column) for name, column in zip(table.column_names, table.columns, strict=True)}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def json_row(row: pa.Table) -> dict[str, Json]:
    """The values of a table of one row."""
    return {name: json_form(column[0]) for name, column in zip(row.column_names, row.columns, strict=True)}


def _python(column: pa.ChunkedArray) -> list[Any]:
    if not _has_times(column.type):
        found: list[Any] = column.to_pylist()
        return found
    return [_exact(scalar) for scalar in column]


def _has_times(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_times(kind.storage_type)
    if pt.is_dictionary(kind):
        return _has_times(kind.value_type)
    if pt.is_nested(kind):
        return any(_has_times(kind.field(i).type) for i in range(kind.num_fields))
    return pt.is_temporal(kind)


def _exact(scalar: pa.Scalar) -> Any:
    try:
        value = scalar.as_py()
        same = pa.scalar(value, scalar.type).equals(scalar)
    except (ValueError, OverflowError, TypeError, KeyError, pa.ArrowException):  # KeyError: a zone nobody knows
        same = False
    return value if same else json_form(scalar)


def json_form(scalar: pa.Scalar) -> Json:
    """One value, as the table above says."""
    kind = scalar.type
    if not scalar.is_valid:
        return None
    if isinstance(kind, pa.BaseExtensionType) or pt.is_dictionary(kind):
        return json_form(scalar.value)
    if pt.is_nested(kind):
        return _nested(scalar, kind)
    if pt.is_temporal(kind):
        return _time(scalar.value, kind)
    if pt.is_floating(kind):
        return _number(float(scalar.as_py()))
    if pt.is_decimal(kind):
        return format(scalar.as_py(), "f")
    value = scalar.as_py()
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _nested(scalar: pa.Scalar, kind: pa.DataType) -> Json:
    if pt.is_struct(kind):
        return {kind.field(i).name: json_form(scalar[i]) for i in range(kind.num_fields)}
    if pt.is_map(kind):
        return [[json_form(entry[0]), json_form(entry[1])] for entry in scalar.values]
    return [json_form(one) for one in scalar.values]


def _number(value: float) -> Json:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _time(value: int, kind: pa.DataType) -> str:
    if pt.is_date32(kind):
        return _date(value)
    if pt.is_date64(kind):
        return _date(value // (DAY * 1000))
    seconds, part = divmod(abs(value) if pt.is_duration(kind) else value, PER_SECOND[kind.unit])
    rest = _fraction(part, kind.unit)
    if pt.is_duration(kind):
        return f"{'-' if value < 0 else ''}PT{seconds}{rest}S"
    if pt.is_time(kind):
        return _clock(seconds) + rest
    return f"{_date(seconds // DAY)}T{_clock(seconds % DAY)}{rest}{'Z' if kind.tz else ''}"


def _fraction(part: int, unit: str) -> str:
    nanoseconds = part * (PER_SECOND["ns"] // PER_SECOND[unit])
    for digits in (3, 6, 9):
        shown, more = divmod(nanoseconds, 10 ** (9 - digits))
        if not more:
            break
    return f".{shown:0{digits}}" if nanoseconds else ""


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _date(days: int) -> str:
    """Of days since 1970-01-01, in the Gregorian calendar carried on both ways: 400 years are 146,097 days. Counted
    from March on, so that a leap day is the last of its year."""
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1_460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    march = (5 * day + 2) // 153
    month = march + 3 if march < 10 else march - 9
    year += 400 * era + (month <= 2)
    shown = f"{year:04}" if 0 <= year <= 9999 else f"{year:+05}"
    return f"{shown}-{month:02}-{day - (153 * march + 2) // 5 + 1:02}"
