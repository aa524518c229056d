"""Columns of token ids and of reasons in the tables that replicas work on.

Legend: N rows, M wanted rows, T tokens in all.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

NON_FINITE = "non_finite"  # the reason of a row for which the model gave no number


def sequences(column: pa.ChunkedArray, wanted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the wanted rows, int32 [T], and where each begins, int64 [M+1]."""
    rows = column.filter(pa.array(wanted_N)).combine_chunks()
    assert rows.null_count == 0, f"{rows.null_count} rows have neither ids nor a reason"
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(pc.list_value_length(rows).to_numpy(zero_copy_only=False), out=offsets[1:])
    return rows.flatten().to_numpy(zero_copy_only=False), offsets


def set_where(table: pa.Table, name: str, mask_N: np.ndarray, text: str) -> pa.Table:
    """The table with `text` in the named column of the rows that mask_N says, bool [N]."""
    at = table.schema.get_field_index(name)
    field = table.schema.field(at)
    return table.set_column(at, field, pc.if_else(pa.array(mask_N), pa.scalar(text, field.type), table[name]))
