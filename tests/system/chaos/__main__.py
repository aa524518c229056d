"""Random faults over small jobs until there were enough of them; exit 1 if anything is off.

    python -m tests.system.chaos [--faults 1000] [--minutes 30] [--seed N]
    python -m tests.system.chaos --trial-seed N       one trial again, such as one that failed

Each trial is a generated corpus, a job with the fake model slowed down, and drivers that are killed, stopped,
overtaken and disturbed in an order drawn from the trial's seed; then a last run that nothing disturbs, and the judge:
the table read with lance alone against what was computed without the pipeline (ids, vectors bit for bit, reasons),
its versions one by one, what readers saw meanwhile, what each driver's exit code said, and `vectormill verify`.

Goes on until both --faults faults were counted and --minutes minutes have passed: `--minutes 0` goes by faults alone,
`--faults 0` by time alone. Prints a line a trial and one JSON line at the end. The folder of a trial that failed is
kept. The seed decides what is done, not to the millisecond when. Linux: processes are found by /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from benchmarks import machine
from tests.support.fault_proxy import FaultProxy
from tests.system.chaos.faults import KINDS, Kind
from tests.system.chaos.judge import FAULTS
from tests.system.chaos.place import KEYS, Place, moto
from tests.system.chaos.processes import end_leftovers
from tests.system.chaos.setup import ENGINES, FAULTY, STORES, Setup
from tests.system.chaos.trial import Trial

TRIES = 10  # after so many a kind of fault must have happened


class Suite:
    """Trials side by side, and their sums."""

    def __init__(self, options: argparse.Namespace, folder: Path, endpoint: str | None):
        self.options = options
        self.folder = folder
        self.endpoint = endpoint
        self.began = time.monotonic()
        self.machine = machine.facts()
        self.tried: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.sums: Counter[str] = Counter()
        self.failed: list[int] = []
        self.running: list[Trial] = []
        self.stopping = threading.Event()
        self._seeds = random.Random(options.seed)
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    def enough(self) -> bool:
        faults = self.faults.total() + sum(trial.faults.total() for trial in self.running)
        done = faults >= self.options.faults and self.seconds >= 60 * self.options.minutes
        given_up = len(self.failed) >= self.options.failures
        return self.stopping.is_set() or given_up or (done and self.options.trial_seed is None)

    def lane(self) -> None:
        """One trial after the other."""
        while not self.enough():
            with self._lock:
                seed = self._seeds.randrange(2**31)
            self.trial(seed)

    def trial(self, seed: int) -> None:
        with self._lock:
            self.sums["trials"] += 1
            name = f"t{self.sums['trials']:03d}"
        setup = Setup.draw(seed, self.options.engine, self.options.store)
        folder = self.folder / name
        folder.mkdir()
        started = time.monotonic()
        with ExitStack() as stack:
            proxy = None
            if setup.store == FAULTY:
                proxy = stack.enter_context(FaultProxy(str(self.endpoint), seed))
            place = Place.local(folder)
            if setup.store != "folder":
                place = Place.bucket(f"{name}-{seed}", str(self.endpoint), proxy.url if proxy else None)
            trial = Trial(setup, folder, place, proxy)
            self.running.append(trial)
            run(trial, self.kinds(setup), self)
        with self._lock:
            self.running.remove(trial)
            self._add(trial, name, time.monotonic() - started)
        if trial.off:
            keep(trial)
        else:
            shutil.rmtree(folder, ignore_errors=True)

    def kinds(self, setup: Setup) -> list[Kind]:
        return [kind for kind in KINDS if kind.fits(setup) and self.options.only in kind.name]

    def _add(self, trial: Trial, name: str, seconds: float) -> None:
        self.tried += trial.tried
        self.faults += trial.faults
        found = trial.found
        self.sums["records judged"] += found.records
        self.sums["rows of the corpora"] += trial.expectation.rows
        self.sums["drivers"] += trial.started
        self.sums["reads"] += trial.reader.looks
        self.sums["requests hit"] += trial.proxy.injected.total() if trial.proxy else 0
        self.sums["versions read"] += trial.versions_read
        self.sums.update({fault: found.counts[fault] for fault in FAULTS})
        if trial.off:
            self.failed.append(trial.setup.seed)
        verdict = "ok" if not trial.off else "FAILED: " + "\n    ".join(trial.off[:5])
        print(
            f"{name} --trial-seed {trial.setup.seed}: {trial.setup}: {trial.faults.total()} faults, {trial.started} "
            f"drivers, {found.records:,} records, {trial.reader.looks} reads, {seconds:.0f} s, {verdict}",
            flush=True,
        )

    def result(self) -> dict[str, Any]:
        """A kind that was often tried and never happened as meant tests nothing: that is not well either."""
        never = sorted(kind for kind, times in self.tried.items() if times >= TRIES and not self.faults[kind])
        wrong = self.failed or never or any(self.sums[fault] for fault in FAULTS)
        found = {
            "ok": not wrong and not self.stopping.is_set(),
            "faults": self.faults.total(),
            "by_kind": dict(sorted(self.faults.items())),
            "never_happened": never,
            **{name.replace(" ", "_"): count for name, count in self.sums.items()},
            "failed_trial_seeds": self.failed,
            "seconds": round(self.seconds, 1),
        }
        return machine.result("chaos", vars(self.options), self.machine, **found)


def run(trial: Trial, kinds: list[Kind], suite: Suite) -> None:
    """All of a trial. Whatever goes wrong is in `trial.off`; nothing of it is left running."""
    try:
        trial.setup.write_job(trial.folder / "job.yaml", trial.place)
        trial.add_files(trial.setup.files)
        trial.reader.start()
        for kind in trial.chance.choices(kinds, [kind.weight for kind in kinds], k=trial.setup.faults):
            if trial.off or suite.enough():
                break
            trial.tried[kind.name] += 1
            if kind.inflict(trial):
                trial.faults[kind.name] += 1
            trial.settle()
        if not trial.off and not suite.stopping.is_set():
            trial.last_run()
            trial.reader.end()
            trial.judge()
    except Exception as bad:  # noqa: BLE001 - a trial that breaks must not end the others
        trial.off.append(f"{type(bad).__name__}: {bad}")
    finally:
        trial.reader.end()
        for driver in trial.drivers:
            trial.kill(driver)
        end_leftovers(trial.left)


def keep(trial: Trial) -> None:
    """What is needed to look into a trial that failed."""
    (trial.folder / "off.txt").write_text("\n".join(trial.off))
    if trial.place.endpoint:
        source = trial.place.root.removeprefix("s3://")
        target = str(trial.folder / "bucket")
        pafs.copy_files(
            source, target, source_filesystem=trial.place.files, destination_filesystem=pafs.LocalFileSystem()
        )
    print(f"    kept: {trial.folder}", flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=1000, help="at least so many (1000)")
    parser.add_argument("--minutes", type=float, default=30, help="at least so long (30)")
    parser.add_argument("--failures", type=int, default=5, help="give up after so many failed trials (5)")
    parser.add_argument("--seed", type=int, help="of all trials; absent: a new one")
    parser.add_argument("--trial-seed", type=int, help="run this one trial alone")
    lanes = (os.cpu_count() or 1) + 1  # a trial waits as much as it works
    parser.add_argument("--at-once", type=int, default=lanes, help=f"trials side by side ({lanes})")
    parser.add_argument("--engine", choices=list(ENGINES), help="of all trials, instead of a mixture")
    parser.add_argument("--store", choices=list(STORES), help="of all trials, instead of a mixture")
    parser.add_argument("--only", default="", help="faults whose name holds this")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    os.environ.update(KEYS)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    with ExitStack() as stack:
        endpoint = stack.enter_context(moto()) if options.store != "folder" else None
        suite = Suite(options, folder, endpoint)
        stops = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(stop, lambda *_: suite.stopping.set()) for stop in stops]
        if options.trial_seed is not None:
            suite.trial(options.trial_seed)
        else:
            with ThreadPoolExecutor(options.at_once) as lanes:
                for lane in [lanes.submit(suite.lane) for _ in range(options.at_once)]:
                    lane.result()
        for stop, handler in zip(stops, before, strict=True):
            signal.signal(stop, handler)
        result = suite.result()
    if not suite.failed:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
