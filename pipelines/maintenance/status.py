"""`vectormill status`: what the table holds, read from the table alone; works while a job runs and without Ray."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.corpus.broken import BrokenFile
from pipelines.storage.files import read_json
from pipelines.table import contents
from pipelines.table.files import COMPUTED_WITH, RUN_PROPERTY, TableAddress, reading
from pipelines.table.index.records import IndexState
from pipelines.table.table import LanceTable, open_table

BAD_ROWS_SHOWN = 10


@dataclass(frozen=True)
class Status:
    """Counts are of the table. units_total, corpus_rows, last_run, last_commit and computed_with (of its replicas:
    device, dtype, kernels ..., each with its values) are what the last run noted down, None if its version was cleaned
    up. reasons: records by reason. first_bad_rows: id, reason and detail of a few.
    model: the identity, and the weights' name. indices: names of all. broken_files: of the corpus, as the last run that
    came to its end found them."""

    table: str
    task: str
    version: int
    versions_kept: int
    fragments: int
    bytes: int
    units: int
    units_total: int | None
    rows: int
    corpus_rows: int | None
    records: int
    tokens: int
    truncated: int
    bad_rows: int
    reasons: Mapping[str, int]
    first_bad_rows: list[dict[str, Any]]
    last_run: str | None
    last_commit: str | None
    computed_with: Mapping[str, list[str]] | None
    fingerprint: str
    model: Mapping[str, Any]
    rows_per_unit: int
    vector_index: IndexState | None
    indices: list[str]
    broken_files: tuple[BrokenFile, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(address: TableAddress, bad_rows_shown: int = BAD_ROWS_SHOWN) -> Status:
    """Counts by one scan of the provenance columns. Raises TableError, StorageError."""
    table = open_table(address)
    with reading(address):
        return _status(table, bad_rows_shown)


def _status(table: LanceTable, bad_rows_shown: int) -> Status:
    totals = contents.totals(table)
    noted = table.last_commit()
    fragments = table.fragments()
    return Status(
        table=table.address.location,
        task=table.metadata.task,
        version=table.version,
        versions_kept=table.versions_kept(),
        fragments=len(fragments),
        bytes=sum(fragment.bytes for fragment in fragments),
        units=contents.count(table, "SELECT DISTINCT _unit FROM dataset"),
        units_total=_number(noted.get("vectormill.units_total")),
        rows=totals.rows,
        corpus_rows=_number(noted.get("vectormill.rows_total")),
        records=totals.records,
        tokens=totals.tokens,
        truncated=totals.truncated,
        bad_rows=totals.bad_rows,
        reasons=dict(totals.reasons),
        first_bad_rows=contents.bad_rows(table, bad_rows_shown),
        last_run=noted.get(RUN_PROPERTY),
        last_commit=noted.get("vectormill.time"),
        computed_with=json.loads(noted[COMPUTED_WITH]) if COMPUTED_WITH in noted else None,
        fingerprint=table.metadata.fingerprint,
        model={**table.metadata.identity, "weights_name": table.metadata.model["weights"]},
        rows_per_unit=table.metadata.rows_per_unit,
        vector_index=table.vector_index(),
        indices=table.index_names(),
        broken_files=_broken_files(table.address),
    )


def _broken_files(address: TableAddress) -> tuple[BrokenFile, ...]:
    """From the last certificate: what cannot be read is in no table."""
    found = read_json(f"{address.location.removesuffix('.lance')}.vectormill/certificate.json", address.storage)
    listed = found.get("broken_files", ()) if isinstance(found, dict) else ()
    return tuple(BrokenFile(file["file"], file["why"], file["rows"]) for file in listed)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)
