"""Credentials and the corpus's text appear nowhere: not in what is printed, not in Ray's logs, not in errors, records,
caches or the table. The store in front of the runs answers as S3 does, which quotes access key and session token."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import boto3
import pyarrow as pa
import pytest
import yaml

from pipelines.engine.stage import Parcel, Stage, call
from pipelines.errors import ConfigError
from pipelines.job_file import parse_job
from pipelines.storage.faults import translate
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.jobs import job

ROOT = Path(__file__).parents[2]
ACCESS_KEY, SECRET_KEY, TOKEN = (
    "AKIAVECTORMILLSECRET",
    "hUsHhUsHvectormill/secretkey+40charsxxxx",
    "tOkEnOfVectormill0123==",
)
WORD = "xyzzyplugh"
HIDDEN = (ACCESS_KEY, SECRET_KEY, TOKEN, WORD)
ENVIRONMENT = {
    **os.environ,
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_SESSION_TOKEN": TOKEN,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Place:
    """A bucket with a corpus of good and bad rows, each with the word, a job over it, and all that a run leaves."""

    def __init__(self, folder, endpoint):
        self.folder = folder
        self.bucket = f"h-{uuid.uuid4().hex[:12]}"
        self.s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.s3.create_bucket(Bucket=self.bucket)
        good = [f'{{"doc_id": "d{n}", "text": "{WORD} {n}", "n": {n}}}\n'.encode() for n in range(60)]
        bad = [
            f'{{"doc_id": "broken", "text": "{WORD}\n'.encode(),
            f'{{"doc_id": "list", "text": ["{WORD}"], "n": 1}}\n'.encode(),
            f'{{"doc_id": "bytes", "text": "{WORD} '.encode() + b'\xff"}\n',
        ]
        self.s3.put_object(Bucket=self.bucket, Key="corpus/a.jsonl", Body=b"".join([*good, *bad]))

    def embed(self, proxy, engine):
        """Runs the command; (exit code, the last line on stderr)."""
        uri = f"s3://{self.bucket}"
        storage = {"endpoint_url": proxy.url, "region": "us-east-1"}
        config = job(self.folder, corpus={"uri": f"{uri}/corpus"}, table={"uri": f"{uri}/db"}, storage=storage)
        data = config.model_dump(mode="json", exclude_none=True)
        data["run"]["engine"] = engine
        (self.folder / "job.yaml").write_text(yaml.safe_dump(data))
        command = [sys.executable, "-m", "vectormill", "embed", str(self.folder / "job.yaml")]
        temporary = {"TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        done = subprocess.run(command, cwd=ROOT, env={**ENVIRONMENT, **temporary}, capture_output=True, check=False)
        name = f"output-{len(list(self.folder.iterdir()))}"
        (self.folder / name).write_bytes(done.stdout + done.stderr)
        return done.returncode, done.stderr.decode().strip().splitlines()[-1]

    def leaks(self):
        """Where something hidden is found: files of the run's folder (the output, the engine's log, Ray's session
        with the logs of its workers) and objects of the table's and the side folder."""
        places = {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        for item in self.s3.list_objects_v2(Bucket=self.bucket, Prefix="db/")["Contents"]:
            places[item["Key"]] = self.s3.get_object(Bucket=self.bucket, Key=item["Key"])["Body"].read()
        assert any(name.startswith("db/t.lance/data/") for name in places)
        assert any("/runs/" in name for name in places)
        return [(name, word) for name, content in places.items() for word in HIDDEN if word.encode() in content]


@pytest.fixture
def proxy(s3_endpoint):
    with FaultProxy(s3_endpoint) as proxy:
        yield proxy


def test_inline_runs_that_fail_and_pass(tmp_path, s3_endpoint, proxy):
    place = Place(tmp_path, s3_endpoint)
    for rule in (
        Rule("wrong-credentials", kinds={"get"}, key="corpus", skip=2),
        Rule("expired-credentials", kinds={"put"}, key="/data/", skip=1),
    ):
        proxy.rules = [rule]
        code, last = place.embed(proxy, "inline")
        assert code == 2, rule
        assert "credentials" in last or "refuses the request" in last, last
    proxy.rules = []
    code, last = place.embed(proxy, "inline")
    assert code == 0, last
    assert place.leaks() == []


@pytest.fixture
def short_path():
    """Ray's sockets lie below it, and their paths may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="r", ignore_cleanup_errors=True) as name:
        yield Path(name)


def test_a_ray_run_that_fails_in_its_workers(short_path, s3_endpoint, proxy):
    place = Place(short_path, s3_endpoint)
    proxy.rules = [Rule("expired-credentials", kinds={"put"}, key="/data/", skip=2)]
    code, last = place.embed(proxy, "ray")
    assert code == 2
    assert "credentials have expired" in last
    assert list(place.folder.rglob("worker-*.err")), "the logs of Ray's workers were looked at"
    assert place.leaks() == []


def test_an_answer_of_the_store_is_not_quoted():
    answer = f"<?xml version='1.0'?><Error><Code>Odd</Code><Token-0>{TOKEN}</Token-0></Error>"
    for text in (f"LanceError(IO): status: 418 {answer}, retry.rs", answer.partition("?>")[2]):
        assert TOKEN not in str(translate(OSError(text), "s3://b/x"))


def test_errors_of_a_stage_quote_no_values():
    def cast(parcels):
        pa.array([WORD]).cast(pa.int64())

    def look_up(parcels):
        {}[WORD]

    stage = Stage("write", lambda: cast)
    for function in (cast, look_up):
        (failed,) = call(stage, function, [Parcel((), pa.table({}))])
        assert failed.why.startswith("write: ")
        assert WORD not in failed.why


@pytest.mark.parametrize("field", ["corpus.uri", "table.uri", "storage.endpoint_url"])
def test_credentials_in_an_address_are_refused_and_not_repeated(tmp_path, field):
    data = job(tmp_path).model_dump(mode="json", exclude_none=True)
    section, name = field.split(".")
    data[section][name] = f"s3://{ACCESS_KEY}:{SECRET_KEY}@bucket/x"
    with pytest.raises(ConfigError, match=f"{field}: holds credentials") as bad:
        parse_job(data)
    assert ACCESS_KEY not in str(bad.value)
    assert SECRET_KEY not in str(bad.value)
