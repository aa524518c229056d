"""Whole jobs with corpus and table in a store that fails: in the end the table is that of an undisturbed run, or there
is one clear error and the same command goes on. The table is judged by reading it with lance alone, past the proxy."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import uuid

import boto3
import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.embedder.embedder import Embedder
from actors.spec import ModelSpec
from pipelines.corpus import shard_file as files
from pipelines.corpus.formats import jsonl
from pipelines.errors import Incomplete, StorageError, StoreUnavailable, VectormillError
from pipelines.run.job import embed
from pipelines.storage import clients, retry
from pipelines.table import contents
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.jobs import Said, job, run, text_of
from tests.support.simple_judge import judge

SHARDS, ROWS = 2, 40
RIGHT = {"lost": 0, "doubled": 0, "unknown": 0, "wrong": 0}


def numbers_of(shard):
    return range(shard * ROWS, (shard + 1) * ROWS)


def as_parquet(numbers, **columns):
    table = pa.table({"doc_id": [f"d{n}" for n in numbers], "text": [text_of(n) for n in numbers], **columns})
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=16)
    return out.getvalue()


class Store:
    """A bucket with a corpus in it, reached by the job through the proxy and by the test past it."""

    def __init__(self, proxy, endpoint):
        self.proxy = proxy
        self.bucket = f"s-{uuid.uuid4().hex[:12]}"
        self.direct = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.direct.create_bucket(Bucket=self.bucket)
        self.endpoint = endpoint

    def put(self, name, content):
        self.direct.put_object(Bucket=self.bucket, Key=f"corpus/{name}", Body=content)

    def put_corpus(self):
        for shard in range(SHARDS):
            self.put(f"part-{shard}.parquet", as_parquet(numbers_of(shard)))

    def job(self, tmp_path, **sections):
        uri = f"s3://{self.bucket}"
        corpus = {"uri": f"{uri}/corpus", "columns": [], **sections.pop("corpus", {})}
        where = {"endpoint_url": self.proxy.url, "region": "us-east-1"}
        return job(tmp_path, corpus=corpus, table={"uri": f"{uri}/db"}, storage=where, **sections)

    def verdict(self, numbers=range(SHARDS * ROWS)):
        """What is wrong with the table, by simple_judge.judge; RIGHT where nothing is."""
        numbers = list(numbers)
        vectors = Embedder(ModelSpec("fake")).embed_documents([text_of(n) for n in numbers])
        options = {"aws_endpoint": self.endpoint, "aws_region": "us-east-1", "allow_http": "true"}
        expected = {f"d{n}": vector for n, vector in zip(numbers, vectors, strict=True)}
        found = judge(f"s3://{self.bucket}/db/t.lance", expected, options)
        assert found.pop("rows") == len(numbers) or found != RIGHT
        return found


@pytest.fixture
def store(s3_endpoint):
    with FaultProxy(s3_endpoint, seed=4) as proxy:
        store = Store(proxy, s3_endpoint)
        store.put_corpus()
        yield store


@pytest.fixture
def libraries_try_once(monkeypatch):
    """So that every fault reaches what vectormill does about it."""
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    monkeypatch.setattr(clients, "LANCE_RETRIES", 0)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retry, "PAUSE_SECONDS_MAX", 0.1)


def retries(caplog):
    return [r.getMessage() for r in caplog.records if r.name == "vectormill.retries"]


# ---------------------------------------------------------------------- faults that pass

TRANSIENT = ("500", "slow-down", "drop", "lost-answer", "lost-answer-500")


@pytest.mark.parametrize(
    ("kind", "key", "first", "said"),
    [
        ("put", "", 1, "writing part-"),
        ("put-if-absent", "", 1, "committing"),
        ("list", "", 0, "listing"),
        ("get", "corpus/", 4, "reading part-"),
        ("get", "db/", 0, "looking for orphan files"),
        ("head", "", 6, "reading part-"),
    ],
)
def test_a_fault_that_passes_is_tried_again_and_named(
    store, tmp_path, caplog, libraries_try_once, kind, key, first, said
):
    """Twice in a row each, at different moments of the run."""
    store.proxy.rules = [
        Rule(fault, kinds={kind}, key=key, skip=first + n, times=2) for n, fault in enumerate(TRANSIENT)
    ]
    assert run(store.job(tmp_path, run={"rows_per_unit": 8})).adds_up
    assert store.proxy.injected == dict.fromkeys(TRANSIENT, 2)
    assert store.verdict() == RIGHT
    named = retries(caplog)
    assert [line for line in named if line.startswith(f"retry: {said}") and "attempt 1 of 10" in line], named


def test_faults_on_an_upload_in_parts(store, tmp_path, libraries_try_once):
    big = [os.urandom(150_000).hex() for _ in range(ROWS)]  # Lance packs hex digits to half; parts are of 5 MiB
    store.put("part-0.parquet", as_parquet(numbers_of(0), big=big))
    store.direct.delete_object(Bucket=store.bucket, Key="corpus/part-1.parquet")
    kinds = ("multipart-create", "multipart-part", "multipart-complete")
    found = ("500", "drop", "lost-answer")
    store.proxy.rules = [Rule(fault, kinds={kind}, times=1) for kind in kinds for fault in found]
    assert run(store.job(tmp_path, corpus={"columns": ["big"]}, run={"rows_per_unit": ROWS})).adds_up
    assert store.proxy.on == {(fault, kind): 1 for kind in kinds for fault in found}
    assert store.verdict(numbers_of(0)) == RIGHT


@pytest.mark.parametrize("kind", ["put", "put-if-absent", "get", "list"])
def test_a_request_without_an_answer(store, tmp_path, caplog, monkeypatch, libraries_try_once, kind):
    for name in ("SILENCE_SECONDS", "LANCE_REQUEST_SECONDS", "LANCE_RETRY_SECONDS"):
        monkeypatch.setattr(clients, name, 1)
    store.proxy.rules = [Rule("hang", kinds={kind}, skip=4, times=1, seconds=250)]
    assert run(store.job(tmp_path)).adds_up
    assert store.proxy.injected == {"hang": 1}
    assert store.verdict() == RIGHT


def test_a_storm_of_everything_with_the_libraries_as_they_are(store, tmp_path):
    store.proxy.rules = [Rule(fault, probability=0.05, seconds=0.2) for fault in (*TRANSIENT, "slow-read")]
    store.proxy.rules += [Rule("truncated-read", kinds={"get"}, probability=0.1)]
    assert run(store.job(tmp_path)).adds_up
    assert len(store.proxy.injected) == 7
    assert store.verdict() == RIGHT


def test_a_storm_over_the_workers_of_ray(store, tmp_path, executor, caplog):
    """More faults than the libraries bear, however the units share them; the driver's log names what workers did."""
    units = SHARDS * math.ceil(ROWS / 16)
    store.proxy.rules = [
        Rule("slow-down", kinds={"put"}, key="/data/", times=units * (clients.LANCE_RETRIES + 1)),
        Rule("truncated-read", kinds={"get"}, key="corpus/", skip=6, times=4),
        Rule("lost-answer", kinds={"put-if-absent"}, skip=2, times=4),
    ]
    config = store.job(tmp_path, run={"engine": "ray", "rows_per_unit": 16})
    assert run(config, executor).adds_up
    assert store.verdict() == RIGHT
    assert any("writing: the store asks for fewer requests" in line for line in retries(caplog)), retries(caplog)


