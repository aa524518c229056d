"""How many bytes each row of a table takes, and its cutting into parts by bytes: what bounds of memory are counted in.

Counted as Arrow holds a value once it is decoded: of a dictionary, what its rows name. Nothing is copied for it, and
nothing is read but lengths and offsets, which of a damaged file may be anything: they give wrong sizes then, no crash.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

VARIABLE = (pt.is_string, pt.is_binary, pt.is_large_string, pt.is_large_binary)
VIEWS = (pt.is_string_view, pt.is_binary_view)


def slices(rows: pa.Table, most: int) -> Iterator[pa.Table]:
    """Consecutive parts of about `most` bytes at most, or of one row that has more; none of a table without rows."""
    if rows.num_rows and sum(map(_at_most, rows.columns)) <= most:  # a small file's: a fifth of what its rows cost
        yield rows
        return
    for start, stop in cuts(bytes_of_rows(rows), most):
        yield rows.slice(start, stop - start)


def cuts(bytes_N: np.ndarray, most: int) -> Iterator[tuple[int, int]]:
    """The row ranges of such parts, of rows of so many bytes each."""
    ends_N = np.cumsum(bytes_N)
    at = 0
    while at < len(ends_N):
        before = ends_N[at - 1] if at else 0
        stop = max(at + 1, int(np.searchsorted(ends_N, before + most, side="right")))
        yield at, stop
        at = stop


def bytes_of_rows(rows: pa.Table) -> np.ndarray:
    """int64 [rows]."""
    found_N = np.zeros(rows.num_rows, np.int64)
    for column in rows.columns:
        parts = [_sizes(chunk) for chunk in column.chunks]
        found_N += np.concatenate([np.zeros(0, np.int64), *parts])
    return found_N


def _at_most(column: pa.ChunkedArray) -> float:
    """Bytes that the rows of a column do not exceed, found without looking at each of them; infinite where only that
    would tell."""
    kind = column.type
    if pt.is_dictionary(kind):
        return sum(len(chunk) * _at_most(pa.chunked_array([chunk.dictionary])) for chunk in column.chunks)
    if pt.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return float("inf")
    return float(8 * column.nbytes + 8 * len(column))  # a bool is a byte, a string has four of its own


def _sizes(column: pa.Array) -> np.ndarray:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _sizes(column.storage)
    if any(is_it(kind) for is_it in VARIABLE):
        lengths_N = np.asarray(pc.fill_null(pc.binary_length(column), 0)).astype(np.int64)
        return np.maximum(lengths_N, 0) + 4
    if pt.is_dictionary(kind):
        return _named(column)
    if pt.is_struct(kind):
        return sum((_sizes(part) for part in column.flatten()), np.zeros(len(column), np.int64))
    if pt.is_fixed_size_list(kind):
        inner = _sizes(column.values)[column.offset * kind.list_size :][: len(column) * kind.list_size]
        return inner.reshape(len(column), kind.list_size).sum(axis=1)
    if pt.is_list(kind) or pt.is_large_list(kind) or pt.is_map(kind):
        inner = _sizes(column.values) if not pt.is_map(kind) else _sizes(column.keys) + _sizes(column.items)
        ends = np.concatenate([[0], np.cumsum(inner)])
        places_N = np.clip(np.asarray(column.offsets).astype(np.int64), 0, len(inner))
        return np.maximum(np.diff(ends[places_N]), 0) + 4
    return np.full(len(column), _width(column), np.int64)


def _named(column: pa.DictionaryArray) -> np.ndarray:
    """What the rows of a dictionary name."""
    values = _sizes(column.dictionary)
    if not len(values):
        return np.zeros(len(column), np.int64)
    places_N = np.asarray(pc.fill_null(column.indices, 0)).astype(np.int64)
    return values[np.clip(places_N, 0, len(values) - 1)]


def _width(column: pa.Array) -> int:
    """Of a value of fixed width, rounded up; of anything else the average."""
    if pt.is_null(column.type):
        return 0
    if any(is_it(column.type) for is_it in VIEWS) or not hasattr(column.type, "bit_width"):
        return -(-column.nbytes // max(1, len(column)))
    try:
        return -(-column.type.bit_width // 8)
    except ValueError:  # a type without one
        return -(-column.nbytes // max(1, len(column)))
