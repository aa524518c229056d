"""Tokenised pairs as columns of a table, so that ids, not text, go to a replica. No torch.

| column | type | meaning |
|---|---|---|
| _tail | list<int32> | ids of the pair's own part: the document and what closes the prompt; null without a pair |
| _query_of | int32 | which head the pair reads, by order of first use; null without a pair |
| _head | list<int32> | ids of that head, in the first row that reads it, null elsewhere |

The head travels once for all pairs of a query, and is computed once for those of a micro-batch.

Legend: N rows, M rows with a pair, Q queries, T tokens in all.
"""

import numpy as np
import pyarrow as pa

from actors import packed
from actors.replica.columns import sequences
from actors.reranker.prompt import RerankEncoded

IDS = ("_tail", "_query_of", "_head")


def with_ids(table: pa.Table, encoded: RerankEncoded, has_pair_N: np.ndarray) -> pa.Table:
    """The table with IDS at its end; encoded: of the M rows that have a pair, its queries in order of first use."""
    rows_M = np.flatnonzero(has_pair_N)
    assert len(encoded.query_of) == len(rows_M), (len(encoded.query_of), len(rows_M))
    queries, first_Q = np.unique(encoded.query_of, return_index=True)
    assert (np.diff(first_Q) > 0).all(), "queries in order of first use"
    assert len(queries) == len(encoded.heads_offsets) - 1, "each query is used"
    query_of_N = np.zeros(len(table), dtype=np.int32)
    query_of_N[rows_M] = encoded.query_of
    has_head_N = np.zeros(len(table), dtype=np.bool_)
    has_head_N[rows_M[first_Q]] = True
    columns = (
        _lists(encoded.tails_ids, np.diff(encoded.tails_offsets), has_pair_N),
        pa.array(query_of_N, mask=~has_pair_N),
        _lists(encoded.heads_ids, np.diff(encoded.heads_offsets), has_head_N),
    )
    for name, column in zip(IDS, columns, strict=True):
        table = table.append_column(name, column)
    return table


def encoded_of(table: pa.Table, has_pair_N: np.ndarray) -> RerankEncoded:
    """The pairs of the M rows that have one, as they were given to `with_ids`. `truncated` is not among the columns:
    it is False for all."""
    tails_T, tails_offsets = sequences(table["_tail"], has_pair_N)
    heads = table["_head"].is_valid().to_numpy()
    heads_T, heads_offsets = sequences(table["_head"], heads)
    query_of_M = table["_query_of"].filter(pa.array(has_pair_N)).to_numpy().astype(np.int64)
    return RerankEncoded(
        heads_ids=heads_T,
        heads_offsets=heads_offsets,
        tails_ids=tails_T,
        tails_offsets=tails_offsets,
        query_of=query_of_M,
        truncated=np.zeros(len(query_of_M), dtype=np.bool_),
    )


def _lists(ids_T: np.ndarray, lengths_M: np.ndarray, has_N: np.ndarray) -> pa.ListArray:
    lengths_N = np.zeros(len(has_N), dtype=np.int64)
    lengths_N[has_N] = lengths_M
    offsets = packed.offsets_of(lengths_N).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids_T, pa.int32()), mask=pa.array(~has_N))
