"""The edges of a process: its signals, its terminal, the bytes of its arguments, and where its output goes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commands import call, write_job
from tests.support.jobs import job, rows, write_jsonl

ROOT = Path(__file__).parents[3]
COMMAND = (sys.executable, "-m", "vectormill")
HERE = {**os.environ, "PYTHONPATH": str(ROOT)}
TEXT = "naïve 量子 hello"


def run(*arguments, command=COMMAND, env=None, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
    env = {name: value for name, value in {**HERE, **(env or {})}.items() if value is not None}
    done = subprocess.run([*command, *arguments], env=env, check=False, **options)
    said = (done.stderr or b"").decode()
    assert "Traceback" not in said, said
    assert "Exception ignored" not in said, said
    return done.returncode, (done.stdout or b"").decode(errors="surrogateescape"), said


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edges")
    write_jsonl(folder / "corpus" / "a.jsonl", [{"doc_id": "a", "text": TEXT}, {"doc_id": "b", "text": "two 量子"}])
    config = job(folder, corpus={"columns": []}, table={"text_column": "body"})
    file = write_job(folder / "job.yaml", config)
    assert call("embed", file).exit_code == 0
    return file


# ---------------------------------------------------------------------- signals


def start(folder, **options):
    write_jsonl(
        folder / "corpus" / "a.jsonl", [{"doc_id": f"d{n}", "text": f"row {n} some words"} for n in range(4000)]
    )
    run_ = {"engine": "inline", "rows_per_unit": 100, "commit_every_seconds": 1}
    config = job(folder, corpus={"columns": []}, model={"weights": "fake:4000"}, run=run_)
    file = write_job(folder / "job.yaml", config)
    log = open(folder / "log", "wb")  # noqa: SIM115 - the process keeps it
    process = subprocess.Popen([*COMMAND, "embed", file], env=HERE, stdout=log, stderr=log, **options)
    deadline = time.monotonic() + 90
    while len(list((folder / "db" / "t.lance" / "_versions").glob("*"))) < 4:
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.2)
    return process, config


def test_a_closed_terminal_stops_a_run_as_sigterm_does(tmp_path):
    process, config = start(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    said = (tmp_path / "log").read_text()
    assert "stopped. What is committed stays; the same command goes on from there" in said
    assert "Traceback" not in said
    (record,) = (tmp_path / "db" / "t.vectormill" / "runs").iterdir()
    kept = json.loads(record.read_text())
    assert (kept["outcome"], kept["metrics"]["rows_committed"]) == ("stopped", kept["metrics"]["rows_written"])
    assert len(rows(config)) == kept["metrics"]["rows_committed"] > 0


def test_under_nohup_a_closed_terminal_is_nothing(tmp_path):
    process, _ = start(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    time.sleep(2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


DEMO = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pipelines.cli import demo
from pipelines.cli.command import run_as_process
demo.write_corpus = lambda folder: os.kill(os.getpid(), signal.{signal})
run_as_process(demo.main)
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_demo_stops_with_one_message(name, code):
    script = DEMO.format(signal=name)
    found, _, said = run(
        "-c", f"import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n{script}", command=[sys.executable]
    )
    assert found == code
    assert said == "vectormill: stopped. What is committed stays; the same command goes on from there.\n"


# ---------------------------------------------------------------------- where output goes

ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LANG": "C", "LC_ALL": None, "PYTHONUTF8": "0"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
]


@pytest.mark.parametrize("env", ASCII)
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_is_ascii(built, env, options):
    """Also the query is what was typed, whatever the locale takes its bytes for."""
    code, out, said = run("search", built, "量子", *options, env=env)
    assert code == 0, said
    if options:
        found = json.loads(out)
        assert (found["query"], {hit["text"] for hit in found["hits"]}) == ("量子", {TEXT, "two 量子"})
    else:
        assert "hello" in out
        assert "量子" in out or r"\u91cf\u5b50" in out


def test_every_command_into_ascii(built, tmp_path):
    table = str(Path(built).parent / "db" / "t")
    queries = tmp_path / "q.jsonl"
    queries.write_text(json.dumps({"id": "量", "text": "量子"}) + "\n")
    for arguments in [
        ("embed", built), ("plan", built), ("status", table), ("verify", built), ("optimize", table),
        ("bulk-search", built, str(queries), "--out", str(tmp_path / "量" / "q.parquet")), ("schema",), ("--version",),
    ]:  # fmt: skip
        code, _, said = run(*arguments, env=ASCII[2])
        assert code == 0, (arguments, said)
    assert (tmp_path / "量" / "q.parquet").exists()


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    "arguments", [("--version",), ("schema",), ("status", "JOB"), ("search", "JOB", "hello"), ("embed", "JOB")]
)
def test_an_output_that_is_full(built, arguments, options):
    arguments = [built if one == "JOB" else one for one in arguments]
    options = options if len(arguments) > 1 else ()
    with open("/dev/full", "wb") as full:
        code, _, said = run(*arguments, *options, stdout=full)
    assert code == 2
    assert said.splitlines()[-1].startswith(
        "vectormill: the result cannot be written to stdout: No space left on device"
    )


@pytest.mark.parametrize("redirected", [">&-", "| true"])
def test_an_output_that_is_closed_or_whose_reader_is_gone(built, redirected):
    line = f"sleep 0; {sys.executable} -m vectormill search {built} hello {redirected}; exit ${{PIPESTATUS[0]}}"
    code, _, said = run("-c", line, command=["bash"])
    assert code == 2
    why = "Bad file descriptor" if redirected == ">&-" else "Broken pipe"
    assert said.splitlines()[-1].startswith(f"vectormill: the result cannot be written to stdout: {why}")


def test_with_all_descriptors_closed_the_table_is_right_all_the_same(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": f"d{n}", "text": f"row {n}"} for n in range(40)])
    file = write_job(tmp_path / "job.yaml", config := job(tmp_path, corpus={"columns": []}))
    line = f"{sys.executable} -m vectormill embed {file} <&- >&- 2>&-"
    assert run("-c", line, command=["bash"])[0] == 2, "the account could not be shown"
    assert len(rows(config)) == 40
    assert call("verify", file).exit_code == 0


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize(
    "arguments",
    [("search", "JOB", b"caf\xe9"), ("embed", b"caf\xe9.yaml"), ("search", "JOB", "x", "--where", b"id = '\xff'"),
     ("embed", "JOB", "--set", b"model.prompt=\xff")],
)  # fmt: skip
def test_an_argument_that_is_not_utf8(built, arguments, options):
    code, out, said = run(*[built if one == "JOB" else one for one in arguments], *options)
    assert code == 2
    assert "is not valid UTF-8" in said
    assert said.count("\n") == 1
    assert bool(out) == bool(options)
    if options:
        assert json.loads(out)["code"] == 2
