"""`vectormill optimize`: compact, index, clean. Safe while a job runs: a run's commits rebase over all of it, and
nothing younger than an hour is removed. Killed at any point it leaves the table as it was or with one more thing done;
the same command goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pyarrow as pa

from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.errors import TableError
from pipelines.maintenance.status import open_table
from pipelines.table.files import TableAddress, reading
from pipelines.table.index import segments
from pipelines.table.index.records import COLUMN, rows_outside
from pipelines.table.index.vector import VectorIndex, Wanted
from pipelines.table.schema import text_column_of

ROWS_PER_FRAGMENT = 1 << 20
INDEX_FROM_ROWS = 100_000  # below, exact search takes milliseconds
SEGMENTS_FROM_ROWS = 2_000_000  # with Ray: fewer are indexed here before Ray has started
SEGMENTS = 8  # at most, of one build; each costs a search a few reads
AUTO = Wanted()
KEEP_VERSIONS_FOR = timedelta(hours=1)  # a run resolves lost commits by reading recent versions
# ICU cuts Chinese and Japanese into words. Stemming and stop words belong to one language; Lance's own defaults turn
# case and accents into plain letters, so that größe, GRÖSSE and grosse are one word.
TOKENIZER = {"base_tokenizer": "icu", "stem": False, "remove_stop_words": False}


def optimize(
    address: TableAddress, display: Display, wanted: Wanted = AUTO, job: JobConfig | None = None
) -> dict[str, Any]:
    """Returns what was done. `job` names the engine that builds the segments of a large table's index; without one
    everything is done in this process.

    Raises TableError if there is no table, it cannot be read, or it cannot be indexed as wanted; ConfigError for what
    can never be; StorageError."""
    with display.engine_output(), reading(address):
        return _optimize(address, display, wanted, job)


def _optimize(address: TableAddress, display: Display, wanted: Wanted, job: JobConfig | None) -> dict[str, Any]:
    dataset = open_table(address).dataset
    if dataset.count_rows() == 0 and (wanted.full_text or wanted.index not in ("auto", "none")):
        raise TableError(f"{address.location} is empty, so there is nothing to index; run `vectormill embed` first")
    text = _text_column(address, dataset.schema, wanted.full_text) if wanted.full_text else None
    before = len(dataset.get_fragments())
    display.say(f"compacting {before:,} fragment(s)")
    compacted = dataset.optimize.compact_files(
        target_rows_per_fragment=ROWS_PER_FRAGMENT, compaction_mode="try_binary_copy"
    )
    others = _scalar_indexes(address, text, display)

    def build(segment: segments.Build, fragments: Sequence[Any]) -> list[Any]:
        return _build(segment, fragments, job)

    index = {"action": "none", "why": "the table holds no vectors"}
    if COLUMN in dataset.schema.names:
        index = VectorIndex(address, wanted, INDEX_FROM_ROWS, build, display).fit()
    dataset = address.open()
    display.say("removing versions older than an hour, and unreferenced files older than 7 days")
    cleaned = dataset.cleanup_old_versions(older_than=KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)
    segments.sweep(address, KEEP_VERSIONS_FOR)
    return {
        "table": address.location,
        "fragments_before": before,
        "fragments_after": len(dataset.get_fragments()),
        "fragments_removed": compacted.fragments_removed,
        "index": index,
        "other_indexes": others,
        "versions_removed": cleaned.old_versions,
        "bytes_removed": cleaned.bytes_removed,
        "version": dataset.version,
    }


def _build(build: segments.Build, fragments: Sequence[Any], job: JobConfig | None) -> list[Any]:
    """One segment, or several by the job's engine. Lance uses all cores of a machine for one."""
    rows = sum(fragment.count_rows() for fragment in fragments)
    if job is None or job.run.engine == "inline" or rows < SEGMENTS_FROM_ROWS:
        return [build([fragment.fragment_id for fragment in fragments])]
    from pipelines.run.prepare import open_executor  # tokenizers: only when an engine is wanted

    with open_executor(job) as executor:
        return list(executor.map(build, segments.groups(fragments, SEGMENTS)))


# ---------------------------------------------------------------------- scalar and full-text indexes


def _scalar_indexes(address: TableAddress, text: str | None, display: Display) -> dict[str, str]:
    """Bring the indexes on other columns up to date, and build those that are missing: on `id` in a table that is large
    enough, and on `text`. Returns what was done, by column."""
    dataset = address.open()
    done: dict[str, str] = {}
    with segments.one_at_a_time(address):
        for index in dataset.describe_indices():
            (column, *_) = index.field_names
            if column != COLUMN and rows_outside(dataset, [index]) and column != text:
                display.say(f"bringing the index on {column} up to date")
                dataset.optimize.optimize_indices(index_names=[index.name])
                done[column] = "updated"
        there = {column for index in dataset.describe_indices() for column in index.field_names}
        if "id" not in there and dataset.count_rows() >= INDEX_FROM_ROWS:
            display.say("building a B-tree on id")
            dataset.create_scalar_index("id", "BTREE", name="id_idx")
            done["id"] = "built"
        if text is not None:
            done[text] = _full_text(dataset, text, display)
    return done


def _full_text(dataset: Any, column: str, display: Display) -> str:
    """Kept, updated, or built (also in place of one with another tokenizer)."""
    name = f"{column}_text_idx"
    inverted = [i for i in dataset.describe_indices() if list(i.field_names) == [column] and i.index_type == "Inverted"]
    same = [index for index in inverted if all(index.details.get(k) == v for k, v in TOKENIZER.items())]
    if same and not rows_outside(dataset, same[:1]):
        return "kept"
    if same:
        display.say(f"bringing the full-text index on {column} up to date")
        dataset.optimize.optimize_indices(index_names=[same[0].name])
        return "updated"
    display.say(f"building a full-text index on {column}")
    dataset.create_scalar_index(column, "INVERTED", name=name, replace=True, **TOKENIZER)
    for index in inverted:
        if index.name != name:
            dataset.drop_index(index.name)
    return "built"


def _text_column(address: TableAddress, schema: pa.Schema, asked: str) -> str:
    """The column to search in: the one that is named, or the one with the stored text, or the only one of text."""
    texts = [
        field.name
        for field in schema
        if (pa.types.is_string(field.type) or pa.types.is_large_string(field.type))
        and field.name != "id"
        and not field.name.startswith("_")
    ]
    column = asked
    if asked == "auto":
        column = text_column_of(schema) or (texts[0] if len(texts) == 1 else "")
    if column in texts:
        return column
    have = f"columns of text that it has: {', '.join(texts)}" if texts else "it has no column of text"
    if not column:
        raise TableError(
            f"{address.location} does not say which column holds the text; {have}. Name one with --full-text COLUMN, "
            "or embed into a new table with table.text_column set."
        )
    if column in schema.names:
        what = f"column {column!r} is {schema.field(column).type}, not text that can be searched"
    else:
        what = f"there is no column {column!r}"
    raise TableError(f"{address.location}: --full-text {asked}: {what}; {have}")
