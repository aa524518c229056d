"""What a row is between the stages, and the reasons why one has no result."""

from __future__ import annotations

import pyarrow as pa

from pipelines.config import DOCUMENT, CorpusConfig
from pipelines.content import DIGEST

REASONS = {
    "undecodable": "the record cannot be decoded (broken JSON, invalid UTF-8, wrong number of fields)",
    "too_long": "the record or its text is longer than 32 MiB, the most that one row may hold",
    "no_id": "the id column is null or missing, or holds neither a string nor an integer",
    "duplicate_id": "an earlier row of the same unit has this id (of tables that an older release made)",
    "no_text": "the text column is null or missing",
    "not_a_string": "the text is not a string",
    "bad_column": "a carried column does not fit the table's type",
    "empty_text": "the text is empty or only white space",
    "no_query": "the query is null, missing, empty or only white space",
    "no_document": "the document is null, missing, empty or only white space, or the list of candidates is empty",
    "nothing_found": "no passage fits the filter or, in mode text, has a word of the query",
    "non_finite": "the model returned NaN, infinity or a zero vector",
    "crashes_worker": "the work on this row killed its process again and again",
    "hangs_worker": "the work on this row did not end in run.stage_timeout_seconds, again and again",
}

# What the read stage delivers for each row, before chunking: id, the carried columns, the texts, and these. _first,
# _rows: the range of the unit. _file: the content of the file. _text, _carried: digests, see `pipelines.content`.
ROW_FIELDS = (
    pa.field("_shard", pa.int64(), nullable=False),
    pa.field("_unit", pa.int64(), nullable=False),
    pa.field("_row", pa.int64(), nullable=False),
    pa.field("_first", pa.int64(), nullable=False),
    pa.field("_rows", pa.int64(), nullable=False),
    pa.field("_file", pa.int64(), nullable=False),
    pa.field("_text", DIGEST),
    pa.field("_carried", DIGEST),
    pa.field("_reason", pa.string()),
    pa.field("_detail", pa.string()),
)


def text_fields(corpus: CorpusConfig) -> tuple[pa.Field, ...]:
    """The texts of a row between the stages: strings, and a list of strings where there are candidates."""
    fields = tuple(pa.field(name, pa.string()) for name in corpus.texts)
    return (*fields, pa.field(DOCUMENT, pa.list_(pa.string()))) if corpus.candidates else fields


def row_schema(carried: pa.Schema, corpus: CorpusConfig) -> pa.Schema:
    """Schema of the tables a reader yields: one record a corpus row; the texts are null where `_reason` is set."""
    return pa.schema([pa.field("id", pa.string()), *carried, *text_fields(corpus), *ROW_FIELDS])
