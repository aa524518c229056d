"""What a scheduler branches on: the exit code of each kind of failure, and the object that says the same."""

import json
import os

import lance
import pyarrow as pa
import pytest

from actors import spec
from pipelines import errors
from pipelines.cli import app as cli
from pipelines.cli import output
from pipelines.engine import wire
from pipelines.engine.stage import Failed
from pipelines.storage import clients, retry
from pipelines.storage.faults import translate
from tests.support.buckets import Bucket
from tests.support.commands import call, object_of, refused, write_job
from tests.support.fault_proxy import FaultProxy, Rule
from tests.support.jobs import job, write_parquet

CODES = {
    1: "VectormillError CorpusChanged StorageError StoreUnavailable TableChanged EngineError Hung "
    "WeightsOutOfReach ReplicaBroken",
    2: "ConfigError CorpusError StorageRefused CredentialsRefused TableError FingerprintMismatch Incomplete "
    "OutputError ModelError DeviceOutOfMemory TooLarge",
    3: "Superseded",
}


def below(kind):
    return [kind, *(deeper for each in kind.__subclasses__() for deeper in below(each))]


def test_every_error_has_a_code_for_a_scheduler():
    kinds = [*below(errors.VectormillError), *below(spec.ModelError)]
    assert {kind.__name__: kind.exit_code for kind in kinds} == {
        name: code for code, names in CODES.items() for name in names.split()
    }


@pytest.mark.parametrize("base", [errors.VectormillError, spec.ModelError])
def test_an_error_of_a_worker_keeps_its_class(base):
    for kind in below(base):
        if kind.__name__ != "Hung":  # made of a number of seconds; never the end of a run on an engine of processes
            (got,) = wire.decode(wire.encode([Failed((), "why", fatal=kind)]))
            assert (got.fatal, str(got.fatal("why"))) == (kind, "why")


