"""One trial: a corpus, a table, many drivers; faults, then a last undisturbed run, then the judge."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import lance

from pipelines.errors import Superseded
from tests.support.fault_proxy import FaultProxy
from tests.system.chaos.corpus import FileVersion, Writer
from tests.system.chaos.drivers import LONGEST_RUN_SECONDS, ROOT, Driver, environment
from tests.system.chaos.history import check_versions
from tests.system.chaos.judge import Expectation, Found, judge
from tests.system.chaos.place import Place
from tests.system.chaos.processes import Process, end_leftovers
from tests.system.chaos.readers import Reader
from tests.system.chaos.setup import FAULTY, Setup

VERSIONS_READ = {"folder": 25, "bucket": 6, FAULTY: 6}  # of the table's history, after the trial
MOST_FILES = 40


def deleted(dataset: lance.LanceDataset, predicate: str) -> bool:
    """False if Lance gave up, because a run commits faster than a slow store lets it try again."""
    try:
        dataset.delete(predicate)
    except OSError as bad:
        if "Too many concurrent writers" not in str(bad):
            raise
        return False
    return True


class Trial:
    """`off` collects everything that is not as it must be, in words; empty is what is hoped for."""

    def __init__(self, setup: Setup, folder: Path, place: Place, proxy: FaultProxy | None = None):
        self.setup = setup
        self.folder = folder
        self.place = place
        self.proxy = proxy  # between the drivers and the store
        self.chance = random.Random(f"faults {setup.seed}")
        self.writer = Writer(random.Random(f"rows {setup.seed}"), setup.format, setup.chunked)
        self.expectation = Expectation()
        self.ever_gone: dict[int, set[int]] = {}  # rows that some version may lack, by shard
        self.serial = 0  # counts what makes a complete table incomplete again
        self.kept_from = 0  # the version from which on what the owner did holds: an older one is not restored
        self.drivers: list[Driver] = []  # not yet examined
        self.started = 0
        self.left: set[Process] = set()  # of drivers killed earlier
        self.first_commit_seconds = 3.0 if setup.engine == "inline" else 20.0
        self.tried: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.off: list[str] = []
        self.found = Found()
        self.versions_read = 0
        self.reader = Reader(place, self.may_lack, setup)

    # ------------------------------------------------------------------ the corpus

    def add_files(self, count: int) -> None:
        self.settle()
        for _ in range(count):
            self.put(self.writer.file(self.writer.new_path(), self.setup.rows_per_file))

    def put(self, version: FileVersion) -> None:
        """A new file, or a new version of one."""
        old = self.expectation.files.get(version.path)
        if old is not None:
            self.expectation.past.append(old)
        self.expectation.files[version.path] = version
        self.serial += 1
        self.place.put(version.path, version.content(self.chance))

    def may_lack(self, shard: int) -> set[int] | None:
        """Rows that a reader may miss in a unit; None for shards of another job."""
        return None if shard in self.expectation.foreign else self.ever_gone.get(shard, set())

    def forget_the_table(self) -> None:
        """It is dropped, with all that its owner did to it. Drivers may say so."""
        for driver in self.drivers:
            driver.may_fail = True
        self.serial += 1
        self.kept_from = 0
        for known in (self.expectation.gone, self.expectation.foreign, self.ever_gone):
            known.clear()

    def delete_unit(self, dataset: lance.LanceDataset, shard: int, unit: int) -> bool:
        """As the table's owner. The unit is pending again, with rows of it that were deleted before."""
        record = dataset.to_table(columns=["_first", "_rows"], filter=f"_unit = {unit}", limit=1).to_pylist()
        if not record or not deleted(dataset, f"_unit = {unit}"):
            return False
        self.serial += 1
        self.kept_from = self.version()
        first = record[0]["_first"]
        self.expectation.gone.get(shard, set()).difference_update(range(first, first + record[0]["_rows"]))
        return True

    def remaining(self) -> int:
        """Records still to be made."""
        dataset = self.place.open()
        if dataset is None:
            return self.expectation.rows
        return judge(dataset, self.expectation).counts["lost"]

    def ensure_work(self) -> None:
        """Enough for a driver to be hit while it works."""
        seconds = 2 if self.setup.engine == "inline" else 6
        least = self.setup.rows_per_unit * round(seconds / self.setup.seconds_per_unit)
        while self.remaining() < least and len(self.expectation.files) < MOST_FILES:
            self.add_files(3)

    # ------------------------------------------------------------------ drivers

    def start(self, *options: str, seam: tuple[str, int, str] | None = None) -> Driver:
        """Start a driver. Of those that run at one time each may be superseded by another: the fence goes by who takes
        it last, not by who starts last."""
        rivals = [other for other in self.drivers if other.alive]
        stopped = ["tests.system.chaos.seams", *map(str, seam)] if seam is not None else None
        module = stopped or ["tests.system.chaos.embed"]
        self.started += 1
        driver = Driver(self.folder, self.started, [*module, str(self.folder / "job.yaml"), "--json", *options])
        driver.serial = self.serial
        for one in (*rivals, driver):
            one.rivals |= bool(rivals)
        if seam is not None and seam[2] == "kill":
            driver.signals.append(signal.SIGKILL)
        self.drivers.append(driver)
        return driver

    def working(self) -> Driver:
        """A driver with work before it: the newest that runs, else a new one."""
        self.settle()
        running = [driver for driver in self.drivers if driver.alive]
        if running:
            return running[-1]
        self.ensure_work()
        return self.start(*self._tuning())

    def _tuning(self) -> list[str]:
        """What may change between runs does, now and then."""
        if self.chance.random() < 0.7:
            return []
        return ["--set", f"run.rows_per_unit={self.chance.choice((7, 16, 40))}"]

    def wait_for_commit(self, driver: Driver) -> bool:
        """Until this driver has committed rows: creation and fence come before that. False if it ended first."""
        wanted = max(1, self.version()) + 2
        deadline = time.monotonic() + LONGEST_RUN_SECONDS
        while self.version() < wanted:
            if not driver.alive or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def version(self) -> int:
        dataset = self.place.open()
        return 0 if dataset is None else dataset.version

    def kill(self, driver: Driver) -> bool:
        """kill -9; False if it had ended. What it leaves (Ray's processes) lives on until the next kill."""
        hit = driver.send(signal.SIGKILL)
        driver.wait()
        if hit:
            end_leftovers(self.left)
            self.left = driver.family
        return hit and driver.code == -signal.SIGKILL

    def stop_all(self) -> None:
        for driver in self.drivers:
            self.kill(driver)
        self.settle()

    def settle(self) -> None:
        """Examine the drivers that have ended: did their exit codes tell the truth?"""
        for driver in [driver for driver in self.drivers if not driver.alive]:
            self.drivers.remove(driver)
            if trouble := self._untrue(driver):
                tail = "\n".join(driver.log.splitlines()[-5:])
                self.off.append(f"driver {driver.number} ended with {driver.code}: {trouble}\n{tail}")

    def _untrue(self, driver: Driver) -> str | None:
        code = driver.code
        if code == 0:
            return self._not_complete(driver)
        if "Traceback" in driver.log:
            return "a traceback"
        if code == Superseded.exit_code:
            return None if driver.rivals or driver.may_fail else "it had no rival"
        if code in (1, 2):
            return None if driver.may_fail else "nothing was done to it that explains this"
        # Before its handlers are in place and after they are gone a signal ends Python itself: a shell sees the same.
        number = -code if code < 0 else code - 128
        return None if number in driver.signals else "it was not sent such a signal"

    def _not_complete(self, driver: Driver) -> str | None:
        """What is wrong with a table that a run called complete, if the corpus is still that of the run."""
        if driver.serial != self.serial:
            return None
        dataset = self.place.open()
        assert dataset is not None
        found = judge(dataset, self.expectation)
        certificate = driver.certificate
        if not found.complete:
            return f"the table is not complete: {dict(found.counts)} {found.examples}"
        accounted = sum(certificate[name] for name in ("embedded_rows", "bad_rows", "deleted_rows"))
        if (certificate["rows"], accounted, certificate["adds_up"]) != (self.expectation.rows,) * 2 + (True,):
            return f"its certificate does not say {self.expectation.rows} rows: {certificate}"
        return None

    # ------------------------------------------------------------------ the end

    def last_run(self) -> None:
        """One driver to the end, alone and at full speed."""
        self.stop_all()
        last = self.start("--set", "model.weights=fake", "--set", "run.stale_rows=delete")
        if last.wait() != 0:
            self.off.append(f"the last run ended with {last.code}:\n{last.log[-2000:]}")
        self.settle()

    def judge(self) -> None:
        """The verdict on the table, on its history, and what `vectormill verify` says."""
        dataset = self.place.open()
        if dataset is None:
            self.off.append("there is no table")
            return
        self.found = judge(dataset, self.expectation)
        self.off += self.found.examples
        for name in ("stale", "foreign"):
            if left := getattr(self.found, name):
                self.off.append(f"{left} {name} records are left, although the last run had to delete them")
        torn, self.versions_read = check_versions(
            self.place, self.may_lack, self.chance, VERSIONS_READ[self.setup.store]
        )
        self.off += torn + self.reader.off
        self._verify()

    def _verify(self) -> None:
        """It must certify the table, and doubt what there is to doubt: rows that its owner deleted are missing."""
        command = [sys.executable, "-m", "vectormill", "verify", str(self.folder / "job.yaml"), "--json", "--quiet"]
        command += ["--set", "run.engine=inline"]
        if self.place.endpoint:  # not through a proxy that fails
            command += ["--set", f"storage.endpoint_url={self.place.endpoint}"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(self.folder), capture_output=True, text=True, check=False
        )
        wanted = {"every row accounted for"} if self.found.deleted else set()
        try:
            found = {check["name"] for check in json.loads(done.stdout)["checks"] if not check["ok"]}
        except ValueError:
            self.off.append(f"verify ended with {done.returncode}: {done.stderr[-1000:]}")
            return
        if found != wanted or done.returncode != bool(wanted):
            self.off.append(f"verify (exit {done.returncode}) doubts {sorted(found)}, not {sorted(wanted)}")
