"""`python -m benchmarks.gpu`, the command for a rented GPU: its steps on a CPU, and what a fault costs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu import faults, records, steps
from benchmarks.gpu.__main__ import chosen
from benchmarks.gpu.steps import Asked, Step

ROOT = Path(__file__).parents[3]


def command(out, *arguments):
    """Runs it; what it printed, and the records of the steps that ended, by name."""
    line = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(out), *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, {record["step"]: record for record in records.finished(records.read(out))}


def instead_in(found, name):
    return found[name]["with"]["instead"]


# ---------------------------------------------------------------------- the steps themselves


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_step_runs_on_a_cpu(tmp_path):
    said, found = command(tmp_path, "--minutes", "14")
    assert list(found) == [step.name for step in steps.STEPS]
    assert not {name: record["error"] for name, record in found.items() if "error" in record}
    assert [name for name, record in found.items() if not records.passed(record)] == []
    assert not any(record["with"]["instead"] for record in found.values())
    assert "every step was run" in said
    assert (tmp_path / "summary.txt").read_text().strip() in said
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_500_000
    assert len(list(tmp_path.iterdir())) <= 8


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_each_fault_costs_its_own_number_only(tmp_path):
    said, found = command(tmp_path, "--faults", "--minutes", "14")
    assert list(found) == [step.name for step in steps.STEPS]
    assert [name for name, record in found.items() if not records.passed(record)] == list(faults.FAILED)
    assert f"failed or not right: {', '.join(faults.FAILED)}" in said
    assert found["ceilings"]["error"] == "stopped after 3 s"
    for name in ("ours 0.6B short bfloat16", "ours 8B short float8", "peers 8B"):
        assert instead_in(found, name) == ["torch's silu_mul", "torch's quantise", "equal-length attention"]
    # The other kind of attention passed.
    assert instead_in(found, "ours minilm short bfloat16") == ["torch's silu_mul", "torch's quantise"]


def test_what_did_not_pass_is_not_used_again(tmp_path):
    """The quick part of the one above: a kernel that raises, one whose check kills the process (so that the next
    process must know of both), an attention that raises, a step that hangs."""
    said, found = command(tmp_path, "--faults", "--only", "kernel,attention causal,check bfloat16,ceilings")
    failed = ["kernel silu_mul", "kernel quantise", "attention causal", "ceilings"]
    assert [name for name, record in found.items() if not records.passed(record)] == failed
    assert found["kernel quantise"]["error"] == "the process ended with 9"
    assert found["ceilings"]["error"] == "stopped after 3 s"
    check = found["check bfloat16"]
    assert check["result"]["right"]
    assert check["with"] == {
        "torch_kernels": ["quantise", "silu_mul"],
        "varlen": False,
        "instead": ["torch's silu_mul", "torch's quantise", "equal-length attention"],
    }
    assert "[torch's silu_mul; torch's quantise; equal-length attention]" in said
    whole = json.loads((tmp_path / "gpu.json").read_text())
    assert list(whole)[:3] == ["benchmark", "settings", "machine"]
    assert [record["step"] for record in whole["steps"]] == list(found)


def test_faults_are_for_dry_runs(tmp_path):
    line = [sys.executable, "-m", "benchmarks.gpu", "--faults", "--out", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "--faults is for --dry-run" in done.stderr


def test_needs_nothing_of_the_pipeline(tmp_path):
    blocked = ["ray", "lance", "lancedb", "pydantic", "pipelines", "sentence_transformers"]
    code = (
        f"import importlib, sys\nfor name in {blocked}: sys.modules[name] = None\n"
        "for name in 'worker checks device explain kernels margins profile replica speed'.split():\n"
        "    importlib.import_module(f'benchmarks.gpu.{name}')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=200)


def test_some_steps_can_be_chosen():
    assert [step.name for step in chosen("profile,ceilings", Asked())] == ["profile 0.6B", "ceilings", "profile 8B"]


# ---------------------------------------------------------------------- made-up steps

WORKER = """
import os, sys, time
from dataclasses import replace
sys.path.insert(0, {root!r})
from benchmarks.gpu import __main__ as command, records, supervise
from benchmarks.gpu.steps import Step

def fails(message):
    raise RuntimeError(message)

steps = [Step("fine", 5, lambda asked: {{"said": "well"}}),
         Step("raises", 5, lambda asked: 1 / 0),
         Step("hangs", 5, lambda asked: time.sleep(60), most=0.5),
         Step("dies", 5, lambda asked: os._exit(9)),
         Step("healthy", 5, lambda asked: {{"pid": os.getpid()}}),
         Step("poisons", 5, lambda asked: fails("CUDA error: gone")),
         Step("last", 5, lambda asked: {{"right": False, "pid": os.getpid()}})]
command.chosen = lambda only, asked: steps
supervise.ITSELF = (__file__,)
supervise.POLL_SECONDS = 0.02
command.main()
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    script = folder / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    line = [sys.executable, str(script), "--out", str(folder), "--dry-run"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, {record["step"]: record for record in records.finished(records.read(folder))}, folder


def test_the_steps_after_a_bad_one_are_run(broken):
    _, found, _ = broken
    assert list(found) == ["fine", "raises", "hangs", "dies", "healthy", "poisons", "last"]
    assert "ZeroDivisionError" in found["raises"]["error"]
    assert found["hangs"]["error"].startswith("stopped after 0")
    assert found["dies"]["error"] == "the process ended with 9"
    assert "CUDA error: gone" in found["poisons"]["error"]
    # In such a process every further call to the device fails.
    assert found["last"]["result"]["pid"] != found["healthy"]["result"]["pid"]


def test_what_failed_is_said_and_where_it_hung(broken):
    said, _, folder = broken
    assert "failed or not right: raises, hangs, dies, poisons, last" in said
    assert "Timeout" in (folder / "worker.log").read_text()  # faulthandler's word, above the stack


def test_what_was_not_run_is_said():
    said = records.verdict([{"step": "one", "seconds": 1.0, "result": {}}], ["one", "two"])
    assert "not run, because the time was up: two" in said


def test_records_survive_a_cut_off(tmp_path):
    records.append(tmp_path, {"step": "one", "seconds": 1.0, "result": {}})
    with (tmp_path / records.FILE).open("a") as file:
        file.write(json.dumps({"step": "two", "result": {"a": 1}})[:12])
    assert [record["step"] for record in records.read(tmp_path)] == ["one"]


def test_nothing_begins_after_the_time_is_up(tmp_path):
    began = time.monotonic()
    said, found = command(tmp_path, "--minutes", "0")
    assert not found
    assert "not run, because the time was up: machine" in said
    assert time.monotonic() - began < 60


def test_a_hang_costs_little_more_than_the_step():
    assert Step("any", 12, lambda asked: {}).limit == 44
    assert max(step.limit - step.seconds for step in steps.STEPS) <= 60
