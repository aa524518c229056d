"""`vectormill bulk-search TABLE QUERIES --out RESULTS.parquet`: as many queries as you like, each searched once.

The hits go into a table beside the results, RESULTS.lance, by the same run that embeds a corpus: it may be killed at
any time, and the same command goes on. When every query is accounted for, the table is written out as one Parquet file,
in the order of the queries, which appears whole or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config import JobConfig, RunConfig
from pipelines.errors import ConfigError, TableError
from pipelines.job_file import parse_job
from pipelines.progress import Progress
from pipelines.run.certificate import Certificate
from pipelines.run.job import prepared_job, run_prepared
from pipelines.run.prepare import Prepared
from pipelines.search.query import Query
from pipelines.search.task import Searched, SearchTask
from pipelines.storage.faults import translate
from pipelines.storage.files import head, writing
from pipelines.table.contents import checkpoint
from pipelines.table.digests import id_digests, record_digests
from pipelines.table.files import TableAddress, reading
from pipelines.table.table import LanceTable, open_table

ENDING = ".parquet"
NO_LIMIT = 1e15  # a query that finds nothing is an answer, not a fault


@dataclass(frozen=True)
class BulkSearch:
    """queries: a file of queries with `id` and `text`. out: the Parquet file to write. query: how each is searched.
    reranker: weights, or None for one stage."""

    table: TableAddress
    queries: str
    out: str
    query: Query
    reranker: str | None = None


@dataclass(frozen=True)
class BulkSearched:
    """The account of the queries, and where the hits are: in `table` and, once every query is accounted for, in `out`.
    searched, searched_version: what was searched. hits: in `out`."""

    certificate: Certificate
    out: str
    table: str
    searched: str
    searched_version: int | None
    hits: int | None = None

    def to_dict(self) -> dict[str, Any]:
        found = {**vars(self), "certificate": self.certificate.to_dict()}
        return {name: value for name, value in found.items() if name != "hits" or value is not None}


def bulk_search(request: BulkSearch, run: RunConfig, progress: Progress) -> BulkSearched:
    """Search, or go on with it.

    Raises ConfigError, TableError (the pinned version is gone, the table at RESULTS.lance is of another search),
    and what a run raises."""
    work, place = _place(request)
    known = LanceTable.open(work)
    if known is None and head(request.out, work.storage) is not None:
        raise ConfigError(
            f"--out {request.out} exists, and the table of its search, {work.location}, does not: it would be "
            "overwritten. Remove it, or give another --out"
        )
    request.query.depth(request.reranker is not None)  # before anything is loaded
    searched = _pinned(request, known)
    task = SearchTask(searched, request.query, request.reranker)
    weights = request.reranker if request.reranker is not None else searched.metadata.model["weights"]
    job = parse_job(
        {
            "corpus": {"uri": request.queries, "id": "id"},
            "model": {"weights": weights, **({} if request.reranker else _dtype(searched))},
            "table": place,
            "storage": work.storage.model_dump(),
            "run": {**run.model_dump(), "max_bad_rows": NO_LIMIT},
        },
        "bulk-search",
    )
    with prepared_job(job, progress, task) as (prepared, executor):
        _same_queries(prepared, request)
        certificate = run_prepared(prepared, executor, progress)
    hits = None
    if certificate.adds_up:
        progress.say(f"writing {request.out}")
        hits = _write_out(work, job, request.out)
    return BulkSearched(certificate, request.out, work.location, request.table.location, searched.address.version, hits)


def _dtype(searched: Searched) -> dict[str, Any]:
    """The embedder is not run by this job's settings; what it costs depends on its size alone."""
    return {"dtype": searched.metadata.identity["dtype"], "force_float16": True}


def _place(request: BulkSearch) -> tuple[TableAddress, dict[str, str]]:
    """Where the table of the results is, for Lance and for a job."""
    folder, _, file = request.out.rpartition("/")
    name = file.removesuffix(ENDING)
    if name == file or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*", name):
        raise ConfigError(
            f"--out {request.out}: results are written as Parquet; give a file that ends in {ENDING}, with letters, "
            "digits, '_', '-' and '.' in its name"
        )
    place = {"uri": folder or ".", "name": name}
    return TableAddress(f"{place['uri']}/{name}.lance", request.table.storage), place


