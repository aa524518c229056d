"""What lives beside a run: the corpus changes, the owner deletes, others write, compact and index the same table."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

import lance
import pyarrow as pa
from lance.fragment import write_fragments

from pipelines.cli.display import Display
from pipelines.config import StorageConfig
from pipelines.maintenance.optimize import optimize
from pipelines.table.files import TableAddress
from tests.system.chaos.judge import files_in, units_of
from tests.system.chaos.setup import Setup
from tests.system.chaos.trial import MOST_FILES, Trial, deleted

FOREIGN_FENCE = 2**31 - 7
FOREIGN_ROWS = 5


# ---------------------------------------------------------------------- the corpus


def files_added(trial: Trial) -> bool:
    """While a driver runs, which does not see them."""
    if len(trial.expectation.files) >= MOST_FILES:
        return False
    trial.working()
    trial.add_files(trial.chance.randint(1, 3))
    return True


def shard_changed(trial: Trial) -> bool:
    """Between runs: a new shard under the old path. Mostly one of which rows are in the table already."""
    _table_in_use(trial)
    trial.stop_all()
    _change(trial)
    return True


def shard_changed_under_the_driver(trial: Trial) -> bool:
    """It may find out and report it, or have read the file before."""
    driver = trial.working()
    driver.wait_until_it_speaks()
    time.sleep(trial.chance.uniform(0, 2.0))
    for one in trial.drivers:
        one.may_fail = True
    _change(trial)
    return True


def _change(trial: Trial) -> None:
    dataset = trial.place.open()
    there = files_in(dataset, trial.expectation) if dataset else []
    old = trial.chance.choice(there or list(trial.expectation.files.values()))
    rows = max(1, trial.setup.rows_per_file + trial.chance.randint(-10, 10))
    trial.put(trial.writer.file(old.path, rows, like=old))


def shard_removed(trial: Trial) -> bool:
    """Between runs. Its rows are stale, and go when the job says so."""
    if len(trial.expectation.files) < 3:
        return False
    trial.stop_all()
    path = trial.chance.choice(list(trial.expectation.files))
    trial.expectation.past.append(trial.expectation.files.pop(path))
    trial.serial += 1
    trial.place.remove(path)
    return True


# ---------------------------------------------------------------------- the table


def _table_in_use(trial: Trial) -> lance.LanceDataset | None:
    """The table while a driver works on it."""
    driver = trial.working()
    trial.wait_for_commit(driver)
    time.sleep(trial.chance.uniform(0, 0.3))
    return trial.place.open()


def _some_unit(trial: Trial, dataset: lance.LanceDataset) -> tuple[tuple[int, int], set[int]] | None:
    """A unit of ours with rows enough to lose some."""
    units = units_of(dataset.to_table(columns=["_shard", "_unit", "_row"]))
    whole = [(unit, rows) for unit, rows in units.items() if len(rows) > 4 and unit[0] not in trial.expectation.foreign]
    return trial.chance.choice(whole) if whole else None


def owner_deletes_rows(trial: Trial) -> bool:
    """Some rows of a unit, which stays done."""
    dataset = _table_in_use(trial)
    found = _some_unit(trial, dataset) if dataset else None
    if dataset is None or found is None:
        return False
    (shard, _), rows = found
    taken = _taken(trial, sorted(rows))
    trial.ever_gone.setdefault(shard, set()).update(taken)
    if not deleted(dataset, f"_shard = {shard} AND _row IN ({', '.join(map(str, taken))})"):
        return False
    trial.expectation.gone.setdefault(shard, set()).update(taken)
    trial.kept_from = trial.version()
    return True


def _taken(trial: Trial, rows: list[int]) -> list[int]:
    """Some rows of a unit, half of the time those at its edges, which say where it begins and ends."""
    if trial.chance.random() < 0.5:
        return trial.chance.sample(rows, trial.chance.randint(1, 2))
    return trial.chance.choice((rows[:2], rows[-2:], [rows[0], rows[-1]]))


def owner_deletes_a_unit(trial: Trial) -> bool:
    """All rows of a unit: it is pending again. A run that took it for done says that rows are missing."""
    dataset = _table_in_use(trial)
    found = _some_unit(trial, dataset) if dataset else None
    if dataset is None or found is None:
        return False
    trial.settle()
    for driver in trial.drivers:
        driver.may_fail = True
    return trial.delete_unit(dataset, *found[0])


def compacted(trial: Trial) -> bool:
    """`vectormill optimize` while a run commits."""
    if _table_in_use(trial) is None:
        return False
    storage = StorageConfig(endpoint_url=trial.place.endpoint, region="us-east-1")
    optimize(TableAddress(trial.place.table, storage), Display(quiet=True))
    return True


def indexed(trial: Trial) -> bool:
    """A scalar or a vector index is built while a run commits."""
    dataset = _table_in_use(trial)
    if dataset is None or dataset.count_rows("vector IS NOT NULL") < 32:
        return False
    if trial.chance.random() < 0.5:
        dataset.create_scalar_index(trial.chance.choice(("id", "_unit")), "BTREE", replace=True)
    else:
        dataset.create_index("vector", "IVF_FLAT", metric="cosine", num_partitions=2, replace=True)
    return True


def another_job_commits(trial: Trial) -> bool:
    """Rows of another job, under a fence of its own or as a plain append: neither run must mind the other."""
    dataset = _table_in_use(trial)
    if dataset is None:
        return False
    shard = trial.chance.getrandbits(62)
    ids = [f"foreign-{shard}-{n}" for n in range(FOREIGN_ROWS)]
    trial.expectation.foreign[shard] = set(ids)
    known = {"_shard": shard, "_unit": shard, "_chunk": 0, "_start": 0, "_end": 0, "_tokens": 0, "_truncated": False}
    known |= {"_reason": "no_text", "_detail": "of another job"}
    if trial.chance.random() < 0.5:  # else by a program that knows nothing of them
        known |= {"_first": 0, "_rows": FOREIGN_ROWS, "_passages": 1}
    columns = {
        field.name: [known.get(field.name, None if field.nullable else 0)] * FOREIGN_ROWS for field in dataset.schema
    }
    columns |= {"id": ids, "_row": list(range(FOREIGN_ROWS))}
    rows = pa.table(columns, schema=dataset.schema.remove_metadata())
    if trial.chance.random() < 0.5:
        lance.write_dataset(rows, dataset, mode="append")
        return True
    fragments = write_fragments(rows, dataset)
    operation = lance.LanceOperation.Update(removed_fragment_ids=[FOREIGN_FENCE], new_fragments=fragments)
    lance.LanceDataset.commit(dataset, lance.Transaction(dataset.version, operation, str(uuid.uuid4())))
    return True


def _always(setup: Setup) -> bool:
    return True


KINDS: list[tuple[str, Callable[[Trial], bool], float, Callable[[Setup], bool]]] = [
    ("files added", files_added, 1, _always),
    ("shard changed", shard_changed, 1, _always),
    ("shard changed under the driver", shard_changed_under_the_driver, 1, _always),
    ("shard removed", shard_removed, 0.5, _always),
    ("rows deleted by the owner", owner_deletes_rows, 2, _always),
    ("unit deleted by the owner", owner_deletes_a_unit, 1.5, _always),
    ("optimize", compacted, 2, _always),
    ("index built", indexed, 2, _always),
    ("another job's commit", another_job_commits, 2, _always),
]