def test_what_is_done_is_read_again_from_its_beginning(store, tmp_path, caplog, monkeypatch):
    """The stream breaks in the middle of the table: what the first attempt gave must not count twice."""
    config = store.job(tmp_path)
    before = run(config)
    whole, broken = contents.units, []

    def units(table, shards):
        for unit in whole(table, shards):
            yield unit
            if not broken:
                broken.append(unit)
                raise StoreUnavailable("the store asks for fewer requests (503)", "the store asks for fewer requests")

    monkeypatch.setattr(contents, "units", units)
    after = run(config)
    assert broken
    assert after.to_dict() == {**before.to_dict(), "table_version": after.table_version}
    assert [line for line in retries(caplog) if "reading what is done" in line], retries(caplog)


def test_sums_are_asked_for_again_when_the_answer_breaks(store, tmp_path, caplog, monkeypatch):
    config = store.job(tmp_path)
    before = run(config)
    ask, broken = lance.LanceDataset.sql, []

    def sql(dataset, query):
        if "_id_digest" in query and not broken:
            broken.append(query)
            raise OSError("LanceError(IO): Generic S3 error: Server returned 503 Service Unavailable: SlowDown")
        return ask(dataset, query)

    monkeypatch.setattr(lance.LanceDataset, "sql", sql)
    after = run(config)
    assert broken
    assert after.to_dict() == {**before.to_dict(), "table_version": after.table_version}
    assert [line for line in retries(caplog) if "reading the table" in line], retries(caplog)