def _pinned(request: BulkSearch, known: LanceTable | None) -> Searched:
    """The table to search, at the version at which its search began, or the newest."""
    address = request.table
    if known is not None and known.metadata.task == "search":
        version = known.metadata.identity["table_version"]
        if known.metadata.identity["table"] == address.uri:
            address = replace(address, version=version)
    try:
        table = LanceTable.open(address)
    except (ValueError, OSError) as bad:
        raise translate(bad, address.location) from bad
    if table is None and address.version is not None and LanceTable.open(request.table) is not None:
        raise TableError(
            f"the search that wrote {known.address.location if known else request.out} began with version "
            f"{address.version} of {address.location}, which is gone: `vectormill optimize` removes versions older "
            "than an hour. Finish a search before, or give another --out to search the table as it is now"
        )
    table = open_table(address, "embed")
    if table.count_rows() == 0:
        raise TableError(f"{address.location} is empty; run `vectormill embed` first")
    if request.query.where:  # before a replica is paid for
        table.check_filter(request.query.where)
    # Without a transaction, which may be cleaned up, version and fingerprint must do.
    return Searched(replace(address, version=table.version), table.metadata, table.schema, table.transaction())


def _same_queries(prepared: Prepared, request: BulkSearch) -> None:
    """Raises ConfigError if the results are of other queries too: then the file would hold both."""
    table = LanceTable.open(prepared.address)
    if table is None:
        return
    state = checkpoint(table, prepared.by_id)
    if state.stale and not prepared.broken:  # it may be the file that cannot be read now; it keeps `out` from being
        raise ConfigError(
            f"{prepared.address.location} holds the results of other queries: it differs in QUERIES "
            f"({sum(state.stale.values()):,} of them are not in {request.queries}, which changed or is another file). "
            "Give another --out, or the same queries"
        )


# ---------------------------------------------------------------------- the results as a file


def _write_out(work: TableAddress, job: JobConfig, out: str) -> int:
    """Write the table as one Parquet file, and return how many hits it has."""
    table = open_table(work, "search")
    hits = 0
    schema = _shown(table.schema.empty_table(), table).schema
    with writing(out, job.storage) as stream, pq.ParquetWriter(stream, schema) as writer:
        for records in _in_order(table):
            hits += records["_reason"].null_count
            writer.write_table(_shown(records, table))
    return hits


def _in_order(table: LanceTable) -> Iterator[pa.Table]:
    """The table's records in the order of the queries and, of each, by rank: unit by unit, so that memory is bounded.

    Raises TableError for records that are not what was written."""
    results = SearchTask.results.columns
    with reading(table.address):
        for runs in _units(table):
            parts = [table.fragment_records(fragment, start=start, stop=stop) for fragment, start, stop in runs]
            records = pa.concat_tables(parts).sort_by([("_row", "ascending"), ("_chunk", "ascending")]).combine_chunks()
            for batch in records.to_batches():
                if not (record_digests(batch, id_digests(batch), results) == batch["_digest"].to_numpy()).all():
                    raise TableError(
                        f"{table.address.location}: records are not what was written; remove the table and search again"
                    )
            yield records


def _units(table: LanceTable) -> list[list[tuple[int, int, int]]]:
    """Of each unit, in the order of the queries: (fragment, where its records begin there, where they end). One place,
    as it was written; but a record that its owner changes moves to another fragment."""
    found: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    first: dict[tuple[int, int], int] = {}
    for fragment in table.fragments():
        records = table.fragment_records(fragment.id, ["_shard", "_row", "_unit"])
        edges = [0, *(np.flatnonzero(np.diff(records["_unit"].to_numpy())) + 1).tolist(), len(records)]
        for start, stop in pairwise(edges) if len(records) else ():
            shard, row, unit = records.slice(start, 1).to_pylist()[0].values()
            found.setdefault((shard, unit), []).append((fragment.id, start, stop))
            first[shard, unit] = min(row, first.get((shard, unit), row))
    return [found[key] for key in sorted(found, key=lambda key: (key[0], first[key]))]


def _shown(records: pa.Table, table: LanceTable) -> pa.Table:
    """What of the records goes into the file: query_id, rank, the hit, what the table carries, and the reason of a
    query without hits."""
    ranks = pc.if_else(records["_reason"].is_null(), pc.add(records["_chunk"], 1), pa.scalar(None, pa.int32()))
    results = SearchTask.results.columns
    others = [n for n in table.schema.names if n != "id" and not n.startswith("_") and n not in results]
    columns = {"query_id": records["id"], "rank": ranks.cast(pa.int32()), "id": records["hit_id"]}
    columns |= {name: records[name] for name in (*results[1:], *others)}
    return pa.table({**columns, "reason": records["_reason"]})
