"""What the owner of a table does to the whole of it under a run's hands: drops it, makes it anew, overwrites, restores,
tags, branches, widens, compacts, copies half of it back. A run ends then, or goes on; it adds nothing to what it does
not know, and deletes nothing that it did not write."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps

import lance
import pyarrow as pa
from lance.optimize import Compaction

from tests.system.chaos.drivers import Driver
from tests.system.chaos.judge import NOTE, is_ours
from tests.system.chaos.processes import wait_until_stopped
from tests.system.chaos.setup import Setup
from tests.system.chaos.trial import Trial

SECONDS_TO_NOTICE = 120.0
TAG, BRANCH = "kept", "aside"
ADD_ATTEMPTS = 5


Inflict = Callable[[Trial, Driver, lance.LanceDataset], bool]


def beside_one(inflict: Inflict) -> Callable[[Trial], bool]:
    """What is done to a table while a driver works on it, no other beside it."""

    @wraps(inflict)
    def inflicted(trial: Trial) -> bool:
        trial.stop_all()
        driver = trial.working()
        if not trial.wait_for_commit(driver):
            return False
        time.sleep(trial.chance.uniform(0, 0.5))
        dataset = trial.place.open()
        if dataset is None:
            return False
        return inflict(trial, driver, dataset)

    return inflicted


def _must_end(trial: Trial, driver: Driver, *words: str) -> None:
    """The driver notices what was done, unless it was done with its work before."""
    driver.may_fail = True
    if driver.wait(SECONDS_TO_NOTICE) is None:
        trial.off.append(f"a driver did not notice within {SECONDS_TO_NOTICE:g} s that {words[0]}")
    elif driver.code != 0 and not any(word in driver.log for word in words):
        trial.off.append(f"a driver ended with {driver.code}, and not over {words}:\n{driver.log[-1000:]}")


def _must_refuse(trial: Trial, *words: str) -> None:
    """A driver that begins now ends with one of these words, and changes nothing."""
    before = trial.place.names()
    driver = trial.start()
    driver.may_fail = True
    if driver.wait() in (0, None) or not any(word in driver.log for word in words):
        trial.off.append(f"a driver ended with {driver.code}, and did not refuse over {words}:\n{driver.log[-1000:]}")
    if lacking := before - trial.place.names():
        trial.off.append(f"a driver that refused over {words} deleted {sorted(lacking)[:5]}")


@beside_one
def compaction_in_flight(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """Its files lie there, named by no version, while a run begins, looks for orphans and commits; then it lands."""
    trial.stop_all()
    plan = Compaction.plan(dataset, {"target_rows_per_fragment": 1 << 20})
    rewritten = [task.execute(dataset) for task in plan.tasks]
    driver = trial.working()
    if not rewritten or not trial.wait_for_commit(driver):
        return False
    Compaction.commit(dataset, rewritten)
    newest = trial.place.open()
    assert newest is not None
    newest.validate()
    return True


@beside_one
def dropped(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    with trial.reader.away:
        trial.forget_the_table()
        trial.place.remove_table()
        _must_end(trial, driver, "was dropped", "is gone", "no version that names them", "put an older copy")
        if trial.place.open() is not None:
            trial.off.append("a dropped table came back")
        trial.place.remove_table()  # what the run was writing
    return True


@beside_one
def dropped_and_made_anew(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """By another run, while the first is stopped somewhere. Then it goes on."""
    if not driver.send(signal.SIGSTOP) or not wait_until_stopped(driver.pid, 10):
        return False
    with trial.reader.away:
        trial.forget_the_table()
        trial.place.remove_table()
        second = trial.start()
        second.may_fail = True  # it may meet the first one's commit before that is taken back
        deadline = time.monotonic() + SECONDS_TO_NOTICE
        while second.alive and trial.version() < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        driver.send(signal.SIGCONT)
        _must_end(trial, driver, "made anew", "superseded", "is gone", "was dropped")
    return True


@beside_one
def overwritten(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """With something else. No run adds to that; its owner takes it back, and the runs go on."""
    with trial.reader.away:
        other = lance.write_dataset(pa.table({"x": [1, 2]}), dataset, mode="overwrite")
        _must_end(trial, driver, "overwrote", "overwritten")
        _must_refuse(trial, "was not created by vectormill")
        now = trial.place.open()
        assert now is not None
        if now.version != other.version:
            trial.off.append(f"version {now.version} was committed over what the owner wrote as {other.version}")
        before = trial.place.open(other.version - 1)
        assert before is not None
        before.restore()
    return True


@beside_one
def restored(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """An older version, so that rows which are in are pending again."""
    old = trial.place.open(trial.chance.randint(max(1, trial.kept_from), dataset.version))
    if old is None or not is_ours(old):
        return False
    trial.serial += 1
    old.restore()
    _must_end(trial, driver, "restored", "put an older copy")
    trial.serial += 1
    return True


@beside_one
def half_a_copy(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """A restore from a copy that has got as far as the data files."""
    trial.stop_all()
    with trial.reader.away, trial.place.without_versions():
        _must_refuse(trial, "no version that names them")
    return True


@beside_one
def tagged_and_cleaned(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """An old version kept by a tag, those after it removed: a stale commit prepared on it would meet no fence."""
    old = max(1, trial.kept_from, dataset.version - trial.chance.randint(2, 6))
    if dataset.version - old < 2 or trial.place.open(old) is None:
        return False
    dataset.tags.create(TAG, old)
    dataset.cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    _must_end(trial, driver, "tags")
    _must_refuse(trial, "tags")
    dataset.tags.delete(TAG)
    return True


@beside_one
def branched(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    dataset.create_branch(BRANCH)
    _must_end(trial, driver, "branches")
    _must_refuse(trial, "branches")
    dataset.branches.delete(BRANCH)
    return True


@beside_one
def column_added(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """One of the owner's. Runs go on, and what the owner put in stays."""
    for _ in range(ADD_ATTEMPTS):
        dataset = trial.place.open()
        assert dataset is not None
        if NOTE in dataset.schema.names:
            return False
        try:
            dataset.add_columns({NOTE: "concat('of ', id)"})
            trial.kept_from = dataset.version
            return True
        except OSError as bad:  # a run committed meanwhile
            if "conflict" not in str(bad).lower():
                raise
    return False


