"""The command line as a user or a script meets it: exit codes, what goes to stdout, what to stderr, and the words."""

import errno
import json
import os
import subprocess
import sys
import time
from importlib.metadata import entry_points
from pathlib import Path

import lance
import pyarrow as pa
import pytest
import typer

from pipelines.cli import app as cli
from tests.support.commands import call, refused
from tests.support.jobs import write_jsonl

ROOT = Path(__file__).parents[3]
COMMANDS = typer.main.get_command(cli.app).commands


# ---------------------------------------------------------------------- the call itself


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name):
    result = call(name, "--help")
    assert result.exit_code == 0
    assert f"Example: vectormill {name}" in " ".join(result.stdout.split())


def test_version_and_schema():
    assert call("--version").stdout.startswith("vectormill 0.")
    assert json.loads(call("schema").stdout)["properties"].keys() >= {"corpus", "model", "table", "run"}


def test_console_script_and_module_are_the_same():
    (script,) = entry_points(group="console_scripts", name="vectormill")
    assert script.value == "vectormill.__main__:main"
    commands = [[str(Path(sys.executable).parent / "vectormill")], [sys.executable, "-m", "vectormill"]]
    told = [subprocess.run([*c, "--help"], cwd=ROOT, capture_output=True, text=True, check=True) for c in commands]
    first, *others = told[0].stdout.splitlines()
    assert first == "Usage: vectormill [OPTIONS] COMMAND [ARGS]..."
    assert others == told[1].stdout.splitlines()[1:]
    assert "embed" in told[0].stdout
    assert told[0].stderr == told[1].stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["embed"], "Missing argument 'JOB.YAML'"),
        (["embed", "x.yaml", "--bogus"], "No such option: --bogus"),
        (["search"], "Missing argument 'TABLE'"),
        (["search", "x.yaml", "text", "-k", "0"], "--limit' / '-k': Input should be greater than or equal to 1"),
        (["verify", "x.yaml", "--sample", "many"], "'--sample': Input should be a valid integer"),
    ],
)
def test_wrong_calls(arguments, words):
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.replcas=4", "run.replcas: unknown key; did you mean 'replicas'?"),
        ("runn.replicas=4", "runn: unknown key; did you mean 'run'?"),
        ("run.replicas=none", "run.replicas"),
        ("run.replicas=0", "must be at least 1, or auto"),
        ("run.engine=spark", "'ray' or 'inline'"),
        ("run.replicas", "write it as section.field=value"),
        ("run.replicas=[", "the value is not valid YAML"),
        ("corpus.uri.x=1", "uri is not a section"),
        ("corpus.text='{a.b}'", "plain column names"),
        ("corpus.columns=[vector]", "belong to the table itself"),
        ("chunking.max_tokens=600", "chunking.max_tokens is 600 but the model takes 512 tokens"),
    ],
)
def test_wrong_fields(job_file, override, words):
    for command in ("embed", "plan"):
        refused(2, words, command, job_file, "--set", override, "--json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"corpus: [", "is not valid YAML"),
        (b"- corpus", "must hold the sections corpus, model, table ...; it holds list"),
        (b"", "must hold the sections"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"corpus: {uri: x}\n", "table: is required"),
        (b"corpus: {uri: x}\ntable: {uri: y, name: a/b}\n", "table.name"),
    ],
)
def test_wrong_job_files(tmp_path, content, words):
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    for command in ("embed", "plan", "verify", "status", "optimize"):
        refused(2, words, command, str(path))
    refused(2, words, "search", str(path), "text")


def test_job_file_that_is_not_there(tmp_path):
    refused(2, "cannot read the job file", "embed", str(tmp_path / "nope.yaml"))
    refused(2, "cannot read the job file", "embed", str(tmp_path))


@pytest.mark.parametrize("target", ["s3://", "s3://bucket", "s3:", "/", ".lance"])
def test_targets_that_name_no_table(target):
    refused(2, "names no table; write FOLDER/NAME", "status", target)


def test_overrides_need_a_job_file():
    refused(2, "--set goes with a job file", "status", "db/t", "--set", "run.replicas=2")


# ---------------------------------------------------------------------- mistakes that only running shows


