"""The account of a table: the certificate, read from the table, not from what a run believes."""

from __future__ import annotations

from collections.abc import Container

from pipelines.run.certificate import Certificate, corpus_digest
from pipelines.run.prepare import Prepared
from pipelines.table import contents
from pipelines.table.digests import as_text
from pipelines.table.table import LanceTable


def account(prepared: Prepared, table: LanceTable, failures: tuple[str, ...] = ()) -> Certificate:
    """Sums by a scan of the provenance columns. Takes the digests from their columns, as they were when the records
    were written; `verify` makes them again."""
    shards = prepared.by_id()
    state = contents.checkpoint(table, shards)
    totals = contents.totals(table, shards)
    ids, pairs = stored_digests(table, shards)
    return Certificate(
        table=prepared.address.location,
        table_version=table.version,
        fingerprint=table.metadata.fingerprint,
        corpus_digest=corpus_digest(prepared.shards),
        id_digest=as_text(ids),
        pair_digest=as_text(pairs),
        shards=len(shards),
        units=state.units,
        rows=prepared.rows,
        embedded_rows=totals.rows - totals.bad_rows,
        bad_rows=totals.bad_rows,
        deleted_rows=state.deleted_rows,
        records=totals.records,
        tokens=totals.tokens,
        truncated=totals.truncated,
        reasons=totals.reasons,
        stale_rows=sum(state.stale.values()),
        overlapping_rows=state.overlaps,
        failures=failures,
    )


def stored_digests(table: LanceTable, shards: Container[int]) -> tuple[int, int]:
    """Sums over these shards of `_id_digest`, once a row, and of `_digest`, once a record. 0.6 s of CPU at 10 million
    records. Summed in halves of 32 bits: what a sum of int64 does when it overflows is the query engine's affair."""
    halves = ", ".join(
        f"sum(CASE WHEN {which} THEN {column} & 4294967295 ELSE 0 END) AS {name}_low, "
        f"sum(CASE WHEN {which} THEN {column} >> 32 ELSE 0 END) AS {name}_high"
        for name, column, which in (("ids", "_id_digest", "_chunk = 0"), ("pairs", "_digest", "true"))
    )
    query = f"SELECT _shard, {halves} FROM dataset GROUP BY _shard"
    sums = contents.sums(table, query, shards, "ids_low", "ids_high", "pairs_low", "pairs_high")
    return sums["ids_low"] + (sums["ids_high"] << 32), sums["pairs_low"] + (sums["pairs_high"] << 32)