@beside_one
def passage_lost(trial: Trial, driver: Driver, dataset: lance.LanceDataset) -> bool:
    """The last passage of a row. No account adds up then; the owner has the rows made again by deleting the unit."""
    trial.stop_all()
    rows = dataset.to_table(columns=["_unit", "_shard", "_row", "_chunk"], filter="_chunk > 0").to_pylist()
    rows = [row for row in rows if row["_shard"] not in trial.expectation.foreign]
    if not rows:
        return False
    row = trial.chance.choice(rows)
    trial.serial += 1
    dataset.delete(f"_unit = {row['_unit']} AND _row = {row['_row']} AND _chunk = {row['_chunk']}")
    driver = trial.start()
    driver.may_fail = True
    if driver.wait() == 0:
        trial.off.append(f"a run ended with 0 though a passage of {row} is lost")
    trial.delete_unit(dataset, row["_shard"], row["_unit"])
    return True


def _always(setup: Setup) -> bool:
    return True


def _chunked(setup: Setup) -> bool:
    return setup.chunked


KINDS: list[tuple[str, Callable[[Trial], bool], float, Callable[[Setup], bool]]] = [
    ("a compaction in flight", compaction_in_flight, 1.5, _always),
    ("table dropped", dropped, 1, _always),
    ("table dropped and made anew", dropped_and_made_anew, 1, _always),
    ("table overwritten", overwritten, 1, _always),
    ("older version restored", restored, 1.5, _always),
    ("half a copy", half_a_copy, 1, _always),
    ("a tag, and versions removed", tagged_and_cleaned, 1, _always),
    ("a branch", branched, 1, _always),
    ("the owner's column", column_added, 1, _always),
    ("a passage lost", passage_lost, 4, _chunked),
]
