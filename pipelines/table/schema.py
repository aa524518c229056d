"""What a vectormill table looks like, and the fingerprint that keeps the work of one model in it.

| column | type | meaning |
|---|---|---|
| id | string | the row's id from the corpus, or `path#row` |
| carried columns | as in the corpus | `corpus.columns` |
| text (or any name) | string | only with `table.text_column` |
| the task's results | | see the tasks; null when the row has a reason |
| _shard, _unit, _row | int64 | provenance: the rows of a unit are visible all together or not at all |
| _chunk | int32 | passage number in the row, from 0 |
| the task's own provenance | | |
| _tokens | int32 | tokens the model read, special ones included; 0 without a result |
| _truncated | bool | the text was longer than max_tokens |
| _reason, _detail | string | why there is no result: one of REASONS; and which file and row |
| _id_digest, _digest | int64 | of the id, and of what the record holds: see `pipelines.table.digests` |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pipelines.table.digests import DIGEST_FIELDS

METADATA_KEY = b"vectormill"
TEXT_MARK = {METADATA_KEY: b"text"}  # on the field that holds the embedded text, whatever its name
FORMAT_VERSION = 2  # 1 had no digests


def table_schema(
    carried: Iterable[pa.Field], results: Iterable[pa.Field], own: Iterable[pa.Field], metadata: TableMetadata
) -> pa.Schema:
    """Schema of a table, with the fingerprint in its metadata, so that both are created in one commit. results, own:
    what the task fills, and what provenance it adds."""
    return pa.schema(
        [
            pa.field("id", pa.string()),
            *carried,
            *results,
            pa.field("_shard", pa.int64(), nullable=False),
            pa.field("_unit", pa.int64(), nullable=False),
            pa.field("_row", pa.int64(), nullable=False),
            pa.field("_chunk", pa.int32(), nullable=False),
            *own,
            pa.field("_tokens", pa.int32(), nullable=False),
            pa.field("_truncated", pa.bool_(), nullable=False),
            pa.field("_reason", pa.string()),
            pa.field("_detail", pa.string()),
            *DIGEST_FIELDS,
        ],
        metadata={METADATA_KEY: metadata.to_json().encode()},
    )


def with_text(carried: Iterable[pa.Field], text_column: str | None) -> list[pa.Field]:
    """The carried columns and, if it is stored, the text."""
    return [*carried, *([pa.field(text_column, pa.string(), metadata=TEXT_MARK)] if text_column else [])]


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
        where there is one), and query_prompt and query_instruction, a search's defaults. Not identity, because the
        digest is.
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


def bytes_of(schema: pa.Schema, columns: Iterable[str]) -> int:
    """Bytes of a record's values in these columns, which have a fixed width."""
    types = [schema.field(name).type for name in columns]
    return sum(kind.byte_width if pt.is_primitive(kind) else _list_bytes(kind) for kind in types)


def _list_bytes(kind: pa.FixedSizeListType) -> int:
    return int(kind.list_size * kind.value_type.byte_width)
