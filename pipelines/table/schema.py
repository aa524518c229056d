"""What a vectormill table looks like, and the fingerprint that keeps the work of one model in it.

| column | type | meaning |
|---|---|---|
| id | string | the row's id from the corpus, or `path#row` |
| carried columns | as in the corpus | `corpus.columns` |
| text (or any name) | string | only with `table.text_column` |
| the task's results | | see the tasks; null when the row has a reason |
| _shard, _unit, _row | int64 | provenance: the rows of a unit are visible all together or not at all |
| _first, _rows | int64 | the unit's first row, and how many it has |
| _file | int64 | of the file's content, wherever it lies |
| _chunk | int32 | passage number in the row, from 0 |
| _passages | int32 | passages of the row; null where nobody knows |
| _mark | string | why the next run looks at the row again; null: it does not |
| the task's own provenance | | |
| _text, _carried | fixed binary of 16 | of the row's whole text, and of its carried columns: see `pipelines.content`. |
| | | null: nobody read them |
| _passage | fixed binary of 16 | of the text that the result was made from; null without one |
| _tokens | int32 | tokens the model read, special ones included; 0 without a result |
| _truncated | bool | the text was longer than max_tokens |
| _unknown | int32 | tokens that stand for what the model's vocabulary lacks; null where nobody counted |
| _reason, _detail | string | why there is no result: one of REASONS; and which file and row |
| _id_digest, _digest | int64 | of the id, and of what the record holds: see `pipelines.table.digests` |

From _passage on, with _digest and the results, all depends on one model. Every column may be null: a record that
another program adds belongs to no shard, and no run touches it. The fingerprint is in the metadata of the first
result's field and nowhere else, so that it goes where that column goes.

Format 2 lacked _first, _rows, _file, _passages, _mark, the digests of 16 bytes and _unknown, had its fingerprint in the
metadata of the schema, and let nothing of ours be null. It is read; the first run that writes brings it over
(`pipelines.table.upgrade`).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pipelines.content import DIGEST
from pipelines.table.digests import DIGEST_FIELDS

METADATA_KEY = b"vectormill"
TEXT_MARK = {METADATA_KEY: b"text"}  # on the field that holds the embedded text, whatever its name
CARRIED_MARK = {METADATA_KEY: b"carried"}  # on the fields that runs carry over; others are the owner's
FORMAT_VERSION = 3
READ_VERSIONS = (2, 3)
# What format 3 has and format 2 had not: a table has all of them or none, see `pipelines.table.upgrade`.
NEW_FIELDS = (
    pa.field("_first", pa.int64()),
    pa.field("_rows", pa.int64()),
    pa.field("_file", pa.int64()),
    pa.field("_passages", pa.int32()),
    pa.field("_mark", pa.string()),
    pa.field("_text", DIGEST),
    pa.field("_carried", DIGEST),
    pa.field("_passage", DIGEST),
    pa.field("_unknown", pa.int32()),
)
PROVENANCE = (
    *(pa.field(name, pa.int64()) for name in ("_shard", "_unit", "_row")),
    pa.field("_chunk", pa.int32()),
)
OF_THE_MODEL = (
    pa.field("_tokens", pa.int32()),
    pa.field("_truncated", pa.bool_()),
    pa.field("_reason", pa.string()),
    pa.field("_detail", pa.string()),
)


def table_schema(
    carried: Iterable[pa.Field], results: Iterable[pa.Field], own: Iterable[pa.Field], metadata: TableMetadata
) -> pa.Schema:
    """Schema of a table, with the fingerprint in its metadata, so that both are created in one commit. results, own:
    what the task fills, and what provenance it adds; the fingerprint goes with the first result."""
    first, *others = results
    fields = [pa.field("id", pa.string()), *carried, first.with_metadata(metadata.of_the_column()), *others]
    fields += [*PROVENANCE, *own, *NEW_FIELDS, *OF_THE_MODEL, *DIGEST_FIELDS]
    return pa.schema([one.with_nullable(True) for one in fields], metadata=metadata.of_the_table(first.name))


def with_text(carried: Iterable[pa.Field], text_column: str | None) -> list[pa.Field]:
    """The carried columns and, if it is stored, the text."""
    text = [pa.field(text_column, pa.string(), metadata=TEXT_MARK)] if text_column else []
    return [*(field.with_metadata(CARRIED_MARK) for field in carried), *text]


def text_column_of(schema: pa.Schema) -> str | None:
    """The column of a vectormill table that holds the embedded texts; None if they are not stored."""
    return next((field.name for field in schema if has_mark(field, TEXT_MARK)), None)


def has_mark(field: pa.Field, mark: Mapping[bytes, bytes]) -> bool:
    """Whether a field of a table has TEXT_MARK or CARRIED_MARK."""
    return bool((field.metadata or {}).get(METADATA_KEY) == mark[METADATA_KEY])


@dataclass(frozen=True)
class TableMetadata:
    """Stored with the table at creation and never changed.

    identity: every readable field that changes a result; the fingerprint is its hash. Of a task other than embed it
        says `task`.
    model: how a query finds the model again: weights and revision as the job gave them, resolved_revision (the commit,
        where there is one), and query_prompt and query_instruction, a search's defaults. Not identity, because the
        digest is.
    rows_per_unit: unit size chosen by the first run; later runs keep it, so that they cut the same units.
    table: which table this is, made by chance when it is created. format: see the module."""

    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    rows_per_unit: int
    table: str = field(default_factory=lambda: uuid.uuid4().hex)
    format: int = FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:32]

    @property
    def task(self) -> str:
        return str(self.identity.get("task", "embed"))

    def of_the_table(self, result: str) -> dict[bytes, bytes]:
        """What the schema's metadata says. result: the column that has the rest."""
        return _json(format=FORMAT_VERSION, table=self.table, result=result, rows_per_unit=self.rows_per_unit)

    def of_the_column(self) -> dict[bytes, bytes]:
        """What the metadata of the first result's field says."""
        return _json(fingerprint=self.fingerprint, identity=dict(self.identity), model=dict(self.model))

    @staticmethod
    def from_schema(schema: pa.Schema) -> TableMetadata | None:
        """None for a table that vectormill did not make. Raises ValueError for a format this release does not know."""
        raw = (schema.metadata or {}).get(METADATA_KEY)
        if raw is None:
            return None
        data = json.loads(raw)
        if data["format"] not in READ_VERSIONS:
            raise ValueError(
                f"it has format {data['format']}, this release knows {' and '.join(map(str, READ_VERSIONS))}; use the "
                "release that made the table, or embed into a new table.name"
            )
        of_column = data if data["format"] == 2 else json.loads(schema.field(data["result"]).metadata[METADATA_KEY])
        is_whole = data["format"] == FORMAT_VERSION and all(one.name in schema.names for one in NEW_FIELDS)
        return TableMetadata(
            of_column["identity"],
            of_column["model"],
            data["rows_per_unit"],
            data.get("table", ""),
            FORMAT_VERSION if is_whole else 2,
        )

    def to_json(self) -> str:
        return json.dumps({"identity": self.identity, "model": self.model, "rows_per_unit": self.rows_per_unit})

    @staticmethod
    def from_json(text: str) -> TableMetadata:
        return TableMetadata(**json.loads(text))

    def differences(self, other: TableMetadata) -> dict[str, tuple[object, object]]:
        """Identity fields that differ, as (here, there)."""
        names = sorted(set(self.identity) | set(other.identity))
        pairs = {n: (self.identity.get(n), other.identity.get(n)) for n in names}
        return {n: p for n, p in pairs.items() if p[0] != p[1]}


def _json(**facts: Any) -> dict[bytes, bytes]:
    return {METADATA_KEY: json.dumps(facts, sort_keys=True).encode()}


RESULT_OF_FORMAT_2 = {"embed": "vector", "rerank": "score", "search": "hit_id"}


def result_of(schema: pa.Schema) -> str:
    """The first column that the task fills."""
    data = json.loads(schema.metadata[METADATA_KEY])
    return str(data.get("result") or RESULT_OF_FORMAT_2[data["identity"].get("task", "embed")])


def bytes_of(schema: pa.Schema, columns: Iterable[str]) -> int:
    """Bytes of a record's values in these columns, which have a fixed width."""
    types = [schema.field(name).type for name in columns]
    return sum(kind.byte_width if pt.is_primitive(kind) else _list_bytes(kind) for kind in types)


def _list_bytes(kind: pa.FixedSizeListType) -> int:
    return int(kind.list_size * kind.value_type.byte_width)
