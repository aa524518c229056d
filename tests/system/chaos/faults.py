"""What dies: drivers, Ray's workers, and whose turn it is. A fault acts on a trial and says whether it happened as
meant (a driver may be done before it is hit); only then does it count."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.errors import Superseded
from tests.system.chaos import owner_faults, storage_faults, table_faults
from tests.system.chaos.history import runs_since
from tests.system.chaos.processes import kill, titled, wait_until_stopped
from tests.system.chaos.seams import IN_A_STAGE, INJECTED, MAY_FAIL, ONCE, SEAMS
from tests.system.chaos.setup import Setup
from tests.system.chaos.trial import Trial

SECONDS_TO_STOP = 60.0  # after SIGTERM; a spot machine gives 30, this one may be busy
SECONDS_TO_NOTICE = 120.0  # that one was superseded
Inflict = Callable[[Trial], bool]
BEFORE_THE_FENCE = "after creation"
SECONDS_TO_SEE = 30.0  # a worker of some kind at work
WORKERS = {  # tests/system/test_model_faults.py fails when Ray, or we, call them otherwise
    "feed": "ray::MapBatches(feed)",
    "feed's queue": "ray::_QueueActor",
    "read worker": "ray::MapBatches(read)",
    "tokenise worker": "ray::MapBatches(tokenise)",
    "replica": "ray::MapWorker(MapBatches(Replica))",
    "write worker": "ray::MapBatches(write)",
}


@dataclass(frozen=True)
class Kind:
    """fits: the trials it can happen in. weight: how often, beside the others."""

    name: str
    inflict: Inflict
    weight: float = 1.0
    fits: Callable[[Setup], bool] = lambda setup: True


def kill_driver(trial: Trial) -> bool:
    """Half of the time anywhere up to its first commit, otherwise at a random moment after one."""
    driver = trial.working()
    if trial.chance.random() < 0.5:
        time.sleep(trial.chance.uniform(0, trial.first_commit_seconds))
    elif trial.wait_for_commit(driver):
        if len(trial.drivers) == 1:
            trial.first_commit_seconds = min(max(time.monotonic() - driver.started, 1.0), 60.0)
        time.sleep(trial.chance.uniform(0, 1.0))
    return trial.kill(driver)


def kill_at_seam(seam: str) -> Inflict:
    def inflict(trial: Trial) -> bool:
        trial.ensure_work()
        nth = 1 if seam in ONCE else trial.chance.choice((1, 2, 3, 5))
        driver = trial.start(seam=(seam, nth, "kill"))
        driver.wait()
        return driver.code == -signal.SIGKILL

    return inflict


def fail_at_seam(seam: str) -> Inflict:
    """An error of the disk: the unit is done again from its source, and the run comes to its end as if nothing had
    been."""

    def inflict(trial: Trial) -> bool:
        trial.ensure_work()
        driver = trial.start(seam=(seam, trial.chance.choice((1, 2, 3, 5)), "fail"))
        driver.wait()
        return INJECTED in driver.log

    return inflict


def take_over_a_paused(trial: Trial) -> bool:
    """SIGSTOP while it works, a second takes over, SIGCONT: the first adds nothing and says why it ends."""
    first = trial.working()
    if not trial.wait_for_commit(first):
        return False
    time.sleep(trial.chance.uniform(0, 0.5))
    return first.send(signal.SIGSTOP) and wait_until_stopped(first.pid, 10) and _overtake(trial, first)


def take_over_at_seam(seam: str) -> Inflict:
    """The same with the first stopped at a named line, where its next step is the dangerous one."""

    def inflict(trial: Trial) -> bool:
        trial.ensure_work()
        first = trial.start(seam=(seam, 1 if seam in ONCE else trial.chance.choice((1, 2, 3)), "stop"))
        return wait_until_stopped(first.pid, 120) and _overtake(trial, first, has_fence=seam != BEFORE_THE_FENCE)

    return inflict


def _overtake(trial: Trial, first, has_fence: bool = True) -> bool:
    """`first` is stopped. False, and it goes on, when it has nothing left to do or the second did not take over.
    Without the fence it takes it when it goes on, and is the newer run: then the second must give way."""
    before = trial.version()
    done = not trial.remaining()
    second = None if done else trial.start()
    overtaken = second is not None and _took_over(trial, second, before)
    if overtaken:
        time.sleep(trial.chance.choice((0, 0.3, 1.5)))
    first.send(signal.SIGCONT)
    if not overtaken:
        return False
    code = first.wait(SECONDS_TO_NOTICE)
    if not has_fence:
        return True
    if code == 0 and not trial.remaining():
        return False  # stopped before its own fence, it found all done
    if code is None and second is not None and not second.alive:
        return False  # the same, and it became the newer run
    if code != Superseded.exit_code or "superseded by run" not in first.log:
        trial.off.append(f"a run that was overtaken ended with {code}:\n{first.log[-1000:]}")
    return True


def _took_over(trial: Trial, second, before: int) -> bool:
    deadline = time.monotonic() + SECONDS_TO_NOTICE
    while time.monotonic() < deadline:
        if runs_since(trial.place, before):
            return True
        if not second.alive:
            return False
        time.sleep(0.05)
    return False


def many_at_once(count: int) -> Inflict:
    """Drivers started together; all but one must end, and nothing is in twice."""

    def inflict(trial: Trial) -> bool:
        trial.ensure_work()
        drivers = [trial.start() for _ in range(count)]
        deadline = time.monotonic() + SECONDS_TO_NOTICE
        while sum(driver.alive for driver in drivers) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        return True

    return inflict


def stop(signal_number: int) -> Inflict:
    """SIGTERM (a spot machine is drained) or SIGINT: a clean end in bounded time."""

    def inflict(trial: Trial) -> bool:
        driver = trial.working()
        driver.wait_until_it_speaks()
        time.sleep(trial.chance.uniform(0, 1.5))
        if not driver.send(signal_number):
            return False
        if driver.wait(SECONDS_TO_STOP) is None:
            trial.off.append(f"a driver did not stop within {SECONDS_TO_STOP:g} s of signal {signal_number}")
            trial.kill(driver)
        return driver.code == 128 + signal_number

    return inflict


def kill_worker(title: str) -> Inflict:
    """One of Ray's processes, as soon as it is seen at work. The run goes on."""

    def inflict(trial: Trial) -> bool:
        driver = trial.working()
        if not trial.wait_for_commit(driver):
            return False
        deadline = time.monotonic() + SECONDS_TO_SEE
        while driver.alive and time.monotonic() < deadline:
            if workers := titled(driver.pid, title):
                return kill(trial.chance.choice(workers))
            time.sleep(0.02)
        return False

    return inflict


