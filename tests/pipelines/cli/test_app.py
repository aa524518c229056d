"""The command line as a user or a script meets it: exit codes, what goes to stdout, what to stderr, and the words."""

import errno
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import entry_points
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from rich.console import Console

from pipelines.cli import app as cli
from pipelines.cli import terminal as report
from pipelines.cli.display import Display, duration, line
from pipelines.engine.stage import Receipt, Tally
from pipelines.errors import CorpusError
from pipelines.run.metrics import RunMetrics
from pipelines.units import Unit
from tests.support.commands import call, object_of, refused, write_job
from tests.support.jobs import job, text_of, write_jsonl, write_parquet

ROOT = Path(__file__).parents[3]
COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture
def job_file(tmp_path):
    write_parquet(tmp_path / "corpus")
    return write_job(tmp_path / "job.yaml", job(tmp_path))


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
        refused(1, words, "embed", job_file, "--set", override, "--json")
    assert not (tmp_path / "db" / "t.lance").exists(), "nothing was begun"


def test_corpus_without_rows_is_no_success_in_disguise(tmp_path, job_file):
    write_jsonl(tmp_path / "text" / "a.jsonl", [])
    result = call("embed", job_file, "--set", f"corpus.uri={tmp_path}/text", "--set", "corpus.columns=[]", "--json")
    assert result.exit_code == 1 or json.loads(result.stdout)["rows"] == 0


