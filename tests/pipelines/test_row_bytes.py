"""Bytes of rows, and parts of a table by bytes."""

import pyarrow as pa
import pytest

from pipelines.row_bytes import bytes_of_rows, slices

COLUMNS = {
    "strings": ["a" * 50, None, "", "b" * 7] * 25,
    "dictionary": pa.array(["c" * 900, "d"] * 50).dictionary_encode(),
    "bools": [True, None] * 50,
    "numbers": pa.array(range(100), pa.int64()),
    "lists": [["e" * 30] * n for n in range(100)],
    "nulls": pa.nulls(100),
    "bytes": pa.array([b"f" * 9] * 100, pa.large_binary()),
}


@pytest.mark.parametrize("names", [[name] for name in COLUMNS] + [list(COLUMNS)])
def test_parts_hold_no_more_than_is_asked(names):
    """Also where a table is small enough to be given whole without a look at its rows."""
    table = pa.table({name: COLUMNS[name] for name in names})
    for rows in (table, table.slice(31, 40), pa.concat_tables([table, table.slice(3, 9)])):
        size = int(bytes_of_rows(rows).sum())
        for most in (100, 1_000, size, size + 1, 1 << 16, 1 << 20, 1 << 24):
            parts = list(slices(rows, most))
            assert pa.concat_tables(parts).equals(rows)
            assert all(part.num_rows == 1 or bytes_of_rows(part).sum() <= most for part in parts)
            assert len(parts) == 1 or size > most


def test_a_table_without_rows_has_no_parts():
    assert list(slices(pa.table({"a": pa.array([], pa.string())}), 100)) == []
