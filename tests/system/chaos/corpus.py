"""Generated files, and what each of their rows must become: worked out here, without the pipeline.

Every row has a number `n` of its own, never used again, also not by a later version of its file. So a record in the
table says which version of which file it came from, whatever the pipeline calls it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.embedder.embedder import Embedder
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from pipelines.tasks.chunking import passages

WORDS = "amber birch cedar delta ember fjord grove heath islet juniper kelp larch moss north oak pine".split()  # noqa: SIM905
FORMATS = ("parquet", "jsonl", "csv", "arrow", "jsonl.gz")
BAD_ROWS = {
    "parquet": ("no_id", "no_text", "empty_text"),
    "arrow": ("no_id", "no_text", "empty_text"),
    "jsonl": ("no_id", "no_text", "empty_text", "not_a_string", "undecodable"),
    "jsonl.gz": ("no_id", "no_text", "empty_text", "not_a_string", "undecodable"),
    "csv": ("no_id", "empty_text", "undecodable"),
}
SHARE_OF_BAD_ROWS = 0.06
SHARE_OF_SAME_IDS = 0.02
MAX_TOKENS, OVERLAP = 12, 3  # of a passage

_embedder = Embedder(ModelSpec("fake"))
_tokenizer = TextTokenizer(ModelSpec("fake"))
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Row:
    """A row as written: `defect` is what is wrong with it. n is None where it cannot be read."""

    n: int
    id: str | None
    text: str
    defect: str | None = None


@dataclass(frozen=True)
class Expected:
    """A record that must be in the table."""

    id: str
    n: str | None
    vector: bytes | None
    reason: str | None
    span: tuple[int, int]


@dataclass(frozen=True)
class FileVersion:
    """One file as it was at some time."""

    path: str
    format: str
    rows: Sequence[Row]
    chunked: bool

    @property
    def numbers(self) -> set[str]:
        return {str(row.n) for row in self.rows if row.defect != "undecodable"}

    @cached_property
    def records(self) -> dict[tuple[int, int], Expected]:
        """What must be in the table, by (row, chunk)."""
        texts: list[str] = []
        places: list[tuple[int, int, tuple[int, int]]] = []
        found = {}
        for at, row in enumerate(self.rows):
            if row.defect:
                unreadable = row.defect == "undecodable"
                own = f"{self.path}#{at}" if unreadable or row.id is None else row.id
                found[at, 0] = Expected(own, None if unreadable else str(row.n), None, row.defect, (0, 0))
                continue
            for chunk, span in enumerate(self._spans(row.text)):
                places.append((at, chunk, span))
                texts.append(row.text[slice(*span)])
        for (at, chunk, span), vector in zip(places, _vectors(texts), strict=True):
            row = self.rows[at]
            found[at, chunk] = Expected(str(row.id), str(row.n), vector.tobytes(), None, span)
        return found

    def _spans(self, text: str) -> list[tuple[int, int]]:
        if not self.chunked:
            return [(0, len(text))]
        return passages(text, _tokenizer.token_offsets(text), MAX_TOKENS - _tokenizer.special_tokens, OVERLAP)

    def content(self, chance: random.Random) -> bytes:
        return _WRITERS[self.format](self.rows, chance)


def _vectors(texts: list[str]) -> np.ndarray:
    """What an undisturbed run gives, from the model layer alone."""
    with _one_at_a_time:
        return _embedder.embed_documents(texts)


class Writer:
    """Makes rows; hands out numbers."""

    def __init__(self, chance: random.Random, format: str, chunked: bool):
        self._chance = chance
        self._format = format
        self._chunked = chunked
        self._next = 0
        self._files = 0

    def new_path(self) -> str:
        self._files += 1
        return f"part-{self._files:04d}.{self._format}"

    def file(self, path: str, rows: int, like: FileVersion | None = None) -> FileVersion:
        """A new file, or a new version of `like`: some of its ids again, with other texts and numbers."""
        made: list[Row] = []
        while len(made) < rows:
            n = self._next
            self._next += 1
            old = like.rows[len(made)] if like and len(made) < len(like.rows) else None
            name = old.id if old and old.id and not old.defect and self._chance.random() < 0.5 else f"d{n}"
            if made and made[-1].id and self._chance.random() < SHARE_OF_SAME_IDS:
                name = made[-1].id  # of the row before: both are embedded
            made.append(Row(n, name, self._text(n)))
            if len(made) < rows and self._chance.random() < SHARE_OF_BAD_ROWS:
                made.append(self._bad_row())
        return FileVersion(path, self._format, tuple(made), self._chunked)

    def _bad_row(self) -> Row:
        n = self._next
        self._next += 1
        defect = self._chance.choice(BAD_ROWS[self._format])
        return Row(n, None if defect == "no_id" else f"d{n}", self._text(n), defect)

    def _text(self, n: int) -> str:
        words = self._chance.randrange(1, 40 if self._chunked else 9)
        return " ".join([*self._chance.choices(WORDS, k=words), f"n{n}"])


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    texts = {"no_text": None, "empty_text": ""}
    return {
        "doc_id": [row.id for row in rows],
        "text": [texts.get(row.defect or "", row.text) for row in rows],
        "n": [row.n for row in rows],
    }


def _parquet(rows: Sequence[Row], chance: random.Random) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(_columns(rows)), sink, row_group_size=chance.choice((16, 50, 1000)))
    return sink.getvalue()


def _arrow(rows: Sequence[Row], chance: random.Random) -> bytes:
    sink = io.BytesIO()
    table = pa.table(_columns(rows))
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chance.choice((16, 50, 1000)))
    return sink.getvalue()


def _jsonl(rows: Sequence[Row], chance: random.Random) -> bytes:
    lines = []
    for row, values in zip(rows, zip(*_columns(rows).values(), strict=True), strict=True):
        record = dict(zip(("doc_id", "text", "n"), values, strict=True))
        if row.defect == "not_a_string":
            record["text"] = row.n
        line = json.dumps(record).encode()
        if row.defect == "undecodable":
            line = chance.choice((line[:-3], line.replace(b'"text": "', b'"text": "\xff'), b"no json"))
        lines.append(line + b"\n")
    return b"".join(lines)


def _csv(rows: Sequence[Row], chance: random.Random) -> bytes:
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(("doc_id", "text", "n"))
    for row, values in zip(rows, zip(*_columns(rows).values(), strict=True), strict=True):
        writer.writerow(("too", "few") if row.defect == "undecodable" else values)
    return sink.getvalue().encode()


_WRITERS = {
    "parquet": _parquet,
    "arrow": _arrow,
    "jsonl": _jsonl,
    "csv": _csv,
    "jsonl.gz": lambda rows, chance: gzip.compress(_jsonl(rows, chance)),
}
