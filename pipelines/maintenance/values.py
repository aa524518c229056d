"""Carried values as Python objects, also times that Python cannot hold: after the year 9999, or of an unknown zone."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def python_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """A dict a row. Dates, times and durations, also inside lists, maps and structs, as counts of their unit."""
    counted = pa.schema([field.with_type(_counted(field.type)) for field in rows.schema])
    taken: list[dict[str, Any]] = rows.cast(counted).to_pylist()
    return taken


def _counted(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if types.is_dictionary(kind):
        return _counted(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_counted(kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_counted(kind.value_type))
    return pa.list_(_counted(kind.value_type)) if types.is_list(kind) else kind
