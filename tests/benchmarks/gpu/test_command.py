"""benchmarks/gpu.py, the command for a rented GPU: all its steps in tiny sizes, and what it does when one fails."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[2]


def test_every_step_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path), "--minutes", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    records = gpu.finished(gpu.read(tmp_path))
    assert [record["step"] for record in records] == [step.name for step in gpu.chosen("")]
    errors = {record["step"]: record["error"] for record in records if "error" in record}
    assert not errors
    wrong = [record["step"] for record in records if not record["result"].get("right", True)]
    assert not wrong
    assert "every step was run" in done.stdout
    assert (tmp_path / "summary.txt").read_text().strip() in done.stdout
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000


def test_correctness_comes_first_then_ceilings_then_ours_then_peers():
    names = [step.name for step in gpu.chosen("")]
    order = [
        next(i for i, name in enumerate(names) if name.startswith(kind)) for kind in ("check", "ceil", "ours", "peers")
    ]
    assert order == sorted(order)
    assert max(i for i, name in enumerate(names) if name.startswith("check")) < order[1]


# What a worker does at each step of the made-up list below.
WORKER = """
import json, os, sys, time
sys.path.insert(0, {root!r})
from benchmarks import gpu
steps = [gpu.Step("fine", 5, lambda dry: {{"said": "well"}}),
         gpu.Step("raises", 5, lambda dry: 1 / 0),
         gpu.Step("hangs", 0.5, lambda dry: time.sleep(60)),
         gpu.Step("dies", 5, lambda dry: os._exit(9)),
         gpu.Step("healthy", 5, lambda dry: {{"pid": os.getpid()}}),
         gpu.Step("poisons", 5, lambda dry: (_ for _ in ()).throw(RuntimeError("CUDA error: gone"))),
         gpu.Step("last", 5, lambda dry: {{"right": False, "pid": os.getpid()}})]
gpu.chosen = lambda only: steps
gpu.free = lambda: None
gpu.ITSELF = (__file__,)
gpu.POLL_SECONDS = 0.02
gpu.main()
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    script = folder / "worker.py"
    script.write_text(WORKER.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, str(script), "--out", str(folder)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, {record["step"]: record for record in gpu.finished(gpu.read(folder))}


def test_the_steps_after_a_bad_one_are_run(broken):
    _, records = broken
    assert list(records) == ["fine", "raises", "hangs", "dies", "healthy", "poisons", "last"]
    assert "ZeroDivisionError" in records["raises"]["error"]
    assert records["hangs"]["error"].startswith("stopped after 0")
    assert records["dies"]["error"] == "the process ended with 9"
    assert "CUDA error: gone" in records["poisons"]["error"]
    # In such a process every further call to the device fails.
    assert records["last"]["result"]["pid"] != records["healthy"]["result"]["pid"]


def test_the_summary_says_what_failed(broken):
    said, _ = broken
    assert "failed or not right: raises, hangs, dies, poisons, last" in said


def test_what_was_not_run_is_said(tmp_path):
    steps = [gpu.Step(name, 1, lambda dry: {}) for name in ("one", "two")]
    said = gpu.summary([{"step": "one", "seconds": 1.0, "result": {}}], steps)
    assert "not run, because the time was up: two" in said


def test_records_survive_a_cut_off(tmp_path):
    gpu.append(tmp_path, {"step": "one", "seconds": 1.0, "result": {}})
    with (tmp_path / gpu.RECORDS).open("a") as file:
        file.write(json.dumps({"step": "two", "result": {"a": 1}})[:12])
    assert [record["step"] for record in gpu.read(tmp_path)] == ["one"]


def test_nothing_begins_after_the_time_is_up(tmp_path):
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--out", str(tmp_path), "--minutes", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "not run, because the time was up: machine" in done.stdout
    assert time.monotonic() - began < 60
