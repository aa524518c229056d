"""What is in the table: which units, how many rows, tokens and reasons. Read with SQL, summed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.retry import with_backoff
from pipelines.table.checkpoint import Checkpoint, Totals, UnitInTable, read_checkpoint
from pipelines.table.format2 import units_of_format_2
from pipelines.table.table import LanceTable
from pipelines.units import Shard

IDS_HELD = 1 << 27  # 1 GiB


def checkpoint(table: LanceTable, shards: Mapping[int, Shard]) -> Checkpoint:
    """What is done of these shards, by id; read again from its beginning while the store is unavailable."""

    def read() -> Checkpoint:
        return read_checkpoint(shards, units(table, shards))

    return with_backoff("reading what is done", table.address.location, read)


# A row is whole when it has as many records as passages. Summed over a unit, with each row weighed by its place, so
# that what one row lacks is not what another has too many; looking at each row would be a group for each of 10^9.
WHOLE = (
    "count(*) = sum(CASE WHEN _chunk = 0 THEN _passages ELSE 0 END) AND "
    "sum(_row - _first + 1) = sum(CASE WHEN _chunk = 0 THEN (_row - _first + 1) * _passages ELSE 0 END)"
)


def units(table: LanceTable, shards: Mapping[int, Shard]) -> Iterator[UnitInTable]:
    """Which units are in the table, and the row range each covers, in the order of their rows within a shard. Streamed:
    20 million units as a list of objects took 8 GB. shards: of the corpus, by id; a table of format 2 says the ranges
    of units only with their help. Where somebody else wrote records without a range, their rows are it."""
    if table.metadata.format == 2:
        yield from units_of_format_2(table.sql_batches, shards, table.metadata.rows_per_unit)
        return
    query = (
        "SELECT _unit, min(_shard) AS shard, coalesce(min(_first), min(_row)) AS first, "
        "coalesce(min(_rows), max(_row) - min(_row) + 1) AS in_unit, min(_file) AS file, "
        f"sum(CASE WHEN _chunk = 0 THEN 1 ELSE 0 END) AS rows, coalesce({WHOLE}, true) AS is_whole "
        "FROM dataset WHERE _unit IS NOT NULL GROUP BY _unit ORDER BY shard, first"
    )
    for batch in table.sql_batches(query):
        names = ("_unit", "shard", "first", "in_unit", "rows", "is_whole", "file")
        for unit, shard, first, in_unit, *rest in zip(*(batch[name].to_pylist() for name in names), strict=True):
            yield UnitInTable(unit, shard, (first, first + in_unit), *rest)


def count_torn(table: LanceTable, units: Sequence[int]) -> int:
    """Rows of these units that lack a passage or have one too many."""
    if not units:
        return 0
    which = f"_unit IN ({', '.join(map(str, units))})"
    return count(
        table,
        f"SELECT _shard, _row FROM dataset WHERE {which} AND _passages IS NOT NULL GROUP BY _shard, _row "
        "HAVING count(*) <> min(_passages)",
    )


def count_duplicate_ids(table: LanceTable, shards: Iterable[int]) -> int:
    """Ids that name more than one row of these shards. Told by 64 bits of each id, in as many passes over that column
    as bound what is held to IDS_HELD of them: 0.3 s of CPU for 10 million."""
    passes = table.count_rows() // IDS_HELD + 1
    wanted = pa.array(list(shards), pa.int64())
    return sum(_duplicates(table, wanted, number, passes) for number in range(passes))


def _duplicates(table: LanceTable, shards: pa.Array, number: int, passes: int) -> int:
    parts = [np.zeros(0, np.int64)]
    for batch in table.records(["_id_digest", "_shard"], "_chunk = 0", batch_rows=1 << 20):
        ours = batch["_id_digest"].filter(pc.is_in(batch["_shard"], value_set=shards)).to_numpy(zero_copy_only=False)
        parts.append(ours[ours % passes == number] if passes > 1 else ours)
    ids = np.concatenate(parts)
    ids.sort()
    same = ids[1:] == ids[:-1]
    return int(np.count_nonzero(same & ~np.concatenate([[False], same[:-1]]))) if len(same) else 0


def totals(table: LanceTable, shards: Container[int] | None = None) -> Totals:
    """Sums over the rows of these shards, or over the whole table."""

    main = sums(
        table,
        "SELECT _shard, count(*) AS records, sum(CASE WHEN _chunk = 0 THEN 1 ELSE 0 END) AS rows, sum(_tokens) AS "
        "tokens, sum(CASE WHEN _truncated THEN 1 ELSE 0 END) AS truncated FROM dataset GROUP BY _shard",
        shards,
        *("records", "rows", "tokens", "truncated"),
    )
    reasons = sums(
        table,
        "SELECT _shard, _reason, count(*) AS n FROM dataset WHERE _reason IS NOT NULL GROUP BY _shard, _reason",
        shards,
        "n",
    )
    counts = main["rows"], count_bad(table, shards), main["records"], main["tokens"], main["truncated"]
    return Totals(*counts, dict(sorted(reasons.items())))


def tokens_per_row(table: LanceTable) -> float | None:
    """Of the rows in the table; None while it has none."""
    query = "SELECT sum(CASE WHEN _chunk = 0 THEN 1 ELSE 0 END) AS rows, sum(_tokens) AS tokens FROM dataset"
    (found,) = table.sql(query).to_pylist()
    return int(found["tokens"] or 0) / int(found["rows"]) if found["rows"] else None


def count_bad(table: LanceTable, shards: Container[int] | None = None) -> int:
    """Rows of these shards without a vector; a row of several chunks counts once."""
    return sums(
        table,
        "SELECT _shard, count(*) AS bad FROM (SELECT DISTINCT _shard, _row FROM dataset WHERE _reason IS NOT NULL) "
        "GROUP BY _shard",
        shards,
        "bad",
    )["bad"]


def sums(table: LanceTable, query: str, shards: Container[int] | None, *names: str) -> Counter[str]:
    """Columns of a query that groups by shard, summed over these shards; a `_reason` names its group's sum."""
    total: Counter[str] = Counter()
    for batch in table.sql(query).to_batches():
        for group in batch.to_pylist():
            if shards is None or group["_shard"] in shards:
                total.update({group.get("_reason") or name: int(group[name] or 0) for name in names})
    return total


def count(table: LanceTable, query: str) -> int:
    """Number of rows a SQL query over `dataset` gives."""
    return int(table.sql(f"SELECT count(*) AS n FROM ({query})")["n"][0].as_py())


def bad_rows(table: LanceTable, limit: int) -> list[dict[str, Any]]:
    """The first rows without a vector: id, reason, detail (which file and row)."""
    columns = ["id", "_reason", "_detail"]
    return table.read(columns, "_reason IS NOT NULL", limit).to_pylist()
