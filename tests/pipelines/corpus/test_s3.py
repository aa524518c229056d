"""The same reading from an S3-compatible store, and its errors as a person sees them."""

from __future__ import annotations

import gzip
import io
from typing import Any

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, CorpusError, StorageError
from pipelines.storage import clients, conditional_put
from pipelines.storage.clients import lance_options
from pipelines.storage.conditional_put import check_conditional_put
from pipelines.storage.faults import translate
from pipelines.storage.files import read_json, write_json
from pipelines.units import cut
from tests.support.buckets import Bucket
from tests.support.corpora import as_jsonl, read

ROWS = [{"id": f"d{i}", "text": f"text {i}", "n": i} for i in range(10)]


@pytest.fixture
def bucket(s3_endpoint: str) -> Bucket:
    return Bucket(s3_endpoint)


def parquet(rows: list[dict], row_group_size: int = 4) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=row_group_size)
    return out.getvalue()


def pairs(rows: list[dict]) -> list[dict]:
    return [{name: row[name] for name in ("id", "text", "n")} for row in rows]


def test_parquet_and_jsonl_gz(bucket: Bucket) -> None:
    bucket.put("data/p/a b#ü%20.parquet", parquet(ROWS))
    bucket.put("data/p/_SUCCESS", b"")
    bucket.put("data/j/x/a.jsonl.gz", gzip.compress(as_jsonl(ROWS)))
    bucket.put("data/j/", b"")
    assert len(bucket.corpus(format="parquet").list()) == 1
    for path in ("data/p", "data/j/", "data/**/*.gz", "data/j/x/a.jsonl.gz"):
        source = bucket.corpus(path)
        (listing,) = source.list()
        assert listing.stamp.startswith("etag:")
        assert source.scan(listing).version == listing.stamp
        assert pairs(read(source)) == ROWS
    assert [listing.path for listing in bucket.corpus("data/**/*.gz").list()] == ["j/x/a.jsonl.gz"]
    assert [listing.path for listing in bucket.corpus("data/j/x/a.jsonl.gz").list()] == ["a.jsonl.gz"]


def test_plain_text_is_read_from_marks(bucket: Bucket) -> None:
    rows = [{"id": str(i), "text": "x" * 3000, "n": i} for i in range(1000)]
    bucket.put("a.jsonl", as_jsonl(rows))
    source = bucket.corpus("a.jsonl")
    shard = source.scan(source.list()[0])
    unit = list(cut(shard, 100))[-1]
    assert unit.seek[1] > 2**20
    (table,) = source.read([unit], source.carried([shard]))
    assert pairs(table.to_pylist()) == rows[900:]


def test_count_cache_and_changed_objects(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(70):
        bucket.put(f"in/{i:02d}.jsonl", as_jsonl(ROWS[:2]))
    source, side = bucket.corpus("in"), f"{bucket.uri}/t.vectormill"
    first = scan_all(source, side, bucket.storage, InlineExecutor().map)
    assert sum(shard.rows for shard in first) == 140
    unit, carried = next(cut(first[3], 10)), source.carried(first)
    bucket.put("in/03.jsonl", as_jsonl(ROWS[5:7]))
    with pytest.raises(CorpusError, match="changed while the run was going on"):
        list(source.read([unit], carried))
    scanned = []
    scan = Corpus.scan
    monkeypatch.setattr(Corpus, "scan", lambda self, listing: (scanned.append(listing.path), scan(self, listing))[1])
    scan_all(source, side, bucket.storage, InlineExecutor().map)
    assert scanned == ["03.jsonl"]


def test_lance_dataset(bucket: Bucket) -> None:
    table, options = pa.Table.from_pylist(ROWS), lance_options(bucket.storage)
    lance.write_dataset(table, f"{bucket.uri}/d.lance", max_rows_per_file=4, storage_options=options)
    assert pairs(read(bucket.corpus("d.lance"))) == ROWS


def test_side_files(bucket: Bucket) -> None:
    uri = f"{bucket.uri}/t.vectormill/run.json"
    assert read_json(uri, bucket.storage) is None
    write_json(uri, {"rows": 1}, bucket.storage)
    assert read_json(uri, bucket.storage) == {"rows": 1}


def test_nothing_there(bucket: Bucket) -> None:
    with pytest.raises(CorpusError, match=f"no data files below {bucket.uri}/nothing"):
        bucket.corpus("nothing").list()
    missing = Corpus(CorpusConfig(uri="s3://no-such-bucket-here/x"), bucket.storage)
    with pytest.raises(StorageError, match="there is no such bucket; check"):
        missing.list()
    with pytest.raises(ConfigError, match="names no bucket"):
        Corpus(CorpusConfig(uri="s3://"), bucket.storage).list()
    assert read_json("s3://no-such-bucket-here/x", bucket.storage) is None


def test_wrong_endpoints(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    for url, what in (("http://127.0.0.1:9", "no server answers"), ("http://no-such-host.invalid", "host name")):
        storage = StorageConfig(endpoint_url=url, region="us-east-1")
        with pytest.raises(StorageError, match=rf"s3://b/x: .*{what}.*{url}.*check storage.endpoint_url"):
            Corpus(CorpusConfig(uri="s3://b/x"), storage).list()
    with pytest.raises(StorageError, match="no server answers"):
        check_conditional_put("s3://b/x", StorageConfig(endpoint_url="http://127.0.0.1:9", region="us-east-1"))


def test_conditional_puts(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    check_conditional_put(f"{bucket.uri}/tables", bucket.storage)
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)
    call = clients.call_s3

    def ignoring(storage: StorageConfig, method: str, arguments: dict[str, Any]) -> dict[str, Any]:
        return call(storage, method, {k: v for k, v in arguments.items() if k != "IfNoneMatch"})

    monkeypatch.setattr(conditional_put, "call_s3", ignoring)
    with pytest.raises(StorageError, match=r"ignores conditional PUTs .* exactly-once cannot be kept"):
        check_conditional_put(f"{bucket.uri}/tables", bucket.storage)
    assert "Contents" not in bucket.client.list_objects_v2(Bucket=bucket.name)
    with pytest.raises(StorageError, match="there is no such bucket"):
        check_conditional_put("s3://no-such-bucket-here/tables", bucket.storage)


def test_no_credentials(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import NoCredentialsError

    assert "AWS_ACCESS_KEY_ID" in str(translate(NoCredentialsError(), "s3://b/x"))
    assert "s3:ListBucket" in str(translate(OSError("AWS Error ACCESS_DENIED during GetObject"), "s3://b/x"))
    assert "KeyError" in str(translate(KeyError("x"), "s3://b/x"))