# ---------------------------------------------------------------------- on this machine


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("embed", ["--set", "corpus.uri=nowhere"], "there is nothing at"),
        ("plan", ["--set", "corpus.text=txt"], "has no column 'txt'"),
        ("embed", ["--set", "corpus.uri=ftp://host/x"], "only local paths and s3:// are supported"),
        ("embed", ["--set", "table.uri=gs://bucket/x"], "only local paths and s3:// are supported"),
        ("plan", ["--set", "corpus.uri=s3://"], "names no bucket"),
        ("embed", ["--set", "table.name=foreign"], "was not created by vectormill"),
        ("verify", ["--set", "table.name=none"], "there is no table at"),
        ("optimize", ["--set", "table.name=none"], "there is no table at"),
        ("status", ["--set", "table.name=none"], "there is no table at"),
        ("embed", ["--set", "model.weights=./none"], "there is no such folder"),
        ("embed", ["--set", "run.address=nohost"], "nohost"),
        ("embed", ["--set", "run.max_bad_rows=0"], "more than run.max_bad_rows"),
        ("rerank", [], "run it with `vectormill embed`"),
        ("evaluate", ["--beir", "nowhere"], "there is no folder"),
    ],
)
def test_what_a_person_must_mend_is_2(tmp_path, job_file, monkeypatch, command, options, words):
    monkeypatch.chdir(tmp_path)
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/db/foreign.lance")
    if "run.address=nohost" in options:
        options += ["--set", "run.engine=ray"]
    if "run.max_bad_rows=0" in options:
        table = pa.table({"doc_id": ["a", "b"], "text": ["x", ""], "n": [1, 2], "score": [0.5, 0.5]})
        pa.parquet.write_table(table, tmp_path / "corpus" / "part-0.parquet")
    refused(2, words, command, job_file, *options, "--json")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["embed"], "Missing argument 'JOB.YAML'"),
        (["embed", "x.yaml", "--bogus"], "No such option: --bogus"),
        (["verify", "x.yaml", "--sample", "many"], "should be a valid integer"),
        (["search", "x.yaml", "text", "-k", "0"], "greater than or equal to 1"),
        (["--bogus"], "No such option: --bogus"),
    ],
)
def test_a_wrong_call_is_an_object_too(arguments, words):
    result = call(*arguments, "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["code"], told["retry"]) == (2, 2, False)
    assert words in told["error"]
    assert call(*arguments).stdout == ""


def test_after_two_dashes_nothing_is_an_option():
    result = call("search", "--", "x.yaml", "--json")
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_changed_file_and_a_newer_run(job_file, monkeypatch):
    from pipelines.run import job as runs

    for error, code, again in [
        (errors.CorpusChanged("a changed while the run was going on"), 1, True),
        (errors.Superseded("superseded by run r"), 3, False),
        (errors.EngineError("cannot reach Ray"), 1, True),
        (spec.ReplicaBroken("cuda:0 failed"), 1, True),
        (errors.Stopped(1), 129, True),
        (errors.Stopped(15), 143, True),
        (KeyboardInterrupt(), 130, True),
        (OSError(28, os.strerror(28), "x"), 2, False),
        (OSError(24, os.strerror(24), "x"), 1, True),
    ]:
        monkeypatch.setattr(runs, "embed", lambda *_, error=error: (_ for _ in ()).throw(error))
        result = call("embed", job_file, "--json")
        told = json.loads(result.stdout)
        assert (result.exit_code, told["code"], told["retry"]) == (code, code, again)
        assert result.stderr.count("vectormill:") == 1


@pytest.mark.parametrize("error", [RuntimeError("a bug\nwith lines"), KeyError("a text of the corpus"), MemoryError()])
def test_what_nobody_foresaw_is_one_message_and_leaves_its_traceback(tmp_path, job_file, monkeypatch, error):
    from pipelines.run import job as runs

    monkeypatch.setattr(output.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(runs, "embed", lambda *_: (_ for _ in ()).throw(error))
    message = refused(1, type(error).__name__, "embed", job_file, "--json")
    assert "of the corpus" not in message
    (kept,) = tmp_path.glob("vectormill-traceback-*.log")
    assert "Traceback (most recent call last)" in kept.read_text()


def test_an_account_that_does_not_add_up_says_so_as_an_error_does(job_file, monkeypatch):
    from pipelines.tasks.embed import Tokenise

    def tokenise(self, table):
        raise RuntimeError("tokenizer trouble")

    monkeypatch.setattr(Tokenise, "__call__", tokenise)
    code, found = object_of("embed", job_file)
    assert (code, found["code"], found["retry"], found["adds_up"]) == (1, 1, True, False)
    assert "120 rows are missing" in found["error"]


def test_local_disks():
    for number, code in {13: 2, 1: 2, 20: 2, 28: 2, 30: 2, 36: 2, 122: 2, 5: 1, 24: 1, 110: 1, 116: 1}.items():
        assert translate(OSError(number, os.strerror(number)), "/data/x").exit_code == code, os.strerror(number)
    for said in ("Permission denied (os error 13)", "Read-only file system (os error 30)", "No space left on device"):
        assert translate(OSError(f"LanceError(IO): {said}"), "/data/t").exit_code == 2
    assert translate(OSError("something new"), "s3://b/x").exit_code == 1


def test_every_command_knows_json():
    without = {"schema"}  # its result is an object always
    for name, command in cli.typer.main.get_command(cli.app).commands.items():
        assert ("--json" in {option for one in command.params for option in one.opts}) == (name not in without)


# ---------------------------------------------------------------------- in a store


@pytest.fixture
def proxied(s3_endpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr(retry, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(clients, "ATTEMPTS", 1)
    monkeypatch.setattr(clients, "LANCE_RETRIES", 0)
    bucket = Bucket(s3_endpoint)
    write_parquet(tmp_path / "corpus")
    for path in (tmp_path / "corpus").iterdir():
        bucket.put(f"corpus/{path.name}", path.read_bytes())
    with FaultProxy(s3_endpoint) as proxy:
        where = {"endpoint_url": proxy.url, "region": "us-east-1"}
        table = {"uri": f"{bucket.uri}/db"}
        config = job(tmp_path, corpus={"uri": f"{bucket.uri}/corpus"}, table=table, storage=where)
        yield proxy, write_job(tmp_path / "s3.yaml", config)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ("access-denied", 2, "access is denied"),
        ("wrong-credentials", 2, "does not accept these credentials"),
        ("expired-credentials", 2, "have expired"),
        ("slow-down", 1, "asks for fewer requests"),
        ("500", 1, "failed inside"),
        ("drop", 1, ""),
    ],
)
def test_a_store_that_refuses_is_2_and_one_that_fails_is_1(proxied, fault, code, words):
    proxy, file = proxied
    for command, options in {"embed": (), "plan": (), "status": (), "search": ("alpha",)}.items():
        proxy.rules = [Rule(fault)]
        refused(code, words, command, file, *options, "--json")


def test_access_that_is_denied_to_some_requests_only(proxied):
    """In the middle of a look at the table that is not "removed", and nothing that nobody foresaw."""
    proxy, file = proxied
    assert call("embed", file, "--quiet").exit_code == 0
    for command, options in {"embed": (), "status": (), "search": ("alpha",)}.items():
        for kind, key in {"list": "", "get": "_versions", "head": "_versions"}.items():
            proxy.rules = [Rule("access-denied", kinds={kind}, key=key)]
            result = call(command, file, *options)
            if proxy.rules[0].fired:
                assert (result.exit_code, "access is denied" in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("override", "code", "words"),
    [
        ("table.uri=s3://no-such-bucket-at-all/db", 2, "there is no such bucket"),
        ("corpus.uri=s3://no-such-bucket-at-all/x", 2, "there is no such bucket"),
        ("storage.endpoint_url=http://127.0.0.1:9", 1, "no server answers"),
        ("storage.endpoint_url=http://no.such.host.invalid", 1, "the host name of the store's endpoint is unknown"),
    ],
)
def test_wrong_places(proxied, override, code, words):
    refused(code, words, "embed", proxied[1], "--set", override, "--json")