def die_with_little_to_do(trial: Trial) -> bool:
    """A run with little to do works in its own process, though its job says Ray, and dies there; the next one must not
    do the same, but go through Ray."""
    trial.start().wait()  # a table that has rows
    trial.ensure_work()
    on_ray = ("--set", "run.engine=auto")
    first = trial.start(*on_ray, seam=("before commit", trial.chance.choice((1, 2, 3)), "kill"))
    first.wait()
    if first.code != -signal.SIGKILL or "in this process, without Ray" not in first.log:
        return False
    second = trial.start(*on_ray)
    second.wait()
    if trial.remaining() or "this one goes through Ray" not in second.log:
        trial.off.append(f"after a run that died with little to do:\n{second.log[-1000:]}")
    return True


def _on(engine: str) -> Callable[[Setup], bool]:
    return lambda setup: setup.engine == engine


KINDS = [
    Kind("kill -9 of the driver", kill_driver, 6),
    *(
        Kind(f"kill -9 {seam}", kill_at_seam(seam), 0.8, _on("inline") if seam in IN_A_STAGE else lambda setup: True)
        for seam in SEAMS
    ),
    *(Kind(f"I/O error {seam}", fail_at_seam(seam), 1.5, _on("inline")) for seam in MAY_FAIL),
    Kind("paused, overtaken, resumed", take_over_a_paused, 2),
    *(
        Kind(f"stopped {seam}, overtaken, resumed", take_over_at_seam(seam), 0.5, _on("inline"))
        for seam in (
            *("after write", "before commit", "between commit and look", "after commit"),
            *("after fence", "after creation"),
        )
    ),
    Kind("two drivers at once", many_at_once(2), 1.5),
    Kind("five drivers at once", many_at_once(5), 0.5, _on("inline")),
    Kind(
        "kill -9 with little to do",
        die_with_little_to_do,
        0.1,  # a start of Ray
        lambda setup: setup.engine == "inline" and setup.store == "folder",
    ),
    Kind("SIGTERM", stop(signal.SIGTERM), 2),
    Kind("SIGINT", stop(signal.SIGINT), 2),
    *(Kind(f"kill -9 of a {name}", kill_worker(title), 6, _on("ray")) for name, title in WORKERS.items()),
    *(Kind(*one) for one in table_faults.KINDS + owner_faults.KINDS + storage_faults.KINDS),
]