def test_wrong_corpora(tmp_path, job_file):
    empty, garbage, text = tmp_path / "empty", tmp_path / "garbage", tmp_path / "text"
    empty.mkdir()
    garbage.mkdir()
    (garbage / "a.parquet").write_bytes(b"this is no parquet file, whatever its name says")
    write_jsonl(text / "a.jsonl", [])
    for override, words in [
        ("corpus.id=docid", "part-0.parquet has no column 'docid' (the id column); did you mean 'doc_id'?"),
        ("corpus.text=txt", "did you mean 'text'?"),
        ("corpus.columns=[m]", "has no column 'm'"),
        (f"corpus.uri={tmp_path}/nowhere", "there is nothing at"),
        (f"corpus.uri={empty}", "empty"),
        (f"corpus.uri={garbage}", "a.parquet"),
        ("corpus.uri=ftp://host/x", "only local paths and s3:// are supported"),
    ]:
        refused(2, words, "embed", job_file, "--set", override, "--json")
    assert not (tmp_path / "db" / "t.lance").exists(), "nothing was begun"


def test_corpus_without_rows_is_no_success_in_disguise(tmp_path, job_file):
    write_jsonl(tmp_path / "text" / "a.jsonl", [])
    result = call("embed", job_file, "--set", f"corpus.uri={tmp_path}/text", "--set", "corpus.columns=[]", "--json")
    assert result.exit_code == 2 or json.loads(result.stdout)["rows"] == 0


def test_weights_not_found(tmp_path, job_file, monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = refused(1, "could not be had from the Hugging Face hub", "embed", job_file, "--set", "model.weights=Q/x")
    assert "Without a network: download the model elsewhere" in message
    refused(2, "there is no such folder", "embed", job_file, "--set", "model.weights=./nowhere")
    refused(2, "has no config.json", "embed", job_file, "--set", f"model.weights={tmp_path}")


def test_table_of_another_model_or_another_maker(tmp_path, job_file):
    call("embed", job_file)
    for command in ("embed", "verify", "plan"):
        message = refused(2, "holds another embedding space", command, job_file, "--set", "model.dimensions=32")
        assert "dimensions: table has 64, this job has 32" in message
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/db/foreign.lance")
    for command in ("embed", "status", "verify", "optimize", "plan"):
        refused(2, "was not created by vectormill", command, job_file, "--set", "table.name=foreign")
    refused(2, "was not created by vectormill", "search", f"{tmp_path}/db/foreign", "text")


def test_commands_before_there_is_a_table(tmp_path, job_file):
    for command in ("status", "verify", "optimize"):
        refused(2, "there is no table at", command, job_file)
    refused(2, "`vectormill embed` creates it", "search", f"{tmp_path}/db/t/", "text")


def test_wrong_searches(job_file):
    call("embed", job_file)
    refused(2, "the query is empty", "search", job_file, " ")
    refused(2, "No field named nosuch", "search", job_file, "alpha", "--where", "nosuch = 1")
    refused(2, "takes no instruction", "search", job_file, "alpha", "--instruction", "find it")


def test_a_file_in_the_way_of_the_table(tmp_path, job_file):
    (tmp_path / "file").write_text("")
    refused(2, "check the path, its permissions", "embed", job_file, "--set", f"table.uri={tmp_path}/file/db")


def test_disk_full_at_the_start(job_file, monkeypatch):
    real = os.replace

    def full(source, target):
        if "vectormill-probe" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    refused(2, "No space left on device; check the path, its permissions and the space", "embed", job_file)


def test_disk_full_in_the_middle(job_file, monkeypatch):
    """The run stops with one message, what is committed stays; with space again the same command finishes."""
    from pipelines.table import sink

    real, calls = sink.write_rows, []

    def full(address, table, run):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(address, table, run)

    monkeypatch.setattr(sink, "write_rows", full)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts to write
    result = call("embed", job_file)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "the table cannot be written" in result.stderr
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr
    held = json.loads(call("status", job_file, "--json").stdout)["rows"]
    assert 0 < held < 120
    monkeypatch.undo()
    assert call("embed", job_file).exit_code == 0


@pytest.fixture
def no_aws(monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    return monkeypatch


@pytest.mark.parametrize("field", ["corpus.uri", "table.uri"])
def test_wrong_endpoint(job_file, no_aws, field):
    no_aws.setenv("AWS_ACCESS_KEY_ID", "x")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "y")
    started = time.monotonic()
    where = ["--set", f"{field}=s3://bucket/x", "--set", "storage.endpoint_url=http://127.0.0.1:9"]
    message = refused(1, "no server answers at the store's endpoint (http://127.0.0.1:9)", "embed", job_file, *where)
    assert "check storage.endpoint_url" in message
    assert time.monotonic() - started < 30


def test_no_credentials(job_file, no_aws):
    started = time.monotonic()
    where = ["--set", "table.uri=s3://bucket/x", "--set", "storage.endpoint_url=http://127.0.0.1:10"]
    message = refused(2, "no credentials were found", "embed", job_file, *where)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert time.monotonic() - started < 30
