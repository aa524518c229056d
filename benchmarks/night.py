"""What a night with little to do costs: a table that stands, one new file of a few rows, by each way to run it.

    python -m benchmarks.night [--rows 30] [--rounds 3] [--weights fake|bundled]

CPU seconds of the command's process and all that it started, from its first import to its account, in turns: through
Ray (`run.engine: ray`), as a job does by itself (`auto`), and `auto` with nothing to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import machine, memory
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.job_file import parse_job
from pipelines.run import job as jobs

TABLE_ROWS = 1_000


def job_over(folder: str, engine: str, weights: str) -> JobConfig:
    return parse_job(
        {
            "corpus": {"uri": f"{folder}/corpus", "id": "id"},
            "model": {"weights": weights},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": {"engine": engine},
        }
    )


def one_run(job: JobConfig) -> dict[str, Any]:
    """In this process, which is fresh: its engine ends with the job, so the CPU is read before."""
    real, seen = jobs.run_prepared, []

    def run_prepared(*work: Any) -> Any:
        certificate = real(*work)
        seen.append(machine.cpu_seconds_of_tree())
        return certificate

    jobs.run_prepared = run_prepared  # type: ignore[assignment]
    assert jobs.run_job(job, Display(quiet=True)).adds_up
    return {"cpu_seconds": round(seen[0], 2)}


def fresh(folder: str, engine: str, weights: str) -> float:
    command = [sys.executable, "-m", "benchmarks.night", "--one-run", folder, engine, "--weights", weights]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["cpu_seconds"])


def night(options: Any) -> dict[str, float]:
    """One round: each way over a table of its own."""
    found = {}
    for engine in ("ray", "auto"):
        with tempfile.TemporaryDirectory() as folder:
            memory.write_corpus(Path(folder) / "corpus", TABLE_ROWS, TABLE_ROWS)
            fresh(folder, "inline", options.weights)
            memory.write_corpus(Path(folder) / "corpus" / "new", options.rows, options.rows)
            found[engine] = fresh(folder, engine, options.weights)
            if engine == "auto":
                found["nothing to do"] = fresh(folder, engine, options.weights)
    return found


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="fake")
    parser.add_argument("--one-run", nargs=2, default=None, help="used by this script for its fresh processes")
    options = parser.parse_args()
    if options.one_run:
        folder, engine = options.one_run
        print(json.dumps(one_run(job_over(folder, engine, options.weights))))
        return
    facts = machine.facts()
    rounds = [night(options) for _ in range(options.rounds)]
    for found in rounds:
        print(", ".join(f"{way}: {seconds:.1f} CPU s" for way, seconds in found.items()), flush=True)
    print(json.dumps(machine.result("night", vars(options), facts, cpu_seconds=rounds)))


if __name__ == "__main__":
    main()
