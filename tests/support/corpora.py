"""Corpora read back as a run reads them, and rows in the formats of text."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import tempfile

import zstandard

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.inline import InlineExecutor
from pipelines.rows import row_schema
from pipelines.run.sizing import bundles, spans
from pipelines.units import cut


def corpus(uri: object, **fields: object) -> Corpus:
    return Corpus(CorpusConfig(uri=str(uri), **fields), StorageConfig())


def read(source: Corpus, rows_per_unit: int = 3) -> list[dict]:
    """All rows of a corpus, read as a run reads them: scanned, cut, packed, joined into spans, read span by span."""
    with tempfile.TemporaryDirectory() as side:
        shards = scan_all(source, side, source.storage, InlineExecutor().map)
    carried = source.carried(shards)
    source = pickle.loads(pickle.dumps(source))
    rows = []
    units = (unit for shard in shards for unit in cut(shard, rows_per_unit))
    for span in spans(bundles(units, rows_per_unit)):
        flat = [unit for bundle in span for unit in bundle]
        for path in dict.fromkeys(unit.path for unit in flat):
            mine = [unit for unit in flat if unit.path == path]
            tables = list(source.read(mine, carried))
            for unit, table in zip(mine, tables, strict=True):
                assert table.schema.equals(row_schema(carried, source.config))
                assert table["_unit"].to_pylist() == [unit.id] * unit.rows
                assert table["_row"].to_pylist() == list(range(unit.start, unit.stop))
                table.validate(full=True)
                rows.extend(table.to_pylist())
    return rows


def as_csv(rows: list[dict], newline: str = "\r\n", delimiter: str = ",") -> bytes:
    out = io.StringIO()
    quoting = csv.QUOTE_MINIMAL if newline == "\r\n" else csv.QUOTE_ALL  # else Python 3.11 leaves a lone \r unquoted
    writer = csv.DictWriter(out, list(rows[0]), lineterminator=newline, delimiter=delimiter, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_jsonl(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pack(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(content)
    return zstandard.ZstdCompressor().compress(content) if suffix == ".zst" else content
