"""What is held of a corpus is counted in bytes, whatever its rows weigh: each file here is small, and its rows come to
gigabytes once decoded."""

import gzip
import json

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.errors import TooLarge
from pipelines.tasks.read import reader
from pipelines.units import Unit, cut
from tests.support.peak import peak_mib

ROWS, LONG = 20_000, "x" * 100_000  # 2 GB


def shared(values):
    """One value for all rows, stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * ROWS, pa.int32()), values)


def write_table(path, kind):
    columns = {
        "doc_id": [f"d{n}" for n in range(ROWS)],
        "text": [f"text {n}" for n in range(ROWS)],
        "long": shared(pa.array([LONG])),
    }
    table = pa.table(columns)
    if kind == "parquet":
        pq.write_table(table, path / "a.parquet", store_schema=False)
    elif kind == "parquet lists":
        places = pa.array(range(0, 2 * ROWS + 1, 2), pa.int32())
        lists = pa.ListArray.from_arrays(places, pa.concat_arrays([columns["long"]] * 2))
        pq.write_table(table.set_column(2, "long", lists), path / "a.parquet", store_schema=False)
    elif kind == "parquet numbers":
        lists = pa.FixedSizeListArray.from_arrays(pa.array([0.0] * (1000 * ROWS)), 1000)
        pq.write_table(table.set_column(2, "long", lists), path / "a.parquet", store_schema=False)
    elif kind == "arrow":
        with pa.ipc.new_file(str(path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
    else:
        plain = table.schema.set(2, pa.field("long", pa.string()))
        batches = (batch.cast(plain) for batch in table.to_batches(max_chunksize=500))
        lance.write_dataset(pa.RecordBatchReader.from_batches(plain, batches), str(path / "a.lance"))


def read_one_unit(uri):
    source = Corpus(CorpusConfig(uri=uri, id="doc_id", columns=("long",)), StorageConfig())
    shard = source.scan(source.list()[0])
    carried = source.carried([shard])
    (rows,) = source.read([Unit(shard.id, shard.path, 9000, 9050, shard.size, shard.stamp)], carried)
    assert rows["id"].to_pylist() == [f"d{n}" for n in range(9000, 9050)]
    assert len(rows["long"][0].as_py()) in (100_000, 1000, 2)


@pytest.mark.parametrize("kind", ["parquet", "parquet lists", "parquet numbers", "arrow", "lance"])
def test_values_that_many_rows_share_are_not_decoded_all_at_once(kind, tmp_path):
    write_table(tmp_path, kind)
    assert peak_mib(read_one_unit, str(tmp_path / "a.lance" if kind == "lance" else tmp_path)) < 400


def carried_types(uri):
    source = Corpus(CorpusConfig(uri=uri, id="doc_id", columns=("n", "long")), StorageConfig())
    assert source.carried(source.list()) == pa.schema([("n", pa.int64()), ("long", pa.string())])


def test_types_of_long_json_rows_are_guessed_from_few_of_them(tmp_path):
    with gzip.open(tmp_path / "a.jsonl.gz", "wb", 1) as stream:
        for n in range(60):
            stream.write(json.dumps({"doc_id": f"d{n}", "text": "t", "n": n, "long": "x" * (4 << 20)}).encode() + b"\n")
    assert peak_mib(carried_types, str(tmp_path)) < 120


def test_a_unit_of_many_bytes_is_given_back_to_be_cut(tmp_path, monkeypatch):
    write_table(tmp_path, "parquet")
    monkeypatch.setattr("pipelines.corpus.reading.UNIT_BYTES_MOST", 4 << 20)
    source = Corpus(CorpusConfig(uri=str(tmp_path), id="doc_id", columns=("long",)), StorageConfig())
    shard = source.scan(source.list()[0])
    carried = source.carried([shard])
    units = list(cut(shard, 100))[:3]
    with pytest.raises(TooLarge, match="rows 0 to 100: more than 4 MiB"):
        list(source.read(units, carried))
    came = list(reader(source, carried)(tuple((unit,) for unit in units)))
    assert [(one.bundle, one.too_large, one.fatal) for one in came] == [((unit,), True, None) for unit in units]
    (row,) = source.read([Unit(shard.id, shard.path, 7, 8, shard.size, shard.stamp)], carried)
    assert row["id"].to_pylist() == ["d7"], "a row is never cut"


def test_a_bundle_of_files_that_unpack_to_much_travels_in_parts(tmp_path, monkeypatch):
    for n in range(8):
        (tmp_path / f"{n}.txt.gz").write_bytes(gzip.compress(b"a " * 500_000))
    monkeypatch.setattr("pipelines.tasks.read.PARCEL_BYTES", 2_500_000)
    source = Corpus(CorpusConfig(uri=str(tmp_path), text_rows="file"), StorageConfig())
    bundle = tuple(unit for listing in source.list() for unit in cut(source.scan(listing), 1000))
    came = list(reader(source, pa.schema([]))((bundle,)))
    assert [len(one.bundle) for one in came] == [3, 3, 2]
    assert tuple(unit for one in came for unit in one.bundle) == bundle
