"""The first process: it starts workers, stops one whose step takes too long, and never touches the device itself."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from actors.device.allocator import ask_for_growing_segments
from benchmarks.gpu import records
from benchmarks.gpu.steps import Step

ROOT = Path(__file__).parents[2]
ITSELF = ("-m", "benchmarks.gpu")
LOG = "worker.log"
POLL_SECONDS = 0.2
START_SECONDS = 90  # until a fresh process has imported torch and begins a step
END_SECONDS = 20  # until a process that was killed is gone; one that hangs in the driver may stay
POISONED = 3  # exit code of a worker whose device can do nothing more


def supervise(steps: Sequence[Step], out: Path, arguments: Sequence[str], minutes: float) -> None:
    """Runs workers until all steps are recorded or the time is up. arguments: those of the command, for the workers."""
    deadline = time.time() + 60 * minutes
    with (out / LOG).open("wb") as log:
        while (done := len(records.finished(records.read(out)))) < len(steps) and time.time() < deadline:
            problem = _one_worker(steps, out, [*arguments, "--worker-from", str(done)], (log, deadline))
            at = len(records.finished(records.read(out)))
            if problem is not None and at < len(steps):
                record = {"step": steps[at].name, "error": problem[0], "seconds": problem[1]}
                records.append(out, record)
                print(records.line(record), flush=True)


def _one_worker(
    steps: Sequence[Step], out: Path, arguments: Sequence[str], until: tuple[IO[bytes], float]
) -> tuple[str, float] | None:
    """Runs one; what went wrong with the step it was at, and after how many seconds."""
    log, deadline = until
    command = [sys.executable, *ITSELF, *arguments]
    ask_for_growing_segments()  # as replicas do
    worker = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    shown, lines, since = len(records.finished(records.read(out))), len(records.read(out)), time.time()
    ended = False
    while not ended:
        ended = worker.poll() is not None  # before reading: what it wrote last is to be seen
        found = records.read(out)
        done = records.finished(found)
        for record in done[shown:]:
            print(records.line(record), flush=True)
        shown = len(done)
        if len(found) > lines:
            lines, since = len(found), time.time()
        if ended:
            break
        running = bool(found) and "begins" in found[-1]
        allowed = steps[len(done)].limit if running and len(done) < len(steps) else START_SECONDS
        if time.time() - since > allowed or time.time() > deadline:
            worker.kill()
            with suppress(subprocess.TimeoutExpired):
                worker.wait(END_SECONDS)
            # At the deadline nothing failed: the step counts as not run.
            return None if time.time() > deadline else (f"stopped after {allowed:.0f} s", round(time.time() - since, 1))
        time.sleep(POLL_SECONDS)
    well = worker.returncode in (0, POISONED)
    return None if well else (f"the process ended with {worker.returncode}", round(time.time() - since, 1))
