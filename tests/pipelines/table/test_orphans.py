"""Which data files belong to no version: exactly these, whatever the history, without reading all of it."""

import os
import shutil
import time
from pathlib import Path

import lance
import pytest
from lance.fragment import write_fragments
from lance.optimize import Compaction

from pipelines.config import StorageConfig
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.orphans import find_orphans
from pipelines.table.table import LanceTable
from tests.support.tables import SCHEMA, rows

DAY = 24 * 3600


@pytest.fixture
def history(tmp_path):
    """A table of 12 commits, an hour apart each, compacted after the sixth: its address and its folder."""
    address = TableAddress(f"{tmp_path}/t.lance", StorageConfig())
    table = LanceTable.open_or_create(address, SCHEMA)
    table.take_fence("run", {})
    folder = Path(address.uri)
    old = time.time() - DAY
    for number in range(12):
        table.fence.commit(write_rows(address, rows(number)), {})
        if number == 5:
            lance.dataset(address.uri).optimize.compact_files(target_rows_per_fragment=1000)
        _age(folder, old + 3600 * number)
    return address, folder


def _age(folder, when):
    """Whatever was written just now was written at `when`."""
    for file in [*folder.glob("data/*"), *folder.glob("_versions/*")]:
        if file.stat().st_mtime > time.time() - 3000:
            os.utime(file, (when, when))


def _orphan(address, folder, when):
    before = set(folder.glob("data/*"))
    write_rows(address, rows(99))
    (file,) = set(folder.glob("data/*")) - before
    os.utime(file, (when, when))
    return f"data/{file.name}"


def _found(address, **options):
    found = find_orphans(lance.dataset(address.uri), **options)
    return found.paths, found.unjudged


def test_files_of_old_versions_are_no_orphans(history):
    address, _ = history
    dataset = lance.dataset(address.uri)
    assert len(dataset.get_fragments()) == 7, "the first six became one"
    assert _found(address) == ([], 0)


def test_orphans_of_any_age_are_found(history):
    address, folder = history
    now = time.time()
    made = [_orphan(address, folder, now - DAY + 1800 + 3600 * n) for n in (0, 5, 11)]
    made.append(_orphan(address, folder, now))
    assert _found(address) == (sorted(made), 0)


def test_files_that_no_run_wrote_are_left_alone(history):
    """What a compaction or an append of somebody else has written, and has yet to commit, however long ago."""
    _, folder = history
    address = TableAddress(str(folder), StorageConfig())
    theirs = lance.dataset(address.uri)
    before = set(folder.glob("data/*"))
    write_fragments(rows(77), theirs)
    plan = Compaction.plan(theirs, {"target_rows_per_fragment": 1000})
    rewritten = [task.execute(theirs) for task in plan.tasks]
    made = set(folder.glob("data/*")) - before
    assert len(made) == 1 + len(rewritten)
    for file in made:
        os.utime(file, (time.time() - DAY, time.time() - DAY))
    assert _found(address) == ([], 0)
    Compaction.commit(theirs, rewritten)
    assert lance.dataset(address.uri).count_rows() == 36


def test_young_orphans_cost_only_the_young_manifests(history, monkeypatch):
    address, folder = history
    late = _orphan(address, folder, time.time() - DAY + 11 * 3600 + 60)
    dataset = lance.dataset(address.uri)
    asked = []
    real = lance.LanceDataset.tracked_files

    def tracked_files(self, *, min_version=None, progress=None):
        asked.append(min_version)
        return real(self, min_version=min_version, progress=progress)

    monkeypatch.setattr(lance.LanceDataset, "tracked_files", tracked_files)
    assert find_orphans(dataset).paths == [late], "not those that the compaction replaced"
    assert asked[0] == dataset.version, "what is current is taken out first"
    current = set(real(dataset, min_version=dataset.version).read_all()["path"].to_pylist())
    for file in folder.glob("data/*"):
        if f"data/{file.name}" not in {late, *current}:
            file.unlink()
    asked.clear()
    assert find_orphans(dataset).paths == [late]
    assert min(asked) >= dataset.version - 1, "versions from before it was written are not read"


def test_what_would_cost_too_much_is_left_alone_and_counted(history):
    address, folder = history
    _, late = (_orphan(address, folder, time.time() - DAY + 1800 + 3600 * n) for n in (2, 11))
    newest = sorted(folder.glob("_versions/*.manifest"))[:2]
    budget = sum(file.stat().st_size for file in newest)
    paths, unjudged = _found(address, bytes_read=budget)
    assert paths == [late]
    assert unjudged == 7, "the early one, and the six that the compaction replaced"


def test_a_copy_that_did_not_keep_times_loses_nothing(history, tmp_path):
    """Manifests first, as the operations page says: then files seem younger than the versions that hold them."""
    _, folder = history
    copy = tmp_path / "copy.lance"
    shutil.copytree(folder, copy)
    for file in copy.glob("_versions/*"):
        os.utime(file, (time.time() - DAY, time.time() - DAY))
    for file in copy.glob("data/*"):
        os.utime(file, (time.time() - DAY / 2, time.time() - DAY / 2))
    copied = TableAddress(str(copy), StorageConfig())
    assert _found(copied) == ([], 0)
    paths, unjudged = _found(copied, bytes_read=1)
    assert (paths, unjudged) == ([], 6), "without times nothing is certain within the bound"
