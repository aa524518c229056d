"""What a vectormill table looks like, and the fingerprint that keeps one embedding space in it.

| column | type | meaning |
|---|---|---|
| id | string | the row's id from the corpus, or `path#row` |
| carried columns | as in the corpus | `corpus.columns` |
| text (or any name) | string | only with `table.text_column` |
| vector | fixed_size_list<float32 or float16>[D] | unit length; null when the row has a reason |
| _shard, _unit, _row | int64 | provenance: the rows of a unit are visible all together or not at all |
| _chunk | int32 | passage number in the row, from 0 |
| _start, _end | int32 | span of the passage in the row's text, in characters |
| _tokens | int32 | tokens embedded, special ones included; 0 without a vector |
| _truncated | bool | the text was longer than max_tokens |
| _reason, _detail | string | why there is no vector: one of REASONS; and which file and row |
| _id_digest, _digest | int64 | of the id, and of what the record holds: see `pipelines.digests` |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipelines.digests import DIGEST_FIELDS

METADATA_KEY = b"vectormill"
TEXT_MARK = {METADATA_KEY: b"text"}  # on the field that holds the embedded text, whatever its name
FORMAT_VERSION = 2  # 1 had no digests

REASONS = {
    "undecodable": "the record cannot be decoded (broken JSON, invalid UTF-8, wrong number of fields)",
    "too_long": "the record or its text is longer than 32 MiB, the most that one row may hold",
    "no_id": "the id column is null or missing",
    "duplicate_id": "an earlier row of the same unit has this id",
    "no_text": "the text column is null or missing",
    "not_a_string": "the text is not a string",
    "bad_column": "a carried column does not fit the table's type",
    "empty_text": "the text is empty or only white space",
    "non_finite": "the model returned NaN, infinity or a zero vector",
    "crashes_worker": "embedding this row killed its process again and again",
    "hangs_worker": "embedding this row did not end in run.stage_timeout_seconds, again and again",
}

# What the read stage delivers for each row, before chunking: id, the carried columns, text, and these.
ROW_FIELDS = (
    pa.field("_shard", pa.int64(), nullable=False),
    pa.field("_unit", pa.int64(), nullable=False),
    pa.field("_row", pa.int64(), nullable=False),
    pa.field("_reason", pa.string()),
    pa.field("_detail", pa.string()),
)


def row_schema(carried: pa.Schema) -> pa.Schema:
    """Schema of the tables a reader yields: one record a corpus row; `text` is null where `_reason` is set."""
    return pa.schema([pa.field("id", pa.string()), *carried, pa.field("text", pa.string()), *ROW_FIELDS])


def table_schema(
    carried: pa.Schema, dimensions: int, vector_dtype: str, text_column: str | None, metadata: TableMetadata
) -> pa.Schema:
    """Schema of the Lance table, with the fingerprint in its metadata (so that both are created in one commit)."""
    element = pa.float16() if vector_dtype == "float16" else pa.float32()
    text = [pa.field(text_column, pa.string(), metadata=TEXT_MARK)] if text_column else []
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *carried,
            *text,
            pa.field("vector", pa.list_(element, dimensions)),
            pa.field("_shard", pa.int64(), nullable=False),
            pa.field("_unit", pa.int64(), nullable=False),
            pa.field("_row", pa.int64(), nullable=False),
            pa.field("_chunk", pa.int32(), nullable=False),
            pa.field("_start", pa.int32(), nullable=False),
            pa.field("_end", pa.int32(), nullable=False),
            pa.field("_tokens", pa.int32(), nullable=False),
            pa.field("_truncated", pa.bool_(), nullable=False),
            pa.field("_reason", pa.string()),
            pa.field("_detail", pa.string()),
            *DIGEST_FIELDS,
        ],
        metadata={METADATA_KEY: metadata.to_json().encode()},
    )


def text_column_of(schema: pa.Schema) -> str | None:
    """The column of a vectormill table that holds the embedded texts; None if they are not stored, or the table was
    made by a release that did not mark the column and it is not called "text" (which no carried column can be)."""
    marked = (field.name for field in schema if (field.metadata or {}).get(METADATA_KEY) == TEXT_MARK[METADATA_KEY])
    return next(marked, "text" if "text" in schema.names else None)


@dataclass(frozen=True)
class TableMetadata:
    """Stored in the Lance schema metadata at creation and never changed.

    identity: every readable field that changes a vector; the fingerprint is its hash.
    model: how a query finds the model again: weights and revision as the job gave them, resolved_revision (the commit,
        where there is one), and query_instruction, a search's default. Not identity, because the digest is.
    rows_per_unit: unit size chosen by the first run; later runs keep it, so that they cut the same units."""

    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    rows_per_unit: int

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

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
