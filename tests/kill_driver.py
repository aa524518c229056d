"""kill -9 of the driver at random moments, again and again; in the end the table must hold each row once.

    python tests/kill_driver.py [--rows 50000] [--kills 20] [--engine ray|inline] [--seconds 60] [--seed 1]

Makes a corpus in sharded Parquet and a job with the fake model slowed down to `--seconds` of work, then starts
`python -m pipelines embed` and kills the driver alone with SIGKILL: half of the time anywhere up to its first
commit, otherwise at a random moment after it, drawn from what is left so that the last kills fall near the end. The
next start comes at once, while what the dead driver left (Ray's processes) may still run; what outlives even the next
kill is ended by its pid. Then the job runs to its end, `vectormill verify` must certify the table, and the table is
read with lance alone: its ids against the corpus, its vectors, bit for bit, against an undisturbed computation.

Prints a line for each kill and one JSON line at the end; exit 1 if anything is off. With Ray about six minutes, with
the inline engine two. Linux: processes are found by /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from actors.embedder import Embedder
from actors.spec import ModelSpec

ROOT = Path(__file__).resolve().parent.parent
SHARDS = 10
UNITS = 100
WORDS = "amber birch cedar delta ember fjord grove heath islet juniper kelp larch moss north oak pine".split()  # noqa: SIM905
TOKENS_A_ROW = 8  # six words, a number, and the end
SECONDS_TO_FIRST_COMMIT = {"ray": 15.0, "inline": 3.0}  # a first guess, corrected by what is seen
LONGEST_RUN_SECONDS = 600
Process = tuple[int, str]  # pid and start time: a pid alone may be used again


@dataclass
class Trial:
    """One corpus, one table, many drivers."""

    folder: Path
    rows: int
    engine: str
    seconds: float
    chance: random.Random
    first_commit_seconds: float = 0.0
    left: set[Process] = field(default_factory=set)  # of drivers killed earlier

    @property
    def job(self) -> Path:
        return self.folder / "job.yaml"

    @property
    def table(self) -> Path:
        return self.folder / "db" / "t.lance"

    def versions(self) -> int:
        folder = self.table / "_versions"
        return sum(name.endswith(".manifest") for name in os.listdir(folder)) if folder.exists() else 0

    def state(self) -> tuple[int, int]:
        """Rows visible, newest version."""
        if not self.versions():
            return 0, 0
        dataset = lance.dataset(str(self.table))
        return dataset.count_rows(), dataset.version


def text_of(number: int) -> str:
    return " ".join(WORDS[(number // len(WORDS) ** k) % len(WORDS)] for k in range(6)) + f" {number}"


def write_corpus(folder: Path, rows: int) -> None:
    """`rows` short rows in sharded Parquet: doc_id, text."""
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * rows // SHARDS, (shard + 1) * rows // SHARDS)
        table = pa.table({"doc_id": [f"d{n}" for n in numbers], "text": [text_of(n) for n in numbers]})
        pq.write_table(table, folder / f"part-{shard:02d}.parquet")


def set_up(trial: Trial) -> None:
    """The corpus, and a job over it."""
    corpus = trial.folder / "corpus"
    write_corpus(corpus, trial.rows)
    speed = max(1, round(trial.rows * TOKENS_A_ROW / trial.seconds))
    job = {
        "corpus": {"uri": str(corpus), "id": "doc_id", "text": "text"},
        "model": {"weights": f"fake:{speed}"},
        "table": {"uri": str(trial.folder / "db"), "name": "t"},
        "run": {
            "engine": trial.engine,
            "rows_per_unit": max(1, trial.rows // UNITS),
            "commit_every_seconds": 0.5,
            "remove_orphans_after_seconds": 0,
        },
    }
    trial.job.write_text(yaml.safe_dump(job))


# ---------------------------------------------------------------------- drivers


@contextmanager
def driver(trial: Trial) -> Iterator[subprocess.Popen]:
    """A running `vectormill embed`, in a session of its own; its messages go to a file."""
    command = [sys.executable, "-m", "pipelines", "embed", str(trial.job), "--json"]
    # What a killed driver leaves among the temporary files goes with the trial's folder.
    environment = {**os.environ, "RAY_TMPDIR": str(trial.folder), "TMPDIR": str(trial.folder)}
    with open(trial.folder / "driver.log", "wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


def kill_once(trial: Trial, kills_left: int) -> float | None:
    """Start a driver and kill it at a random moment; seconds it lived, None if it was done before."""
    rows, _ = trial.state()
    started = time.monotonic()
    with driver(trial) as process:
        if rows and trial.chance.random() < 0.5:
            time.sleep(trial.chance.uniform(0, trial.first_commit_seconds))
        else:
            wait_for_commit(trial, process)
            trial.first_commit_seconds = time.monotonic() - started
            remaining = trial.seconds * (1 - trial.state()[0] / trial.rows)
            share = 2 / (kills_left // 2 + 1)  # every other kill advances, each by half of what it draws from
            time.sleep(trial.chance.uniform(0, min(share, 0.9) * remaining))
        family = descendants(process.pid)
        if process.poll() is not None:
            if process.returncode:
                raise SystemExit(f"the driver failed:\n{(trial.folder / 'driver.log').read_text()[-4000:]}")
            return None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    end_leftovers(trial.left)
    trial.left = family
    return time.monotonic() - started


def wait_for_commit(trial: Trial, process: subprocess.Popen) -> None:
    """Until this driver has made its first commit with rows. Creation and fence come before it."""
    wanted = max(1, trial.versions()) + 2
    deadline = time.monotonic() + LONGEST_RUN_SECONDS
    while trial.versions() < wanted and process.poll() is None:
        assert time.monotonic() < deadline, "no commit"
        time.sleep(0.05)


def descendants(pid: int) -> set[Process]:
    """The process's children, their children, and so on."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _stat(int(name))):
            parents[int(name)] = found
    family: set[Process] = set()
    wave = {pid}
    while wave:
        wave = {child for child, (parent, _) in parents.items() if parent in wave}
        family |= {(child, parents[child][1]) for child in wave}
    return family


