"""`vectormill status`: what the table holds, read from the table alone; works while a job runs and without Ray."""

from __future__ import annotations

import re
from typing import Any

import pyarrow.fs as pafs

from pipelines.errors import TableError
from pipelines.storage.clients import filesystem_for
from pipelines.table import contents
from pipelines.table.files import TableAddress, reading
from pipelines.table.index.records import describe
from pipelines.table.table import RUN_PROPERTY, LanceTable

BAD_ROWS_SHOWN = 10


def open_table(address: TableAddress, task: str | None = None) -> LanceTable:
    """The table; TableError if there is none, or if it holds the results of another task than the one given."""
    table = LanceTable.open(address)
    if table is None:
        raise TableError(
            f"there is no table at {address.location} yet; `vectormill embed` creates it. If it should be there, "
            "check table.uri and table.name."
        )
    if task is not None and table.metadata.task != task:
        raise TableError(
            f"{address.location} holds the results of task: {table.metadata.task}; this needs a table of task: {task}"
        )
    return table


def status(address: TableAddress, bad_rows_shown: int = BAD_ROWS_SHOWN) -> dict[str, Any]:
    """Counts by one scan of the provenance columns; `corpus_rows`, `units_total`, `last_run` and `last_commit` are
    what the last run noted down. Raises TableError, StorageError."""
    table = open_table(address)
    with reading(address):
        return _status(table, bad_rows_shown)


def _status(table: LanceTable, bad_rows_shown: int) -> dict[str, Any]:
    address = table.address
    totals = contents.totals(table)
    noted = table.last_commit()
    fragments = table.dataset.get_fragments()
    return {
        "table": address.location,
        "task": table.metadata.task,
        "version": table.version,
        "versions_kept": _versions_kept(address),
        "fragments": len(fragments),
        "bytes": sum(file.file_size_bytes or 0 for fragment in fragments for file in fragment.metadata.files),
        "units": contents.count(table, "SELECT DISTINCT _unit FROM dataset"),
        "units_total": _number(noted.get("vectormill.units_total")),
        "rows": totals.rows,
        "corpus_rows": _number(noted.get("vectormill.rows_total")),
        "records": totals.records,
        "tokens": totals.tokens,
        "truncated": totals.truncated,
        "bad_rows": totals.bad_rows,
        "reasons": dict(totals.reasons),
        "first_bad_rows": contents.bad_rows(table, bad_rows_shown),
        "last_run": noted.get(RUN_PROPERTY),
        "last_commit": noted.get("vectormill.time"),
        "fingerprint": table.metadata.fingerprint,
        "model": {**table.metadata.identity, "weights_name": table.metadata.model["weights"]},
        "rows_per_unit": table.metadata.rows_per_unit,
        "vector_index": describe(table.dataset),
        "indices": [index.name for index in table.dataset.describe_indices()],
    }


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _versions_kept(address: TableAddress) -> int:
    files, root = filesystem_for(address.location, address.storage)
    listed = files.get_file_info(pafs.FileSelector(f"{root}/_versions"))
    # A name that begins with a d is of no version: an index is being measured.
    return sum(1 for info in listed if re.fullmatch(r"\d+\.manifest", info.base_name))
