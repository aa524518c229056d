"""`vectormill optimize`: compact, index, clean. Safe while a job runs: a run's commits rebase over all of it, and
nothing younger than an hour is removed. Killed at any point it leaves the table as it was or with one more thing done;
the same command goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.config import JobConfig
from pipelines.engine.open import open_executor
from pipelines.errors import TableError
from pipelines.progress import Progress
from pipelines.table.compaction import check_files, clean_up, compact
from pipelines.table.files import TableAddress, reading
from pipelines.table.index import columns, segments
from pipelines.table.index.columns import column_to_index, fit_columns
from pipelines.table.index.records import COLUMN
from pipelines.table.index.vector import Fitted, IndexWanted, VectorIndex
from pipelines.table.table import open_table

SEGMENTS_FROM_ROWS = 2_000_000  # with Ray: fewer are indexed here before Ray has started
SEGMENTS = 8  # at most, of one build; each costs a search a few reads
AUTO = IndexWanted()


@dataclass(frozen=True)
class Optimized:
    """What was done. index: to the vector index. other_indexes: to the others, by column."""

    table: str
    fragments_before: int
    fragments_after: int
    fragments_removed: int
    index: Fitted
    other_indexes: Mapping[str, str]
    versions_removed: int
    bytes_removed: int
    version: int

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "index": self.index.to_dict()}


def optimize(
    address: TableAddress, progress: Progress, wanted: IndexWanted = AUTO, job: JobConfig | None = None
) -> Optimized:
    """`job` names the engine that builds the segments of a large table's index; without one everything is done in this
    process.

    Raises TableError if there is no table, it cannot be read, or it cannot be indexed as wanted; ConfigError for what
    can never be; StorageError."""
    with progress.engine_output(), reading(address):
        return _optimize(address, progress, wanted, job)


def _optimize(address: TableAddress, progress: Progress, wanted: IndexWanted, job: JobConfig | None) -> Optimized:
    table = open_table(address)
    if table.count_rows() == 0 and (wanted.full_text or wanted.index not in ("auto", "none")):
        raise TableError(f"{address.location} is empty, so there is nothing to index; run `vectormill embed` first")
    text = column_to_index(address, table.schema, wanted.full_text) if wanted.full_text else None
    before = len(table.fragments())
    progress.say(f"compacting {before:,} fragment(s)")
    compacted = compact(address)
    others = fit_columns(address, text, progress)

    def build(segment: segments.Build, fragments: Sequence[Any]) -> list[Any]:
        return _build(segment, fragments, job)

    index = Fitted("none", "the table holds no vectors")
    if COLUMN in table.schema.names:
        segments.keep_one(address)
        index = VectorIndex(address, wanted, columns.INDEX_FROM_ROWS, build, progress).fit()
        segments.keep_one(address)
    progress.say("removing versions older than an hour, and unreferenced files older than 7 days")
    cleaned = clean_up(address)
    check_files(address)
    table = open_table(address)
    return Optimized(
        table=address.location,
        fragments_before=before,
        fragments_after=len(table.fragments()),
        fragments_removed=compacted,
        index=index,
        other_indexes=others,
        versions_removed=cleaned.versions,
        bytes_removed=cleaned.bytes,
        version=table.version,
    )


def _build(build: segments.Build, fragments: Sequence[Any], job: JobConfig | None) -> list[Any]:
    """One segment, or several by the job's engine. Lance uses all cores of a machine for one."""
    rows = sum(fragment.count_rows() for fragment in fragments)
    if job is None or job.run.engine == "inline" or rows < SEGMENTS_FROM_ROWS:
        return [build([fragment.fragment_id for fragment in fragments])]
    with open_executor(job) as executor:
        return list(executor.map(build, segments.groups(fragments, SEGMENTS)))