# ---------------------------------------------------------------------- reads


def test_a_truncated_read_starts_again_from_the_unit(store, tmp_path, caplog, monkeypatch, libraries_try_once):
    """The stream breaks within a unit, after other units of the same pass came through and half of its own rows."""
    monkeypatch.setattr(files, "S3_READAHEAD_BYTES", 1 << 12)
    monkeypatch.setattr(files, "BLOCK_BYTES", 1 << 12)
    for shard in range(SHARDS):
        store.direct.delete_object(Bucket=store.bucket, Key=f"corpus/part-{shard}.parquet")
    records = [{"doc_id": f"d{n}", "text": text_of(n), "filler": "x" * 900} for n in range(SHARDS * ROWS)]
    store.put("a.jsonl", b"".join(json.dumps(record).encode() + b"\n" for record in records))
    read, real = [], jsonl.stretches

    def noted(*arguments):
        for row, found in real(*arguments):
            read.extend(range(row, row + len(found)))
            yield row, found

    monkeypatch.setattr(jsonl, "stretches", noted)
    store.proxy.rules = [
        Rule("truncated-read", kinds={"get"}, key="corpus/", skip=46 + 5 * n, times=1) for n in range(4)
    ]
    assert run(store.job(tmp_path)).adds_up
    assert store.proxy.injected == {"truncated-read": 4}
    assert store.verdict() == RIGHT
    again = [line for line in retries(caplog) if line.startswith("retry: reading a.jsonl rows")]
    assert len(again) >= 3
    assert all("the connection broke" in line for line in again)
    assert len(read) > len(set(read)), "rows that had come before the stream broke were read a second time"


@pytest.mark.parametrize("happens", ["changes", "vanishes"])
def test_a_shard_that_does_not_stay_as_planned(store, tmp_path, happens):
    """Between the plan and the read of its rows."""
    new = range(500, 500 + ROWS)

    def meddle(key):
        if happens == "changes":
            store.put("part-1.parquet", as_parquet(new))
        else:
            store.direct.delete_object(Bucket=store.bucket, Key="corpus/part-1.parquet")
        return False

    first_read = Rule("drop", kinds={"get"}, key="corpus/part-0", skip=3, when=meddle)
    store.proxy.rules = [first_read]
    certificate = run(store.job(tmp_path))
    assert first_read.seen > 3
    assert certificate.missing_rows == ROWS
    (broken,) = certificate.broken_files
    assert "part-1.parquet" in broken.file
    assert "while the run was going on" in broken.why
    store.proxy.rules = []
    assert run(store.job(tmp_path)).adds_up
    there = [*numbers_of(0), *(new if happens == "changes" else ())]
    assert store.verdict(there) == RIGHT