def test_weights_not_found(tmp_path, job_file, monkeypatch):
    import huggingface_hub

    def offline(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    message = refused(1, "could not be had from the Hugging Face hub", "embed", job_file, "--set", "model.weights=Q/x")
    assert "Without a network: download the model elsewhere" in message
    refused(1, "there is no such folder", "embed", job_file, "--set", "model.weights=./nowhere")
    refused(1, "has no config.json", "embed", job_file, "--set", f"model.weights={tmp_path}")


def test_table_of_another_model_or_another_maker(tmp_path, job_file):
    call("embed", job_file)
    for command in ("embed", "verify", "plan"):
        message = refused(1, "holds another embedding space", command, job_file, "--set", "model.dimensions=32")
        assert "dimensions: table has 64, this job has 32" in message
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/db/foreign.lance")
    for command in ("embed", "status", "verify", "optimize", "plan"):
        refused(1, "was not created by vectormill", command, job_file, "--set", "table.name=foreign")
    refused(1, "was not created by vectormill", "search", f"{tmp_path}/db/foreign", "text")


def test_commands_before_there_is_a_table(tmp_path, job_file):
    for command in ("status", "verify", "optimize"):
        refused(1, "there is no table at", command, job_file)
    refused(1, "`vectormill embed` creates it", "search", f"{tmp_path}/db/t/", "text")


def test_wrong_searches(job_file):
    call("embed", job_file)
    refused(1, "the query is empty", "search", job_file, " ")
    refused(1, "No field named nosuch", "search", job_file, "alpha", "--where", "nosuch = 1")
    refused(1, "takes no instruction", "search", job_file, "alpha", "--instruction", "find it")


def test_a_file_in_the_way_of_the_table(tmp_path, job_file):
    (tmp_path / "file").write_text("")
    refused(1, "check the path, its permissions", "embed", job_file, "--set", f"table.uri={tmp_path}/file/db")


def test_disk_full_at_the_start(job_file, monkeypatch):
    real = os.replace

    def full(source, target):
        if "vectormill-probe" in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    refused(1, "No space left on device; check the path, its permissions and the space", "embed", job_file)


def test_disk_full_in_the_middle(job_file, monkeypatch):
    """The run stops with one message, what is committed stays; with space again the same command finishes."""
    from pipelines.table import sink

    real, calls = sink.write_rows, []

    def full(address, table):
        calls.append(1)
        if len(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(address, table)

    monkeypatch.setattr(sink, "write_rows", full)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # between attempts to write
    result = call("embed", job_file)
    assert result.exit_code == 1
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
    message = refused(1, "no credentials were found", "embed", job_file, *where)
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
    assert time.monotonic() - started < 30


# ---------------------------------------------------------------------- results


def test_json_of_every_command(tmp_path, job_file, capfd):
    code, found = object_of("plan", job_file)
    assert (code, found["rows_to_embed"]) == (0, 120)
    code, found = object_of("embed", job_file)
    assert (code, found["adds_up"], found["embedded_rows"]) == (0, True, 120)
    code, found = object_of("status", job_file)
    assert (code, found["rows"]) == (0, 120)
    code, found = object_of("verify", job_file)
    assert (code, found["ok"]) == (0, True)
    assert found["certificate"]["adds_up"]
    code, found = object_of("search", f"{tmp_path}/db/t", text_of(5), "-k", "2")
    assert code == 0
    assert found["hits"][0]["id"] == "d5"
    assert found["hits"][0]["columns"]["n"] == 5
    code, found = object_of("optimize", f"{tmp_path}/db/t.lance")
    assert (code, found["fragments_after"]) == (0, 1)
    progress = capfd.readouterr()
    assert progress.out == ""
    assert "120 of 120 rows in the table (100%)" in progress.err


def test_json_has_no_nan(tmp_path):
    write_parquet(tmp_path / "corpus", shards=1, rows=2)
    table = pa.table({"doc_id": ["a", "b"], "text": ["x", "y"], "n": [float("nan"), float("inf")], "score": ["u", "v"]})
    pq.write_table(table, tmp_path / "corpus" / "part-0.parquet")
    job_file = write_job(tmp_path / "job.yaml", job(tmp_path, corpus={"columns": ["n", "score"]}))
    assert call("embed", job_file).exit_code == 0
    _, found = object_of("search", job_file, "x")
    assert [hit["columns"]["n"] for hit in found["hits"]] == [None, None]
    assert found["hits"][0]["columns"]["score"] == "u", "a carried column hides nothing"
    assert found["hits"][0]["score"] > 0.9


def test_quiet_says_nothing(job_file, capfd):
    assert call("embed", job_file, "--quiet").exit_code == 0
    assert capfd.readouterr().err == ""


def test_exit_code_of_an_account_that_does_not_add_up(job_file, monkeypatch):
    from pipelines.tasks.embed import Tokenise

    real = Tokenise.__call__

    def tokenise(self, table):
        if "d17" in table["id"].to_pylist():
            raise RuntimeError("tokenizer trouble")
        return real(self, table)

    monkeypatch.setattr(Tokenise, "__call__", tokenise)
    code, found = object_of("embed", job_file)
    assert (code, found["adds_up"], found["missing_rows"]) == (1, False, 16)
    assert "tokenizer trouble" in found["failures"][0]
    monkeypatch.undo()
    code, found = object_of("verify", job_file)
    assert (code, found["ok"]) == (1, False)


def test_verify_against_another_certificate(tmp_path, job_file):
    """What one command printed the other takes; exit 1 names what differs, exit 2 a file that is no certificate."""
    code, mine = object_of("embed", job_file)
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    code, found = object_of("verify", job_file, "--against", f"{tmp_path}/mine.json")
    assert (code, found["ok"], found["certificate"]) == (0, True, mine)
    assert call("verify", job_file, "--against", f"{tmp_path}/db/t.vectormill/certificate.json").exit_code == 0
    (tmp_path / "other.json").write_text(json.dumps({**found, "certificate": {**mine, "rows": 121, "tokens": 1}}))
    result = call("verify", job_file, "--against", f"{tmp_path}/other.json")
    assert result.exit_code == 1
    named = [line.partition("other.json: ")[2] for line in result.stdout.splitlines() if "DOUBT  as certified" in line]
    assert named == ["rows in the corpus: 120 here, 121 there", f"tokens: {mine['tokens']} here, 1 there"]
    (tmp_path / "bits.json").write_text(json.dumps({**mine, "pair_digest": "0" * 16}))
    assert call("verify", job_file, "--against", f"{tmp_path}/bits.json").exit_code == 1
    assert call("verify", job_file, "--against", f"{tmp_path}/bits.json", "--vectors", "rounded").exit_code == 0
    refused(2, "there is no such file", "verify", job_file, "--against", f"{tmp_path}/nope.json")
    refused(2, "this is not JSON, so no certificate", "verify", job_file, "--against", f"{tmp_path}/job.yaml")


def test_what_people_see(tmp_path):
    records = [{"doc_id": f"d{n}", "text": text_of(n), "n": n} for n in range(20)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, {"doc_id": None, "text": "x", "n": 1}, b"{broken\n"])
    folder = tmp_path / ("a-folder-with-a-long-name-" * 4)
    job_file = write_job(tmp_path / "job.yaml", job(tmp_path, table={"uri": str(folder), "text_column": "text"}))
    shown = call("plan", job_file).stdout
    assert "22 in 1 shard(s)" in shown
    assert "time                  unknown for this model" in shown
    shown = call("embed", job_file).stdout
    assert "certificate: the sums add up" in shown
    assert "2 (no_id 1, undecodable 1)" in shown
    assert f"{folder}/t.lance, version" in shown, "not wrapped: somebody will copy it"
    shown = call("status", job_file, "--bad-rows", "1").stdout
    assert "22 of 22" in shown
    assert "UTC (" in shown
    assert "ago), run 20" in shown
    assert "no_id: a.jsonl row 20" in shown
    assert "... 1 more (--bad-rows N)" in shown
    assert "undecodable:" not in shown
    shown = call("verify", job_file).stdout
    assert "DOUBT" not in shown
    assert shown.endswith("verified\n")
    shown = call("search", job_file, text_of(3), "-k", "1").stdout
    assert "d3" in shown
    assert f"text: {text_of(3)}" in shown
    assert call("search", job_file, "x", "--where", "n > 99").stdout.endswith("nothing found\n")
    shown = call("optimize", job_file).stdout
    assert "vector index   none: fewer than 100,000 vectors" in shown
    assert all(s == s.rstrip() for s in shown.splitlines())
    lance.dataset(f"{folder}/t.lance").delete("n = 7")
    result = call("verify", job_file)
    assert result.exit_code == 1
    assert "DOUBT  every row accounted for" in result.stdout
    assert result.stdout.endswith("NOT VERIFIED: see the lines marked DOUBT\n")


# ---------------------------------------------------------------------- the display


def metrics(**facts):
    known = {"rows_total": 1000, "units_total": 10, "replicas": 2, "rows_before": 300, "units_before": 3}
    return RunMetrics(**{**known, **facts})


def in_the_middle():
    """300 rows were there, 400 more are written and 200 of these committed, 7 of them bad."""
    found = metrics()
    found.begin()
    found.began -= 10
    tallies = (Tally(tokens=5000, bad_rows=bad) for bad in (3, 4))
    receipts = [
        Receipt((Unit(1, "a", n, n + 200, 9, "s"),), (), one) for n, one in zip((300, 500), tallies, strict=True)
    ]
    for receipt in receipts:
        found.received(receipt)
    found.committed(receipts[:1])
    return found


def test_line():
    shown = line(in_the_middle().snapshot())
    for part in ("500 of 1,000 rows in the table (50%)", "4 of 10 units", "2 replica(s)", "1 commits", "7 bad"):
        assert part in shown
    assert shown.endswith(" s left")
    assert "failed" not in shown
    done = metrics(rows_before=1000, units_before=10).snapshot()
    assert "left" not in line(done)
    assert "(100%)" in line(metrics(rows_total=0, rows_before=0).snapshot())
    assert "3 units failed" in line(metrics(failures=3).snapshot())


def test_durations_and_sizes():
    assert [duration(s) for s in (-1, 0.4, 59, 60, 75, 3599, 3600, 90061)] == [
        *("0 s", "0 s", "59 s", "1 min 00 s", "1 min 15 s", "59 min 59 s", "1 h 00 min", "25 h 01 min")
    ]
    assert [report.size(n) for n in (0, 999, 1000, 1_234_567, 5e9, 7.5e12)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "1.2 MB", "5.0 GB", "7.5 TB")
    ]


