"""Columns in the names of folders, as Hive and Spark write them: `year=2024/part-0.parquet`.

A carried column that a file has no value of takes the one in its path: one row's value depends on its own file alone.
`%20` and the like are read, `__HIVE_DEFAULT_PARTITION__` is null."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

NULL = "__HIVE_DEFAULT_PARTITION__"


def values_of(path: str) -> dict[str, str]:
    """By name, those of a file's folders that are not null."""
    if "=" not in path:
        return {}
    pairs = (folder.partition("=") for folder in path.split("/")[:-1])
    return {unquote(name): unquote(value) for name, equals, value in pairs if equals and name and value != NULL}


def types_of(paths: Iterable[str], names: Collection[str]) -> dict[str, pa.DataType]:
    """Of those of the names that some folder is called by: int64 if all its values are integers as they are written
    (01 is none), else string."""
    whole: dict[str, bool] = {}
    for path in paths:
        for name, value in values_of(path).items():
            if name in names:
                whole[name] = whole.get(name, True) and _is_whole(value)
    return {name: pa.int64() if integers else pa.string() for name, integers in whole.items()}


def _is_whole(value: str) -> bool:
    return value.removeprefix("-").isascii() and value.removeprefix("-").isdigit() and f"{int(value)}" == value


def filled(decoded: pa.Table, path: str, carried: pa.Schema) -> pa.Table:
    """A decoded table with the values of its file's folders; rows that one does not fit are bad ones."""
    for name, value in values_of(path).items():
        if name not in carried.names or not decoded[name].null_count:
            continue
        column, kind = decoded[name], carried.field(name).type
        try:
            there = pa.scalar(value).cast(kind)
        except (pa.ArrowException, ValueError):
            why = f"{value!r} in the folder's name does not fit the table's {kind} of {name!r}"
            for said, text in (("_reason", "bad_column"), ("_note", why)):
                told = pc.if_else(pc.is_null(column), text, pa.scalar(None, pa.string()))
                decoded = _put(decoded, said, pc.coalesce(decoded[said], told))
            continue
        decoded = _put(decoded, name, pc.if_else(pc.is_null(column), there, column))
    return decoded


def _put(table: pa.Table, name: str, column: pa.ChunkedArray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), column)