# ---------------------------------------------------------------------- faults that stay


@pytest.mark.parametrize(("kind", "status"), [("get", 400), ("head", 400), ("put", 403), ("put-if-absent", 400)])
def test_credentials_that_expire_in_the_middle(store, tmp_path, kind, status):
    """The run stops at once, with one message; with new credentials the same command goes on."""
    rule = Rule("expired-credentials", kinds={kind}, skip=6, status=status)
    store.proxy.rules = [rule]
    with pytest.raises(VectormillError, match=r"credentials have expired|refuses the request|access is denied") as bad:
        run(store.job(tmp_path))
    assert str(bad.value).count("\n") == 0
    assert rule.fired < 12, "not tried again and again"
    store.proxy.rules = []
    assert run(store.job(tmp_path)).adds_up
    assert store.verdict() == RIGHT


def test_a_store_that_does_not_come_back(store, tmp_path, monkeypatch, libraries_try_once):
    """One message, and an end: attempts are bounded wherever it happens."""
    monkeypatch.setattr(retry, "ATTEMPTS", 3)
    for fault, skip in (("drop", 0), ("slow-down", 9), ("drop", 45), ("slow-down", 60)):
        store.proxy.rules = [Rule(fault, skip=skip)]
        with pytest.raises(VectormillError) as bad:
            embed(store.job(tmp_path), Said())
        assert "given up" in str(bad.value) or skip == 0, bad.value
        assert "\n" not in str(bad.value)
        assert store.proxy.injected.pop(fault) < 60
    store.proxy.rules = []
    assert run(store.job(tmp_path)).adds_up
    assert store.verdict() == RIGHT


def test_a_store_that_ignores_if_none_match_is_refused(store, tmp_path):
    store.proxy.rules = [Rule("ignore-if-none-match")]
    with pytest.raises(StorageError, match=r"ignores conditional PUTs .*overwrite each other's commits") as bad:
        embed(store.job(tmp_path), Said())
    assert "\n" not in str(bad.value)
    left = store.direct.list_objects_v2(Bucket=store.bucket, Prefix="db").get("Contents", [])
    assert left == [], "nothing was written, nothing is left"
    store.proxy.rules = [Rule("lost-answer", kinds={"put-if-absent"}, times=2)]  # of a good store: no reason to refuse
    assert embed(store.job(tmp_path), Said()).adds_up


# ---------------------------------------------------------------------- commits


def test_lost_answers_to_commits_and_to_the_look_after_them(store, tmp_path, libraries_try_once):
    """Lance cannot tell whether its manifest landed; the fence and the transactions since can."""
    store.proxy.rules = [
        Rule("lost-answer", kinds={"put-if-absent"}, key=r"_versions/", probability=0.5),
        Rule("500", kinds={"get", "head"}, key=r"_versions/", probability=0.2),
    ]
    certificate = run(store.job(tmp_path))
    assert certificate.adds_up
    assert store.proxy.injected["lost-answer"] >= 2
    assert store.verdict() == RIGHT


# ---------------------------------------------------------------------- a disk


def test_a_disk_that_really_fills(tmp_path):
    """No room for the table; with more room the same command goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        (tmp_path / "corpus").mkdir()
        (tmp_path / "corpus" / "part-0.parquet").write_bytes(as_parquet(range(1500)))
        config = job(tmp_path, corpus={"columns": []}, table={"uri": str(disk)}, run={"rows_per_unit": 50})
        with pytest.raises((VectormillError, Incomplete), match=r"No space left on device|the disk is full") as bad:
            embed(config, Said())
        assert "\n" not in str(bad.value)
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert embed(config, Said()).adds_up
        vectors = Embedder(ModelSpec("fake")).embed_documents([text_of(n) for n in range(1500)])
        found = judge(config.table.location, {f"d{n}": vector for n, vector in enumerate(vectors)})
        assert found == {"rows": 1500, **RIGHT}
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
