"""How often a file is read for the units that are cut from it: bytes counted where the file system gives them."""

import random

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus import shard_file
from pipelines.corpus.corpus import Corpus
from pipelines.run import sizing
from pipelines.table.checkpoint import pending
from pipelines.tasks.read import reader
from tests.support.counted_reads import CountedReads
from tests.support.jobs import write_jsonl

ROWS = 8_000


def table(rows=ROWS):
    chance = random.Random(7)
    texts = ["".join(chance.choices("abcdefghij ", k=chance.randrange(50, 400))) for _ in range(rows)]
    return pa.table({"doc_id": [f"d{n}" for n in range(rows)], "text": texts, "n": list(range(rows))})


def parquet(rows_per_group):
    def write(path):
        pq.write_table(table(), path / "a.parquet", row_group_size=rows_per_group)

    return write


def arrow(rows_per_batch, opened):
    def write(path):
        with opened(str(path / "a.arrow"), table().schema) as writer:
            writer.write_table(table(), max_chunksize=rows_per_batch)

    return write


def jsonl(path):
    write_jsonl(path / "a.jsonl", table().to_pylist())


def csv(path):
    pacsv.write_csv(table(), path / "a.csv")


def read_all(source, carried, units, rows_per_unit):
    """Rows that came, in order."""
    read = reader(source, carried)
    packed = sizing.bundles(units, rows_per_unit)
    return [n for span in sizing.spans(packed) for one in read(span) for n in one.rows["_row"].to_pylist()]


@pytest.mark.parametrize("rows_per_unit", [20, 500, ROWS])
@pytest.mark.parametrize(
    "write",
    [
        *(parquet(rows) for rows in (1 << 20, 4_000, 1_000, 37)),
        *(arrow(rows, opened) for rows in (8_000, 1_000, 50) for opened in (pa.ipc.new_file, pa.ipc.new_stream)),
        jsonl,
        csv,
    ],
    ids=[
        *(f"parquet-{rows}" for rows in ("one group", 4000, 1000, 37)),
        *(f"arrow-{rows}-{kind}" for rows in (8000, 1000, 50) for kind in ("file", "stream")),
        *("jsonl", "csv"),
    ],
)
@pytest.mark.parametrize("span_bytes", [sizing.SPAN_BYTES, 200_000])
def test_a_file_is_read_at_most_twice(write, rows_per_unit, span_bytes, tmp_path, monkeypatch):
    """Whole, and what an interrupted run left of it: every other unit, in which nothing is read of what is done but
    what lies before it in the same row group."""
    write(tmp_path)
    monkeypatch.setattr(sizing, "SPAN_BYTES", span_bytes)
    monkeypatch.setattr(shard_file, "BLOCK_BYTES", 16 << 10)
    monkeypatch.setattr("pipelines.corpus.formats.parquet.BUFFER_BYTES", 16 << 10)
    source = Corpus(CorpusConfig(uri=str(tmp_path), id="doc_id", columns=("n",)), StorageConfig())
    (shard,) = map(source.scan, source.list())
    carried = source.carried([shard])
    counted = CountedReads(monkeypatch)
    assert read_all(source, carried, pending([shard], {}, rows_per_unit), rows_per_unit) == list(range(ROWS))
    assert counted.bytes <= 2 * shard.size
    counted.bytes = 0
    units = list(pending([shard], {}, rows_per_unit))
    left = pending([shard], {shard.id: [(unit.start, unit.stop) for unit in units[::2]]}, rows_per_unit)
    assert read_all(source, carried, left, rows_per_unit) == [n for u in units[1::2] for n in range(u.start, u.stop)]
    assert counted.bytes <= 2 * shard.size


def test_other_unit_sizes_leave_holes_that_one_pass_fills(tmp_path, monkeypatch):
    """Small holes of one row group travel in bundles of many units: each of these is no pass of its own."""
    parquet(1 << 20)(tmp_path)
    source = Corpus(CorpusConfig(uri=str(tmp_path), id="doc_id"), StorageConfig())
    (shard,) = map(source.scan, source.list())
    done = {shard.id: [(start, start + 10) for start in range(0, ROWS, 20)]}
    counted = CountedReads(monkeypatch)
    assert len(read_all(source, pa.schema([]), pending([shard], done, 100), 100)) == ROWS // 2
    assert counted.bytes <= 2 * shard.size
