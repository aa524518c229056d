"""The texts behind a table's records, for whoever must read what was embedded: the reranker, and people.

A table holds its texts if the job set `table.text_column`. Otherwise a text is made again from carried columns by the
corpus's text template, which is part of the table's identity, and cut where the passage begins and ends. It must have
the passage's length; else there is no text, rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipelines.config import CorpusConfig, is_template
from pipelines.corpus.reading import fill_template
from pipelines.table.schema import TableMetadata, text_column_of


class Passages:
    """How to get the texts of one table.

    columns: those a record must bring for it, beside `_start` and `_end`; () if the texts cannot be had.
    stored: the column that holds them, if there is one."""

    def __init__(self, schema: pa.Schema, metadata: TableMetadata):
        self.stored = text_column_of(schema)
        self._corpus = CorpusConfig(uri="", text=metadata.identity["text"])
        self._id: str | None = metadata.identity["id"]
        sources = tuple("id" if name == self._id else name for name in self._corpus.text_columns)
        rebuilt = sources if set(sources) <= set(schema.names) else ()
        self.columns = (self.stored,) if self.stored else rebuilt
        self.made_of = self._corpus.text_columns

    def of(self, record: Mapping[str, Any]) -> str | None:
        """The passage of a record: characters `_start` to `_end` of its row's text. None if it cannot be had."""
        if not self.columns:
            return None
        text = record[self.stored] if self.stored else self._rebuilt(record)
        if isinstance(text, str) and not self.stored:
            text = text[record["_start"] : record["_end"]]
        return text if isinstance(text, str) and len(text) == record["_end"] - record["_start"] else None

    def _rebuilt(self, record: Mapping[str, Any]) -> Any:
        """The whole text of the record's row."""
        values = {name: record["id" if name == self._id else name] for name in self.made_of}
        source = self._corpus.text
        if not is_template(source):
            return values[source]
        texts, _ = fill_template(source, {k: [v] for k, v in values.items()}, 1, "no_text")
        return texts[0]
