"""Arrow types: the plain form of each, which of them a Lance table can hold, and a column turned into another type.

The rule for a value that has another type than the table's column: it is taken if it can be had in that type without
loss (a float64 is rounded to a float32, a time without a zone is taken as UTC); otherwise its row is a bad one.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.types as pt

FIXED = (
    pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal128, pt.is_decimal256, pt.is_date, pt.is_time,
    pt.is_timestamp, pt.is_duration, pt.is_fixed_size_binary,
)  # fmt: skip
VARIABLE = (pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary, pt.is_null)


def plain(kind: pa.DataType) -> pa.DataType:
    """The type a column of `kind` has once decoded: views, large strings and dictionaries become their plain form;
    inside lists and structs only views do."""
    if pt.is_dictionary(kind):
        return plain(kind.value_type)
    return pa.string() if pt.is_large_string(kind) else _without_views(kind)


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pt.is_string_view(kind) or pt.is_binary_view(kind):
        return pa.string() if pt.is_string_view(kind) else pa.binary()
    if pt.is_list(kind) or pt.is_large_list(kind):
        make = pa.list_ if pt.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_without_views(kind.value_type)))
    if pt.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_without_views(kind.value_type)), kind.list_size)
    if pt.is_struct(kind):
        return pa.struct([field.with_type(_without_views(field.type)) for field in _fields(kind)])
    return kind


def can_be_stored(kind: pa.DataType) -> bool:
    """Whether a Lance table can hold it (pylance 14.0.2: what it refuses, panics over, or fails to write)."""
    if isinstance(kind, pa.BaseExtensionType):
        return can_be_stored(kind.storage_type)
    if pt.is_struct(kind):
        names = [field.name for field in _fields(kind)]
        return bool(names) and len(set(names)) == len(names) and all(can_be_stored(f.type) for f in _fields(kind))
    if pt.is_fixed_size_list(kind):
        return kind.list_size > 0 and _is_fixed(kind.value_type)
    if pt.is_map(kind):
        return can_be_stored(kind.key_type) and can_be_stored(kind.item_type)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_dictionary(kind):
        return can_be_stored(kind.value_type)
    return any(is_it(kind) for is_it in (*FIXED, *VARIABLE))


def _is_fixed(kind: pa.DataType) -> bool:
    if pt.is_fixed_size_list(kind):
        return kind.list_size > 0 and _is_fixed(kind.value_type)
    return any(is_it(kind) for is_it in FIXED)


def _fields(kind: pa.StructType) -> list[pa.Field]:
    return [kind.field(i) for i in range(kind.num_fields)]


def fit(column: pa.ChunkedArray, target: pa.DataType) -> tuple[pa.ChunkedArray, list[int]]:
    """The column as `target`, null where a value does not fit, and the positions of those."""
    if column.type == target:
        return column, []
    try:
        whole = _cast(column, target)
    except pa.ArrowException:
        whole = None
    if whole is not None:
        return whole, []
    if len(column) == 1:  # it is not null: a null can be cast to everything
        return pa.chunked_array([pa.nulls(1, target)]), [0]
    half = len(column) // 2
    (first, misfits), (second, more) = fit(column.slice(0, half), target), fit(column.slice(half), target)
    return pa.chunked_array([*first.chunks, *second.chunks], target), [*misfits, *(half + i for i in more)]


def _cast(column: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray | None:
    """None when a value would be changed without Arrow's saying so. Raises pa.ArrowException."""
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), target)])
    cast = column.cast(target)
    if pt.is_boolean(target) and not (pt.is_string(column.type) or cast.cast(column.type).equals(column)):
        return None  # 5 would be true
    return cast
