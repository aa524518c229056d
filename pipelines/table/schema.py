"""What a vectormill table looks like, and the fingerprint that keeps the work of one model in it.

| column | type | meaning |
|---|---|---|
| id | string | the row's id from the corpus, or `path#row` |
| carried columns | as in the corpus | `corpus.columns` |
| text (or any name) | string | only with `table.text_column` |
| the task's results | | see below; null when the row has a reason |
| _shard, _unit, _row | int64 | provenance: the rows of a unit are visible all together or not at all |
| _chunk | int32 | passage number in the row, from 0 |
| _tokens | int32 | tokens the model read, special ones included; 0 without a result |
| _truncated | bool | the text was longer than max_tokens |
| _reason, _detail | string | why there is no result: one of REASONS; and which file and row |
| _id_digest, _digest | int64 | of the id, and of what the record holds: see `pipelines.table.digests` |

The results of `task: embed`:

| column | type | meaning |
|---|---|---|
| vector | fixed_size_list<float32 or float16>[D] | unit length |
| _start, _end | int32 | span of the passage in the row's text, in characters; never null |

and of `task: rerank`, whose `_chunk` is the candidate's place in its list:

| column | type | meaning |
|---|---|---|
| score | float32 | relevance of the document to the query, 0..1 |
| logit | float32 | what the score is the sigmoid of; order by it: scores near 1 are soon the same |

and of `search --queries`, one record a hit, whose `_chunk` is its rank from 0 and whose `id` is the query's; beside
them the columns of the searched table:

| column | type | meaning |
|---|---|---|
| hit_id, chunk, start, end | string, int32 | id of the row that was found, number of the passage and its span |
| similarity | float32 | cosine to the query; null for what only its words found |
| relevance | float32 | by the reranker, 0..1; null without one, or where it gave no number |
| first_rank | int32 | in the first stage, from 1 |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pipelines.config import DOCUMENT, RESULTS, CorpusConfig
from pipelines.table.digests import DIGEST_FIELDS

METADATA_KEY = b"vectormill"
TEXT_MARK = {METADATA_KEY: b"text"}  # on the field that holds the embedded text, whatever its name
FORMAT_VERSION = 2  # 1 had no digests

SEARCHED = pa.schema(
    [
        ("hit_id", pa.string()), ("similarity", pa.float32()), ("relevance", pa.float32()), ("first_rank", pa.int32()),
        ("chunk", pa.int32()), ("start", pa.int32()), ("end", pa.int32()),
    ]
)  # fmt: skip
MAY_BE_NULL = ("similarity", "relevance")

REASONS = {
    "undecodable": "the record cannot be decoded (broken JSON, invalid UTF-8, wrong number of fields)",
    "too_long": "the record or its text is longer than 32 MiB, the most that one row may hold",
    "no_id": "the id column is null or missing",
    "duplicate_id": "an earlier row of the same unit has this id",
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

# What the read stage delivers for each row, before chunking: id, the carried columns, the texts, and these.
ROW_FIELDS = (
    pa.field("_shard", pa.int64(), nullable=False),
    pa.field("_unit", pa.int64(), nullable=False),
    pa.field("_row", pa.int64(), nullable=False),
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


def table_schema(
    carried: pa.Schema, dimensions: int, vector_dtype: str, text_column: str | None, metadata: TableMetadata
) -> pa.Schema:
    """Schema of a table of vectors, with the fingerprint in its metadata (so that both are created in one commit)."""
    element = pa.float16() if vector_dtype == "float16" else pa.float32()
    vector = pa.field("vector", pa.list_(element, dimensions))
    spans = [pa.field(name, pa.int32(), nullable=False) for name in ("_start", "_end")]
    return _table_schema(_with_text(carried, text_column), [vector], spans, metadata)


def scores_schema(carried: pa.Schema, text_column: str | None, metadata: TableMetadata) -> pa.Schema:
    """Schema of a table of relevance scores."""
    scores = [pa.field(name, pa.float32()) for name in RESULTS["rerank"]]
    return _table_schema(_with_text(carried, text_column), scores, [], metadata)


def searched_schema(shown: pa.Schema, metadata: TableMetadata) -> pa.Schema:
    """Schema of a table of search results; shown: columns of what was searched."""
    return _table_schema([], [*SEARCHED, *shown], [], metadata)


def _with_text(carried: pa.Schema, text_column: str | None) -> list[pa.Field]:
    return [*carried, *([pa.field(text_column, pa.string(), metadata=TEXT_MARK)] if text_column else [])]


def _table_schema(
    carried: list[pa.Field], results: list[pa.Field], spans: list[pa.Field], metadata: TableMetadata
) -> pa.Schema:
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *carried,
            *results,
            pa.field("_shard", pa.int64(), nullable=False),
            pa.field("_unit", pa.int64(), nullable=False),
            pa.field("_row", pa.int64(), nullable=False),
            pa.field("_chunk", pa.int32(), nullable=False),
            *spans,
            pa.field("_tokens", pa.int32(), nullable=False),
            pa.field("_truncated", pa.bool_(), nullable=False),
            pa.field("_reason", pa.string()),
            pa.field("_detail", pa.string()),
            *DIGEST_FIELDS,
        ],
        metadata={METADATA_KEY: metadata.to_json().encode()},
    )


def text_column_of(schema: pa.Schema) -> str | None:
    """The column of a vectormill table that holds the embedded texts; None if they are not stored."""
    marked = (field.name for field in schema if (field.metadata or {}).get(METADATA_KEY) == TEXT_MARK[METADATA_KEY])
    return next(marked, None)


@dataclass(frozen=True)
class TableMetadata:
    """Stored in the Lance schema metadata at creation and never changed.

    identity: every readable field that changes a result; the fingerprint is its hash. Of a task other than embed it
        says `task`.
    model: how a query finds the model again: weights and revision as the job gave them, resolved_revision (the commit,
        where there is one), and query_instruction, a search's default. Not identity, because the digest is.
    rows_per_unit: unit size chosen by the first run; later runs keep it, so that they cut the same units."""

    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    rows_per_unit: int

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def task(self) -> str:
        return str(self.identity.get("task", "embed"))

    def to_json(self) -> str:
        return json.dumps(
            {
                "format": FORMAT_VERSION,
                "fingerprint": self.fingerprint,
                "identity": dict(self.identity),
                "model": dict(self.model),
                "rows_per_unit": self.rows_per_unit,
            },
            sort_keys=True,
        )

    @staticmethod
    def from_schema(schema: pa.Schema) -> TableMetadata | None:
        """None for a table that vectormill did not make. Raises ValueError for a format this release does not know."""
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            return None
        data = json.loads(raw)
        if data["format"] != FORMAT_VERSION:
            raise ValueError(
                f"it has format {data['format']}, this release knows {FORMAT_VERSION}; use the release that made the "
                "table, or embed into a new table.name"
            )
        return TableMetadata(data["identity"], data["model"], data["rows_per_unit"])

    def differences(self, other: TableMetadata) -> dict[str, tuple[object, object]]:
        """Identity fields that differ, as (here, there)."""
        names = sorted(set(self.identity) | set(other.identity))
        pairs = {n: (self.identity.get(n), other.identity.get(n)) for n in names}
        return {n: p for n, p in pairs.items() if p[0] != p[1]}


def results_of(schema: pa.Schema) -> tuple[str, ...]:
    """The columns of a table that its task fills and its digests cover, null where a record has a reason."""
    metadata = TableMetadata.from_schema(schema)
    task = metadata.task if metadata else "embed"
    return tuple(SEARCHED.names) if task == "search" else RESULTS[task]


def result_bytes(schema: pa.Schema) -> int:
    """Bytes of a record's result."""
    types = [schema.field(name).type for name in results_of(schema)]
    return sum(kind.byte_width if pt.is_primitive(kind) else _list_bytes(kind) for kind in types)


def _list_bytes(kind: pa.FixedSizeListType) -> int:
    return int(kind.list_size * kind.value_type.byte_width)
