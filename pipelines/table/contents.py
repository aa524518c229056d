"""What is in the table: which units, how many rows, tokens and reasons. Read with SQL, summed here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping
from typing import Any

from pipelines.storage.retry import with_backoff
from pipelines.table.checkpoint import Checkpoint, Totals, UnitInTable, read_checkpoint
from pipelines.table.table import LanceTable
from pipelines.units import Shard


def checkpoint(table: LanceTable, shards: Mapping[int, Shard]) -> Checkpoint:
    """What is done of these shards, by id; read again from its beginning while the store is unavailable."""

    def read() -> Checkpoint:
        return read_checkpoint(shards, units(table), table.metadata.rows_per_unit)

    return with_backoff("reading what is done", table.address.location, read)


def units(table: LanceTable) -> Iterator[UnitInTable]:
    """Which units are in the table, and the row range each covers, in the order of their rows
    within a shard. Streamed: 20 million units as a list of objects took 8 GB."""
    query = (
        "SELECT _unit, min(_shard) AS shard, min(_row) AS first, max(_row) AS last, "
        "sum(CASE WHEN _chunk = 0 THEN 1 ELSE 0 END) AS rows FROM dataset GROUP BY _unit ORDER BY shard, first"
    )
    for batch in table.sql_batches(query):
        columns = [batch[name].to_pylist() for name in ("_unit", "shard", "first", "last", "rows")]
        for unit, shard, first, last, rows in zip(*columns, strict=True):
            yield UnitInTable(unit, shard, (first, last + 1), rows)


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
