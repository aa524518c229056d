"""Settles on one CUDA GPU, in one command of under 9 minutes, what this project says about GPUs.

    python -m benchmarks.gpu --out results          on an H200 or H100; torch 2.11 or later, transformers, Triton
    python -m benchmarks.gpu --out results --dry-run     every step on a CPU in its tiniest size: tests the command

In this order: correctness on CUDA, the ceilings, our own paths, the others on the same weights, a profile. The steps
run in a second process. Each has a time of its own; one that fails, hangs or takes the process down is recorded with
its error and the next one goes on. What was measured is appended to OUT/gpu.jsonl at once, so that a cut-off keeps it;
OUT/summary.txt says at the end what was found and what was not run.

Needs nothing of pipelines/, and sentence-transformers only for the steps that compare with it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import gpu_steps
from benchmarks.gpu_steps import Step

ROOT = Path(__file__).parents[1]
ITSELF = ("-m", "benchmarks.gpu")
RECORDS = "gpu.jsonl"
POLL_SECONDS = 0.2
START_SECONDS = 90  # until a fresh process has imported torch and begins a step
POISONED = 3  # exit code of a worker whose device can do nothing more


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for the results; gpu.jsonl in it is begun anew"
    )
    parser.add_argument("--minutes", type=float, default=8.8, help="all of it")
    parser.add_argument("--only", default="", help="parts of names of steps, with commas: check,peers")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--worker-from", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker_from is not None:
        work(options, chosen(options.only)[options.worker_from :])
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / RECORDS).write_text("")
    supervise(options, chosen(options.only))
    text = summary(read(options.out), chosen(options.only))
    (options.out / "summary.txt").write_text(text + "\n", encoding="utf-8")
    print(text)


def chosen(only: str) -> list[Step]:
    """The steps whose name has one of the parts."""
    parts = [part for part in only.split(",") if part]
    return [step for step in gpu_steps.STEPS if not parts or any(part in step.name for part in parts)]


# ---------------------------------------------------------------------- the second process


def work(options: argparse.Namespace, steps: list[Step]) -> None:
    """Runs steps one after the other, and appends what each gave."""
    for step in steps:
        append(options.out, {"step": step.name, "begins": True})
        begin = time.perf_counter()
        record: dict[str, Any] = {"step": step.name}
        try:
            record["result"] = step.run(options.dry_run)
        except Exception as error:  # noqa: BLE001 - whatever it was, the next steps are to run
            record |= {"error": f"{type(error).__name__}: {error}"[:2000], "where": where(error)}
        record["seconds"] = round(time.perf_counter() - begin, 2)
        append(options.out, record)
        if "CUDA error" in record.get("error", ""):  # every further call to the device fails in this process
            sys.exit(POISONED)
        free()


def where(error: BaseException) -> str:
    """File and line that raised, innermost last, without folders."""
    places, trace = [], error.__traceback__
    while trace is not None:
        places.append(f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " < ".join(places[-6:])


def free() -> None:
    """Gives back what a step left on the device."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---------------------------------------------------------------------- the first process


def supervise(options: argparse.Namespace, steps: list[Step]) -> None:
    """Runs workers until all steps are recorded or the time is up."""
    deadline = time.time() + 60 * options.minutes
    while (done := len(finished(read(options.out)))) < len(steps) and time.time() < deadline:
        command = [sys.executable, *ITSELF, "--out", str(options.out), "--worker-from", str(done)]
        command += ["--only", options.only, *(["--dry-run"] if options.dry_run else [])]
        problem = watch(subprocess.Popen(command, cwd=ROOT), options.out, steps, deadline)
        at = len(finished(read(options.out)))
        if problem is not None and at < len(steps):
            append(options.out, {"step": steps[at].name, "error": problem, "seconds": 0.0})


def watch(worker: subprocess.Popen[bytes], out: Path, steps: list[Step], deadline: float) -> str | None:
    """Waits for the worker, or stops it when a step takes too long; what went wrong with the step it was at."""
    before, since = len(read(out)), time.time()
    while worker.poll() is None:
        time.sleep(POLL_SECONDS)
        records = read(out)
        done = len(finished(records))
        if done >= len(steps):
            worker.wait()
            return None
        if len(records) > before:
            before, since = len(records), time.time()
        running = records[-1:] and "begins" in records[-1]
        allowed = steps[done].seconds if running else START_SECONDS
        late = time.time() - since > allowed
        if late or time.time() > deadline:
            worker.kill()
            worker.wait()
            return f"stopped after {allowed:.0f} s" if late else "stopped: all the time was up"
    return None if worker.returncode in (0, POISONED) else f"the process ended with {worker.returncode}"


def append(out: Path, record: dict[str, Any]) -> None:
    """One more line in OUT/gpu.jsonl."""
    with (out / RECORDS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, default=float) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    """All records; not a last line that is only half written."""
    return [json.loads(line) for line in (out / RECORDS).read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def finished(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of steps that ended, well or not."""
    return [record for record in records if "seconds" in record]


def summary(records: list[dict[str, Any]], steps: list[Step]) -> str:
    """What was found, step by step, and what was not run."""
    done = finished(records)
    lines = []
    for record in done:
        found = record.get("error") or record["result"].get("said") or "done"
        failed = "FAILED: " if "error" in record else ""
        lines.append(f"{record['step']:28} {record['seconds']:6.1f} s  {failed}{found}")
    names = {record["step"] for record in done}
    missing = [step.name for step in steps if step.name not in names]
    wrong = [record["step"] for record in done if "error" in record or not record["result"].get("right", True)]
    lines.append("")
    lines.append(f"not run, because the time was up: {', '.join(missing)}" if missing else "every step was run")
    if wrong:
        lines.append(f"failed or not right: {', '.join(wrong)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
