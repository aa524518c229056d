"""What tables of format 2 say less directly: which rows a unit has.

Their records hold the unit's id, a hash of its range, but not the range. Where the unit's first and last row are there,
these are it. Where its owner deleted one of them, the range is found by its hash among those that the unit may have
had, if its shard is still in the corpus. Read for `status`, `plan` and `verify`, and for the run that brings the table
over (`pipelines.table.upgrade`); then it is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from pipelines.table.checkpoint import UnitInTable
from pipelines.units import Range, Shard, content_id, cut

QUERY = (
    "SELECT _unit, min(_shard) AS shard, min(_row) AS first, max(_row) AS last, "
    "sum(CASE WHEN _chunk = 0 THEN 1 ELSE 0 END) AS rows FROM dataset GROUP BY _unit ORDER BY shard, first"
)


def units_of_format_2(
    ask: Callable[[str], Iterator[pa.RecordBatch]], shards: Mapping[int, Shard], rows_per_unit: int
) -> Iterator[UnitInTable]:
    """As `contents.units`. ask: gives the answer to a SQL query."""
    cuts: dict[int, dict[int, Range]] = {}  # of the shard at hand: the ranges that the table's unit size gives
    for batch in ask(QUERY):
        columns = [batch[name].to_pylist() for name in ("_unit", "shard", "first", "last", "rows")]
        for unit, shard, first, last, rows in zip(*columns, strict=True):
            found = (first, last + 1)
            if content_id("unit", shard, *found) != unit and shard in shards:
                if shard not in cuts:
                    cuts = {shard: {one.id: (one.start, one.stop) for one in cut(shards[shard], rows_per_unit)}}
                found = cuts[shard].get(unit) or _nearby(unit, shards[shard], found)
            yield UnitInTable(unit, shard, found, rows)


def _nearby(unit: int, shard: Shard, seen: Range) -> Range:
    """The range with this id that holds `seen`, among those that end at most MOST_DELETED rows away from it."""
    first, stop = seen
    for before in range(min(first, MOST_DELETED) + 1):
        for after in range(min(shard.rows - stop, MOST_DELETED) + 1):
            if content_id("unit", shard.id, first - before, stop + after) == unit:
                return first - before, stop + after
    return seen


MOST_DELETED = 64  # at each end of a unit that was cut by another size than the table's: 4,096 hashes
