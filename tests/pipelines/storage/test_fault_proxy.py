"""The fault proxy does what its rules say, and nothing to what they leave alone."""

from __future__ import annotations

import time
import uuid

import boto3
import lance
import pyarrow as pa
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError, HTTPClientError, ReadTimeoutError

from pipelines.config import StorageConfig
from pipelines.storage.clients import filesystem_for, lance_options
from tests.support.fault_proxy import FaultProxy, Rule

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def proxy(s3_endpoint):
    with FaultProxy(s3_endpoint, seed=1) as proxy:
        yield proxy


@pytest.fixture
def s3(proxy):
    """A client that tries once, through the proxy."""
    settings = Config(retries={"total_max_attempts": 1}, read_timeout=1, s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=proxy.url, region_name="us-east-1", config=settings)
    name = f"f-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    client.put_object(Bucket=name, Key="a b/ü.bin", Body=CONTENT)
    client.meta.events.register("before-parameter-build.s3", lambda params, **_: params.setdefault("Bucket", name))
    return client


def has(s3, key):
    return key in [item["Key"] for item in s3.list_objects_v2().get("Contents", [])]


def test_without_rules_every_client_works_through_it(proxy, s3, tmp_path):
    assert s3.get_object(Key="a b/ü.bin")["Body"].read() == CONTENT
    assert s3.head_object(Key="a b/ü.bin")["ContentLength"] == len(CONTENT)
    storage = StorageConfig(endpoint_url=proxy.url, region="us-east-1")
    bucket = s3.list_objects_v2()["Name"]
    files, root = filesystem_for(f"s3://{bucket}", storage)
    big = bytes(6 << 20)
    with files.open_output_stream(f"{root}/big") as stream:
        stream.write(big)
        stream.write(big)
    with files.open_input_file(f"{root}/big") as stream:
        assert stream.read_at(5, 100) == bytes(5)
        assert stream.size() == 2 * len(big)
    rows = pa.table({"n": range(100)})
    written = lance.write_dataset(rows, f"s3://{bucket}/t.lance", storage_options=lance_options(storage))
    assert written.to_table() == rows
    assert proxy.requests.keys() >= {"put", "put-if-absent", "list", "get", "head", "multipart-part"}
    assert not proxy.injected


@pytest.mark.parametrize(
    ("fault", "error", "reaches_the_store"),
    [
        ("500", ClientError, False),
        ("slow-down", ClientError, False),
        ("expired-credentials", ClientError, False),
        ("drop", ConnectionClosedError, False),
        ("hang", (ReadTimeoutError, ConnectionClosedError), False),
        ("lost-answer", ConnectionClosedError, True),
        ("lost-answer-500", ClientError, True),
    ],
)
def test_faults_on_a_put(proxy, s3, fault, error, reaches_the_store):
    proxy.rules = [Rule(fault, kinds={"put"}, key="x$", seconds=3)]
    with pytest.raises(error) as caught:
        s3.put_object(Key="x", Body=b"1")
    if fault == "slow-down":
        assert caught.value.response["Error"]["Code"] == "SlowDown"
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    if fault == "expired-credentials":
        assert caught.value.response["Error"]["Code"] == "ExpiredToken"
    proxy.rules = []
    assert has(s3, "x") == reaches_the_store
    assert proxy.injected == {fault: 1}
    assert proxy.on == {(fault, "put"): 1}


def test_faults_on_a_read(proxy, s3):
    proxy.rules = [Rule("truncated-read", kinds={"get"}, times=1), Rule("slow-read", kinds={"get"}, seconds=0.5)]
    with pytest.raises((HTTPClientError, OSError)):
        s3.get_object(Key="a b/ü.bin")["Body"].read()
    started = time.monotonic()
    assert s3.get_object(Key="a b/ü.bin")["Body"].read() == CONTENT
    assert time.monotonic() - started >= 0.4
    assert proxy.injected == {"truncated-read": 1, "slow-read": 1}


def test_a_store_that_ignores_if_none_match(proxy, s3):
    with pytest.raises(ClientError, match="PreconditionFailed"):
        s3.put_object(Key="a b/ü.bin", Body=b"2", IfNoneMatch="*")
    proxy.rules = [Rule("ignore-if-none-match", kinds={"put-if-absent"})]
    s3.put_object(Key="a b/ü.bin", Body=b"2", IfNoneMatch="*")
    assert s3.get_object(Key="a b/ü.bin")["Body"].read() == b"2"


def test_when_a_rule_fires(proxy):
    """By count, by key and kind, and by the seed: the same requests meet the same fate."""
    counted = Rule("500", kinds={"get"}, key="^b/x", skip=2, times=2)
    proxy.rules = [counted]
    assert [proxy.fate("get", "b/x") is counted for _ in range(6)] == [False, False, True, True, False, False]
    assert proxy.fate("put", "b/x") is None
    assert proxy.fate("get", "c/b/x") is None

    def fates(seed):
        proxy.seed, proxy.rules = seed, [Rule("500", probability=0.5)]
        return [proxy.fate("get", "b/x") is not None for _ in range(200)]

    assert fates(7) == fates(7) != fates(8)
    assert 60 < sum(fates(7)) < 140
    with pytest.raises(AssertionError, match="none of"):
        Rule("no-such-fault")
