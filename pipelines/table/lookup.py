"""Finds records by their vectors or by their words.

Exact unless the table has a vector index; the index is then searched as `vectormill optimize` measured that it must be.
Rows that an index does not hold yet are searched one by one.

Legend: D dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from lance.query import MatchQuery, MultiMatchQuery

from pipelines.errors import TableError
from pipelines.table.files import unreadable
from pipelines.table.index.records import COLUMN, rows_outside, tuning_of
from pipelines.table.table import LanceTable
from pipelines.values import python_rows

REFINE_FACTOR = 10  # with an index that nobody tuned: sort this many times `limit` candidates by the stored vectors
CARRIED = "_carried"
Record = dict[str, Any]


class Lookup:
    """In a table as it is now. Open it with Lance's own cache (`LanceTable.open`): that of a run would read an index
    anew for each query. columns: of the records that are found; `_rowid` and `_reason` are among them in any case, and
    under CARRIED each has itself as a table of one row, in which every value is exact."""

    def __init__(self, table: LanceTable, columns: Sequence[str]):
        self._table = table
        self._dataset = table.handle.dataset
        self._columns = [*columns, "_reason"]
        self._tuning = tuning_of(self._dataset)

    def nearest(self, vector: np.ndarray, limit: int, where: str | None, exact: bool) -> list[Record]:
        """The `limit` records whose vectors have the largest cosine to `vector`, float32 [D], each with it under
        `_similarity`; those without a vector are never found.

        Raises ConfigError for a filter that is none, TableError, StorageError."""
        nearest: dict[str, Any] = {
            "column": COLUMN,
            "q": vector,
            "k": limit,
            "metric": "cosine",
            "use_index": not exact,
            "refine_factor": REFINE_FACTOR,
        }
        if self._tuning is not None:
            nearest["refine_factor"] = self._tuning.refine_factor
            # A minimum: with `nprobes` Lance never looks further, and a filter that few rows of those partitions pass
            # gives too few hits, or none. Effort 0 begins at the minimum. Left out, it begins with more, which a filter
            # needs: the nearest that pass it lie further away than the nearest.
            nearest["minimum_nprobes"] = self._tuning.nprobes
            nearest["search_effort"] = None if where else 0.0
        records = self._scan("_distance", where, nearest=nearest)
        found = [{**r, "_similarity": 1.0 - r["_distance"]} for r in records if r["_distance"] is not None]
        return _best_first(found, "_similarity")

    def matching(self, text: str, limit: int, where: str | None) -> list[Record]:
        """Records that have words of the text, best first, each with its BM25 score under `_score`. Raises TableError
        for a table without a full-text index, ConfigError for a filter that is none, StorageError."""
        columns = [index.field_names[0] for index in self._indexes if index.index_type == "Inverted"]
        if not columns:
            raise TableError(
                f"{self._table.address.location} has no full-text index, which modes text and hybrid need: build one "
                "with `vectormill optimize TABLE --full-text auto`, or search with --mode vector"
            )
        query = MatchQuery(text, columns[0]) if len(columns) == 1 else MultiMatchQuery(text, columns)
        found = self._scan("_score", where, full_text_query=query, limit=limit)
        if any(record["_reason"] is not None for record in found):
            # An index on a carried column holds rows without a vector too. They must not take the places of others;
            # sparing those where there are none would cost each search a look at the whole column.
            good = f"_reason IS NULL AND (\n{where}\n)" if where else "_reason IS NULL"
            found = self._scan("_score", good, full_text_query=query, limit=limit)
        return _best_first(found, "_score")

    def unindexed(self) -> dict[str, int]:
        """Rows outside the `vector` and the `full-text` indexes: many of them make a search slow. Absent: an index
        that does not exist."""
        found: dict[str, int] = {}
        for index in self._indexes:
            kind = "full-text" if index.index_type == "Inverted" else "vector"
            if kind == "full-text" or list(index.field_names) == [COLUMN]:
                found[kind] = max(found.get(kind, 0), rows_outside(self._dataset, [index]))
        return found

    @cached_property
    def _indexes(self) -> list[Any]:
        return list(self._dataset.describe_indices())

    def _scan(self, score: str, where: str | None, **search: Any) -> list[Record]:
        try:
            scanner = self._dataset.scanner(
                columns=[*dict.fromkeys(self._columns), score],
                filter=where or None,
                prefilter=True,
                with_row_id=True,
                **search,
            )
            found = scanner.to_table()
            places = enumerate(python_rows(found))
            return [{**record, CARRIED: found.slice(place, 1)} for place, record in places]
        except (ValueError, RuntimeError, OSError, pa.ArrowException) as bad:
            if where:
                self._table.check_filter(where)
            raise unreadable(bad, self._table.address) from bad


def _best_first(records: Sequence[Record], score: str) -> list[Record]:
    """Equal ones in the order of the table: Lance gives them in any."""
    return sorted(records, key=lambda record: (-record[score], record["_rowid"]))
