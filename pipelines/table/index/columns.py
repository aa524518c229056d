"""The indexes on columns other than the vector: a B-tree on `id`, full text on a column of text."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from pipelines.errors import TableError
from pipelines.progress import Progress
from pipelines.table.files import TableAddress
from pipelines.table.index.records import COLUMN, rows_outside
from pipelines.table.index.segments import one_at_a_time
from pipelines.table.schema import text_column_of

INDEX_FROM_ROWS = 100_000  # below, exact search takes milliseconds
# ICU cuts Chinese and Japanese into words. Stemming and stop words belong to one language; Lance's own defaults turn
# case and accents into plain letters, so that größe, GRÖSSE and grosse are one word.
TOKENIZER = {"base_tokenizer": "icu", "stem": False, "remove_stop_words": False}


def fit_columns(address: TableAddress, text: str | None, progress: Progress) -> dict[str, str]:
    """Bring the indexes on other columns up to date, and build those that are missing: on `id` in a table that is large
    enough, and on `text`. Returns what was done, by column."""
    dataset = address.open()
    done: dict[str, str] = {}
    with one_at_a_time(address):
        for index in dataset.describe_indices():
            (column, *_) = index.field_names
            if column != COLUMN and rows_outside(dataset, [index]) and column != text:
                progress.say(f"bringing the index on {column} up to date")
                dataset.optimize.optimize_indices(index_names=[index.name])
                done[column] = "updated"
        there = {column for index in dataset.describe_indices() for column in index.field_names}
        if "id" not in there and dataset.count_rows() >= INDEX_FROM_ROWS:
            progress.say("building a B-tree on id")
            dataset.create_scalar_index("id", "BTREE", name="id_idx")
            done["id"] = "built"
        if text is not None:
            done[text] = _full_text(dataset, text, progress)
    return done


def _full_text(dataset: Any, column: str, progress: Progress) -> str:
    """Kept, updated, or built (also in place of one with another tokenizer)."""
    name = f"{column}_text_idx"
    inverted = [i for i in dataset.describe_indices() if list(i.field_names) == [column] and i.index_type == "Inverted"]
    same = [index for index in inverted if all(index.details.get(k) == v for k, v in TOKENIZER.items())]
    if same and not rows_outside(dataset, same[:1]):
        return "kept"
    if same:
        progress.say(f"bringing the full-text index on {column} up to date")
        dataset.optimize.optimize_indices(index_names=[same[0].name])
        return "updated"
    progress.say(f"building a full-text index on {column}")
    dataset.create_scalar_index(column, "INVERTED", name=name, replace=True, **TOKENIZER)
    for index in inverted:
        if index.name != name:
            dataset.drop_index(index.name)
    return "built"


def column_to_index(address: TableAddress, schema: pa.Schema, asked: str) -> str:
    """The column to search in: the one that is named, or (`auto`) the one with the stored text, or the only one of
    text. Raises TableError."""
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
