"""Digests of what a row says, whatever file it stands in: of its text, of each passage, of its carried columns.

BLAKE2b with 16 bytes: wide enough to find a vector again by its passage's alone among 10^9 (64 bits would give a wrong
one with a probability of 2.7 %). Taken over values as the table stores them, so that CSV, JSONL and Parquet of the same
rows agree; a dictionary, a large or view type counts as its plain one. Of a text: its UTF-8. Of several columns, in the
order of their names: first the heads of all, then the tails of all.

| a value that is | has the head | and the tail |
|---|---|---|
| null | as any other, of zeros | |
| a number, time, bool, of fixed width | 1, its bytes as stored, little-endian; -0.0 as 0.0, every NaN as one | |
| string, bytes | 1, its length in 8 bytes | its bytes |
| list, map | 1, how many there are in 8 bytes | the heads of its values (of a map: key and value), then their tails |
| struct | 1, the heads of its fields | the tails of its fields |
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pipelines.row_bytes import slices

SIZE = 16
BYTES_AT_ONCE = 16 << 20  # copied to be digested
DIGEST = pa.binary(SIZE)
Tail = tuple[memoryview, np.ndarray]  # bytes; offsets [rows + 1] into them
Encoded = tuple[np.ndarray, list[Tail]]  # heads, uint8 [rows, width]


def text_digests(texts: pa.Array | pa.ChunkedArray) -> pa.Array:
    """DIGEST of each string, null for null."""
    return pa.concat_arrays([pa.array([], DIGEST), *map(_of_texts, slices(pa.table([texts], ["text"]), BYTES_AT_ONCE))])


def _of_texts(part: pa.Table) -> pa.Array:
    values = part["text"].cast(pa.large_binary()).to_pylist()
    return pa.array((None if one is None else blake2b(one, digest_size=SIZE).digest() for one in values), DIGEST)


def row_digests(columns: pa.Table, rows: int) -> pa.Array:
    """DIGEST of each row's values in all of the columns; of `rows` rows, where there is no column."""
    if not columns.column_names:
        return pa.repeat(pa.scalar(blake2b(digest_size=SIZE).digest(), DIGEST), rows)
    batches = (batch for part in slices(columns, BYTES_AT_ONCE) for batch in part.to_batches())
    return pa.concat_arrays([pa.array([], DIGEST), *map(_of_batch, batches)])


def _of_batch(rows: pa.RecordBatch) -> pa.Array:
    heads, tails = _side_by_side([_encoded(rows[name]) for name in sorted(rows.schema.names)], rows.num_rows)
    head, width = memoryview(heads.reshape(-1).data), heads.shape[1]
    places = [(content, offsets.tolist()) for content, offsets in tails]
    found = []
    for row in range(rows.num_rows):
        digest = blake2b(head[row * width : (row + 1) * width], digest_size=SIZE)
        for content, at in places:
            digest.update(content[at[row] : at[row + 1]])
        found.append(digest.digest())
    return pa.array(found, DIGEST)


def _side_by_side(parts: Sequence[Encoded], rows: int) -> Encoded:
    heads = np.hstack([np.zeros((rows, 0), np.uint8), *(heads for heads, _ in parts)])
    return np.ascontiguousarray(heads), [tail for _, tails in parts for tail in tails]


def _encoded(column: pa.Array) -> Encoded:
    column = _plain(column)
    kind = column.type
    there = np.asarray(column.is_valid()).astype(np.uint8)[:, None]
    if pt.is_struct(kind):
        heads, tails = _side_by_side([_encoded(field) for field in column.flatten()], len(column))
        return np.hstack([there, heads]), tails
    if pt.is_large_binary(kind):
        return _with_lengths(there, *_content(column))
    if pt.is_large_list(kind):
        return _lists(there, column)
    return np.hstack([there, np.zeros((len(column), 0), np.uint8) if pt.is_null(kind) else _numbers(column)]), []


def _plain(column: pa.Array) -> pa.Array:
    """The column in one of the types that are told apart below."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(column.storage)
    if pt.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pt.is_map(kind):
        return column.cast(pa.large_list(pa.struct([kind.key_field, kind.item_field])))
    if pt.is_list(kind) or pt.is_fixed_size_list(kind) or pt.is_list_view(kind):
        return column.cast(pa.large_list(kind.value_type))
    long = (pt.is_string, pt.is_large_string, pt.is_string_view, pt.is_binary, pt.is_binary_view)
    return column.cast(pa.large_binary()) if any(is_it(kind) for is_it in long) else column


def _content(column: pa.Array) -> tuple[memoryview, np.ndarray]:
    """Bytes and offsets of a large_binary array; a null has none."""
    column = pc.fill_null(column, b"") if column.null_count else column
    _, places, content = column.buffers()
    offsets = np.frombuffer(places, np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(content if content is not None else b""), offsets


def _with_lengths(there: np.ndarray, content: memoryview, offsets: np.ndarray) -> Encoded:
    return np.hstack([there, _as_bytes(np.diff(offsets), "<i8")]), [(content, offsets)]


def _lists(there: np.ndarray, column: pa.Array) -> Encoded:
    sizes = np.asarray(pc.fill_null(pc.list_value_length(column), 0), np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    heads, tails = _encoded(column.flatten())  # without what a null list may hide
    inner = [(memoryview(np.ascontiguousarray(heads).reshape(-1).data), offsets * heads.shape[1])]
    inner += [(content, places[offsets]) for content, places in tails]
    return np.hstack([there, _as_bytes(sizes, "<i8")]), inner


def _numbers(column: pa.Array) -> np.ndarray:
    """uint8 [rows, width]; zeros for null."""
    kind = column.type
    if pt.is_boolean(kind):
        return np.asarray(pc.fill_null(column, False)).astype(np.uint8)[:, None]
    if pt.is_decimal(kind) or pt.is_fixed_size_binary(kind):
        width = kind.byte_width if pt.is_fixed_size_binary(kind) else kind.bit_width // 8
        content = np.frombuffer(column.buffers()[1], np.uint8).reshape(-1, width)
        content = content[column.offset : column.offset + len(column)]
        return content * np.asarray(column.is_valid()).astype(np.uint8)[:, None]
    if pt.is_temporal(kind):
        column = column.view(pa.int32() if kind.bit_width == 32 else pa.int64())
    numbers = np.asarray(pc.fill_null(column, 0))
    if pt.is_floating(kind):
        numbers = np.where(np.isnan(numbers), np.array(np.nan, numbers.dtype), numbers + np.array(0, numbers.dtype))
    return _as_bytes(numbers, numbers.dtype.newbyteorder("<"))


def _as_bytes(numbers: np.ndarray, kind: Any) -> np.ndarray:
    plain = np.ascontiguousarray(numbers, kind)
    return plain.view(np.uint8).reshape(len(plain), plain.itemsize)