def test_plain_lines_without_a_terminal(capsys):
    shown = Display(seconds_between_lines=0.05)
    with shown.running():
        shown.update(in_the_middle().snapshot())
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) >= 3
    assert all("500 of 1,000 rows in the table" in s and s[2] == s[5] == ":" for s in err.splitlines())
    quiet = Display(quiet=True, seconds_between_lines=0.01)
    with quiet.running():
        quiet.update(in_the_middle().snapshot())
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def on_a_terminal(monkeypatch):
    shown, screen = Display(), io.StringIO()
    monkeypatch.setattr(shown, "_console", Console(file=screen, force_terminal=True, width=120, highlight=False))
    return shown, screen


def test_panel_on_a_terminal(monkeypatch, capsys):
    shown, screen = on_a_terminal(monkeypatch)
    with shown.running():
        shown.update(in_the_middle().snapshot())
        shown.say("a line [of] ours")
        print("noise of the engine")
    for part in ("700 of 1,000", "in the table", "500", "4 of 10", "bad rows", "70%", "s left", "a line [of] ours"):
        assert part in screen.getvalue()
    assert "noise" not in screen.getvalue(), "rich must not carry the engine's output onto the screen"
    assert "noise" in capsys.readouterr().out
    shown, screen = on_a_terminal(monkeypatch)
    with shown.running():
        shown.update(metrics(failures=1).snapshot())
    assert "starting the replicas" in screen.getvalue()
    assert "failed units" in screen.getvalue()


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: sorted(tmp_path.glob("vectormill-engine-*.log"))


