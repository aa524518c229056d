"""Trying again: what for, how often, how long, and what is said; and what the client libraries do by themselves."""

from __future__ import annotations

import logging
import pickle
import uuid

import boto3
import lance
import pyarrow as pa
import pytest

from pipelines.config import StorageConfig
from pipelines.errors import CorpusError, CredentialsRefused, StorageError, StoreUnavailable
from pipelines.storage import clients, retry
from pipelines.storage import files as storage
from pipelines.storage.faults import translate
from pipelines.storage.retry import Backoff, with_backoff
from tests.support.fault_proxy import FaultProxy, Rule

BUSY = OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.")
REFUSED = OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Couldn't connect to server")


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        self.slept = []
        monkeypatch.setattr("pipelines.storage.retry.time.monotonic", lambda: self.now)
        monkeypatch.setattr("pipelines.storage.retry.time.sleep", self.sleep)

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def failing(error, times, calls):
    def call():
        calls.append(1)
        if len(calls) <= times:
            raise error
        return "done"

    return call


def test_a_retry_says_what_where_which_attempt_and_why(clock, caplog):
    calls = []
    assert with_backoff("writing a.parquet rows 0 to 16", "s3://b/t.lance", failing(BUSY, 2, calls)) == "done"
    assert len(calls) == 3
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert lines[1].startswith(
        "retry: writing a.parquet rows 0 to 16: the store asks for fewer requests (503), attempt 2 of 10; the next in "
    )
    assert len(lines) == 2


def test_pauses_grow_are_jittered_and_bounded(clock):
    calls = []
    with pytest.raises(StoreUnavailable, match=r"s3://b/t: the store asks .* \(given up: writing, attempt 10, \d+ s"):
        with_backoff("writing", "s3://b/t", failing(BUSY, 10**6, calls))
    assert len(calls) == retry.ATTEMPTS
    full = [min(retry.PAUSE_SECONDS * 2**n, retry.PAUSE_SECONDS_MAX) for n in range(retry.ATTEMPTS - 1)]
    assert all(most / 2 <= slept <= most for slept, most in zip(clock.slept, full, strict=True))
    assert clock.slept != full
    assert sum(full) < retry.PATIENCE_SECONDS


def test_slow_attempts_are_bounded_by_time(clock):
    calls = []

    def silent():
        calls.append(1)
        clock.now += 100
        raise OSError("curlCode: 28, Timeout was reached")

    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        with_backoff("reading", "s3://b/t", silent)
    assert len(calls) == 3


def test_what_will_not_pass_is_not_tried_again(clock):
    for error, kind in (
        (OSError("ExpiredToken: The provided token has expired"), CredentialsRefused),
        (OSError("AWS Error ACCESS_DENIED during GetObject"), StorageError),
        (OSError("No space left on device (os error 28)"), StorageError),
        (FileNotFoundError("b/x"), CorpusError),
    ):
        calls = []
        with pytest.raises(kind):
            with_backoff("reading", "s3://b/x", failing(error, 9, calls))
        assert len(calls) == 1


def test_a_server_never_reached_is_not_waited_for(clock):
    calls = []
    with pytest.raises(StoreUnavailable, match="no server answers"):
        with_backoff("listing", "s3://b/x", failing(REFUSED, 9, calls), first_contact=True)
    assert len(calls) == 1
    assert with_backoff("listing", "s3://b/x", failing(REFUSED, 2, []), first_contact=False) == "done"


def test_names_of_files_are_no_causes():
    for uri in ("s3://b/Timeout/SlowDown", "folder/Timeout"):
        assert isinstance(translate(FileNotFoundError(f"{uri.removeprefix('s3://')}: not there"), uri), CorpusError)
    lance_error = "Generic S3 error: Error performing GET http://h/b/Timeout/x, retry_timeout: 60s - something new"
    assert not isinstance(translate(OSError(lance_error), "s3://b/Timeout"), StoreUnavailable)


def test_errors_travel_between_processes():
    error = StoreUnavailable("s3://b/x: the connection broke", "the connection broke")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.fault) == (str(error), error.fault)


def test_counts_what_was_tried_again(clock):
    attempts = Backoff("writing", "s3://b/t")
    attempts.run(failing(BUSY, 3, []))
    assert attempts.tried_again == {"the store asks for fewer requests (503)": 3}


# ---------------------------------------------------------------------- the libraries


@pytest.fixture
def proxy(s3_endpoint):
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


def test_the_libraries_own_retries_have_the_bounds_that_we_set(proxy, s3_endpoint, monkeypatch):
    """So that attempts are not multiplied by layers that nobody knows of."""
    monkeypatch.setattr(clients, "LANCE_RETRIES", 3)
    where = StorageConfig(endpoint_url=proxy.url, region="us-east-1")
    bucket = f"l-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    options = clients.lance_options(where)
    uri = f"s3://{bucket}"

    proxy.rules = [Rule("500", kinds={"put"})]
    with pytest.raises(OSError, match="500"):
        lance.write_dataset(pa.table({"n": [1]}), f"{uri}/t.lance", storage_options=options)
    assert proxy.on.pop(("500", "put")) == 4

    proxy.rules = [Rule("500", kinds={"get"})]
    files, path = clients.filesystem_for(f"{uri}/x", where)
    direct = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
    direct.put_object(Bucket=bucket, Key="x", Body=bytes(1000))
    with files.open_input_file(path) as stream:
        with pytest.raises(OSError, match="INTERNAL_FAILURE"):
            stream.read()
        assert proxy.on.pop(("500", "get")) == clients.ATTEMPTS
        # The answer's text does not fit the room for 5 bytes, which pyarrow takes for a failure of its own: no retry.
        with pytest.raises(OSError, match="INTERNAL_FAILURE") as bad:
            stream.read_at(5, 0)
        assert proxy.on.pop(("500", "get")) == 1
        assert isinstance(translate(bad.value, f"{uri}/x"), StoreUnavailable)

    proxy.rules = [Rule("500", kinds={"head"})]
    with pytest.raises(StoreUnavailable, match="failed inside"):
        storage.head(f"{uri}/x", where)
    assert proxy.on.pop(("500", "head")) == clients.ATTEMPTS


def test_the_libraries_do_not_wait_for_ever(proxy, s3_endpoint, monkeypatch):
    monkeypatch.setattr(clients, "LANCE_REQUEST_SECONDS", 1)
    monkeypatch.setattr(clients, "LANCE_RETRY_SECONDS", 1)
    monkeypatch.setattr(clients, "SILENCE_SECONDS", 1)
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    where = StorageConfig(endpoint_url=proxy.url, region="us-east-1")
    proxy.rules = [Rule("hang", seconds=250)]  # longer than a test may take
    with pytest.raises(StoreUnavailable, match="did not answer in time"):
        storage.head("s3://nowhere/x", where)
    files, path = clients.filesystem_for("s3://nowhere/x", where)
    with pytest.raises(OSError, match="curlCode: 28"):
        files.open_input_file(path)
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket="nowhere")
    proxy.rules = [Rule("hang", kinds={"put"}, seconds=250)]
    options = clients.lance_options(where)
    with pytest.raises(OSError, match="error sending request"):
        lance.write_dataset(pa.table({"n": [1]}), "s3://nowhere/t.lance", storage_options=options)
