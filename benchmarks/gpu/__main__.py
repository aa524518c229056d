"""Settles on one CUDA GPU, in one command of 8 minutes, what this project says about GPUs.

    python -m benchmarks.gpu --out results               on an H100 or H200; torch 2.11 or later, transformers, pyarrow
    python -m benchmarks.gpu --out results --minutes 4   the first half: right or not, how fast, where the time goes
    python -m benchmarks.gpu --out results --dry-run     every step on a CPU in its tiniest size: tests the command
    python -m benchmarks.gpu --out results --dry-run --faults     the same with kernels, attention and steps that fail

What decides most comes first: steps.py has the order, and how long each step should take. The steps run in a second
process. Each has a limit of its own; one that fails, hangs or takes the process down costs its own number: it is
recorded with its error, and the next one goes on, in a new process where it must. A kernel of Triton's that did not
pass is computed by torch in the steps after it, and the variable-length attention by the equal-length one; each record
says with what it was measured (`with`).

OUT/gpu.jsonl has a line for each step, written at once, so that a cut-off keeps it. OUT/summary.txt says what was found
and what was not run, OUT/gpu.json is both in the one form of our results, OUT/worker.log is what the second process
printed, and where it was when it died or hung.

Needs nothing of pipelines/, and sentence-transformers only for the steps that compare with it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from benchmarks import machine
from benchmarks.gpu import faults, records, steps, supervise
from benchmarks.gpu.steps import Asked, Step

DRY_LIMIT = 150.0
WHOLE, SUMMARY = "gpu.json", "summary.txt"


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="a folder for the results; gpu.jsonl in it is begun anew"
    )
    parser.add_argument("--minutes", type=float, default=steps.MINUTES, help="all of it")
    parser.add_argument("--only", default="", help="parts of names of steps, with commas: check,peers")
    parser.add_argument("--minilm", default="bundled", help="weights of all-MiniLM-L6-v2: a folder of that name")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    parser.add_argument("--faults", action="store_true", help="with --dry-run: let some steps fail")
    parser.add_argument("--worker-from", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.faults and not options.dry_run:
        parser.error("--faults is for --dry-run")
    asked = Asked(options.dry_run, options.faults, options.minilm)
    if options.worker_from is not None:
        from benchmarks.gpu import worker

        worker.work(asked, options.out, chosen(options.only, asked)[options.worker_from :])
    else:
        supervised(options, asked)


def chosen(only: str, asked: Asked) -> list[Step]:
    """The steps whose name has one of the parts. The limits of a dry run are for a CPU that others use too."""
    parts = [part for part in only.split(",") if part]
    found = [step for step in steps.STEPS if not parts or any(part in step.name for part in parts)]
    if asked.dry:
        found = [replace(step, most=DRY_LIMIT) for step in found]
    return faults.shortened(found) if asked.faults else found


def supervised(options: argparse.Namespace, asked: Asked) -> None:
    """Runs it all, shows each step as it ends, and leaves the results in OUT."""
    options.out.mkdir(parents=True, exist_ok=True)
    records.begin(options.out)
    todo = chosen(options.only, asked)
    arguments = ["--out", str(options.out), "--only", options.only, "--minilm", options.minilm]
    arguments += ["--dry-run"] * asked.dry + ["--faults"] * asked.faults
    supervise.supervise(todo, options.out, arguments, options.minutes)
    found = records.read(options.out)
    verdict = records.verdict(found, [step.name for step in todo])
    print(f"\n{verdict}")
    lines = [records.line(record) for record in records.finished(found)]
    (options.out / SUMMARY).write_text("\n".join([*lines, "", verdict, ""]), encoding="utf-8")
    settings = {"minutes": options.minutes, "only": options.only, "minilm": options.minilm, "dry_run": asked.dry}
    where = next((r["result"] for r in records.finished(found) if r["step"] == "machine" and "result" in r), None)
    whole = machine.result("gpu", settings, where or machine.facts(), steps=records.finished(found), verdict=verdict)
    (options.out / WHOLE).write_text(json.dumps(whole) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