def make_noise():
    for number, words in ((1, "python noise"), (2, "python errors")):
        with open(number, "w", closefd=False) as stream:  # pytest's sys.stdout does not write to the descriptor
            print(words, file=stream)
    os.write(1, b"native noise\n")
    os.write(2, b"native errors\n")
    subprocess.run(["sh", "-c", "echo noise of a child; echo errors of a child >&2"], check=True)


def test_engine_output_is_hidden_and_the_terminal_comes_back(logs, capfd):
    shown = Display()
    with shown.engine_output():
        make_noise()
        shown.say("ours")
    print("after")
    os.write(2, b"after too\n")
    shown.say("ours again")
    out, err = capfd.readouterr()
    assert out == "after\n"
    assert [s.partition(" ")[2] if s[2] == ":" else s for s in err.splitlines()] == ["ours", "after too", "ours again"]
    assert logs() == []


def fail_amid_noise(shown, error):
    with shown.engine_output():
        make_noise()
        raise error


@pytest.mark.parametrize("quiet", [False, True])
def test_engine_output_is_kept_and_named_after_an_error(logs, capfd, quiet):
    with pytest.raises(RuntimeError):
        fail_amid_noise(Display(quiet), RuntimeError)
    (log,) = logs()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"what the engine wrote is in {log}\n"
    assert sorted(log.read_text().splitlines()) == [
        *("errors of a child", "native errors", "native noise", "noise of a child", "python errors", "python noise")
    ]


@pytest.mark.parametrize("error", [CorpusError, KeyboardInterrupt])
def test_engine_output_is_not_kept_when_it_explains_nothing(logs, capfd, error):
    """A mistake in the job, and Ctrl-C."""
    with pytest.raises(error):
        fail_amid_noise(Display(), error)
    assert logs() == []
    assert capfd.readouterr().err == ""


def test_an_engine_that_was_silent_leaves_no_log(logs, capfd):
    with pytest.raises(RuntimeError), Display().engine_output():
        raise RuntimeError
    assert logs() == []
    assert capfd.readouterr().err == ""


def test_a_broken_pipe_while_stopping_does_not_hide_the_stop(job_file, monkeypatch):
    from pipelines.errors import Stopped
    from pipelines.run import job

    def stopped(*_):
        try:
            raise Stopped(2)
        finally:
            raise BrokenPipeError(errno.EPIPE, "gone")

    monkeypatch.setattr(job, "embed", stopped)
    result = call("embed", job_file)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