def _stat(pid: int) -> tuple[int, str] | None:
    """Parent and start time."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19]


def end_leftovers(processes: set[Process]) -> None:
    """End, by pid, what is still alive of them. Pids that were given to other processes since are left alone."""
    for pid, began in processes:
        found = _stat(pid)
        if found is not None and found[1] == began:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


# ---------------------------------------------------------------------- the judge


def expected_vectors(rows: int) -> dict[str, np.ndarray]:
    """What an undisturbed run gives, from the model layer alone."""
    vectors = Embedder(ModelSpec("fake")).embed_documents([text_of(n) for n in range(rows)])
    return {f"d{n}": vector for n, vector in enumerate(vectors)}


def judge(table: str, expected: dict[str, np.ndarray], storage_options: dict[str, str] | None = None) -> dict[str, int]:
    """Reads the table with lance alone. lost: ids that are not there. doubled: records beyond the first of their id.
    unknown: ids that are not in the corpus. wrong: records whose vector is null or differs in any bit."""
    found = lance.dataset(table, storage_options=storage_options).to_table(columns=["id", "vector"])
    ids = found["id"].to_pylist()
    distinct = set(ids)
    vectors = found["vector"].combine_chunks()
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    flat = vectors.values.to_numpy(zero_copy_only=False).reshape(len(ids), -1)
    right = (name not in expected or np.array_equal(v, expected[name]) for name, v in zip(ids, flat, strict=True))
    wrong = len(ids) - int(np.sum(present & np.fromiter(right, bool, len(ids))))
    return {
        "rows": len(ids),
        "lost": len(expected.keys() - distinct),
        "doubled": len(ids) - len(distinct),
        "unknown": len(distinct - expected.keys()),
        "wrong": wrong,
    }


def certified(trial: Trial) -> bool:
    """What `vectormill verify` says."""
    command = [sys.executable, "-m", "pipelines", "verify", str(trial.job), "--json", "--set", "run.engine=inline"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout, done.stderr, file=sys.stderr)
    return done.returncode == 0 and json.loads(done.stdout)["ok"]


# ---------------------------------------------------------------------- the test


def kill_many(trial: Trial, kills: int) -> int:
    """Kill drivers; returns how many were killed. A driver that was done before its kill does not count."""
    done = 0
    for _ in range(2 * kills):
        lived = kill_once(trial, kills - done)
        rows, newest = trial.state()
        if lived is None:
            print(f"      the driver was done before it could be killed: {rows:,} rows, version {newest}", flush=True)
            continue
        done += 1
        print(f"kill {done:2}: after {lived:5.1f} s, {rows:,} of {trial.rows:,} rows, version {newest}", flush=True)
        if done == kills:
            break
    return done


def run_trial(trial: Trial, kills: int) -> dict[str, object]:
    """The whole trial; what came out."""
    set_up(trial)
    trial.first_commit_seconds = SECONDS_TO_FIRST_COMMIT[trial.engine]
    started = time.monotonic()
    killed = kill_many(trial, kills)
    with driver(trial) as process:
        finished = process.wait(LONGEST_RUN_SECONDS + trial.seconds) == 0
    if not finished:
        print((trial.folder / "driver.log").read_text()[-4000:], file=sys.stderr)
    end_leftovers(trial.left)
    found = judge(str(trial.table), expected_vectors(trial.rows))
    verified = certified(trial)
    off = found["lost"] or found["doubled"] or found["unknown"] or found["wrong"] or found["rows"] != trial.rows
    return {
        "ok": bool(finished and verified and not off and killed == kills),
        "kills": killed,
        **found,
        "verified": verified,
        "finished": finished,
        "table_version": trial.state()[1],
        "seconds": round(time.monotonic() - started, 1),
        "engine": trial.engine,
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--engine", choices=("ray", "inline"), default="ray")
    parser.add_argument("--seconds", type=float, default=60, help="of work for the slowed-down model")
    parser.add_argument("--seed", type=int, default=None, help="of the kill times; absent: a new one")
    options = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    with tempfile.TemporaryDirectory(prefix="kill-", ignore_cleanup_errors=True) as folder:
        trial = Trial(Path(folder), options.rows, options.engine, options.seconds, random.Random(seed))
        try:
            result = run_trial(trial, options.kills)
        finally:
            end_leftovers(trial.left)
    versions = {name: version(name) for name in ("vectormill", "ray", "pylance", "lancedb")}
    print(json.dumps({**result, "seed": seed, **versions}))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
