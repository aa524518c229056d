"""A run commits to the table that it began with, or not at all: whatever its owner does to it meanwhile."""

import os
import shutil
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from pipelines.errors import Superseded, TableError
from pipelines.table import fence as fence_module
from pipelines.table.files import write_rows
from pipelines.table.identity import heal
from pipelines.table.schema import TableMetadata
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import vectors_schema
from tests.support.tables import METADATA, SCHEMA, rows


@pytest.fixture
def table(address):
    """With a run at work on it: two units are in."""
    made = LanceTable.open_or_create(address, SCHEMA)
    made.take_fence("run", {}, SCHEMA.names)
    for unit in (1, 2):
        made.fence.commit(write_rows(address, rows(unit)), {})
    return made


def drop(address):
    shutil.rmtree(address.uri)


def made_anew(address, metadata=METADATA):
    """Dropped, and another run at work on what was made in its place."""
    drop(address)
    identity = TableMetadata(metadata.identity, metadata.model, metadata.rows_per_unit)
    new = LanceTable.open_or_create(address, vectors_schema(pa.schema([]), 4, "float32", identity))
    new.take_fence("new run", {})
    new.fence.commit(write_rows(address, rows(7)), {})
    return new


def commit(table):
    table.fence.commit(write_rows(table.address, rows(3)), {})


def state(address):
    """(version, rows) as anybody reads them."""
    dataset = lance.dataset(address.uri)
    return dataset.version, dataset.to_table(columns=["id"]).num_rows


def refuses(table, words):
    with pytest.raises(Superseded, match=words):
        commit(table)


# ---------------------------------------------------------------------- before a commit


def test_a_dropped_table_does_not_come_back(table, address):
    files = write_rows(address, rows(3))
    drop(address)
    with pytest.raises(Superseded, match="was dropped while this run went on"):
        table.fence.commit(files, {})
    assert LanceTable.open(address) is None
    with pytest.raises(Superseded, match="was dropped"):
        table.fence.prove()


def test_nothing_is_added_to_a_table_made_anew(table, address):
    files = write_rows(address, rows(3))
    made_anew(address)
    before = state(address)
    with pytest.raises(Superseded, match="dropped and made anew"):
        table.fence.commit(files, {})
    assert state(address) == before


def test_nor_to_one_that_its_owner_overwrote(table, address):
    lance.write_dataset(pa.table({"x": [1]}), address.uri, mode="overwrite")
    version = lance.dataset(address.uri).version
    refuses(table, "overwrote|overwritten|none of vectormill's")
    assert lance.dataset(address.uri).version == version


def test_nor_to_one_that_its_owner_restored(table, address):
    lance.dataset(address.uri, version=3).restore()
    before = state(address)
    refuses(table, "restored an older version")
    assert state(address) == before


def test_nor_to_an_older_copy_put_in_its_place(table, address, tmp_path):
    for name in ("copy", "newer"):
        shutil.copytree(address.uri, tmp_path / name)
        commit(table)
    shutil.rmtree(address.uri)
    shutil.copytree(tmp_path / "copy", address.uri)
    before = state(address)
    refuses(table, "put an older copy in its place")
    assert state(address) == before


def test_nor_to_a_copy_that_went_on_by_itself(table, address, tmp_path):
    """Its newest version is as new as ours, and is another."""
    shutil.copytree(address.uri, tmp_path / "copy")
    commit(table)
    shutil.rmtree(address.uri)
    shutil.copytree(tmp_path / "copy", address.uri)
    lance.write_dataset(rows(9), address.uri, mode="append")
    before = state(address)
    refuses(table, "is another one now")
    assert state(address) == before


@pytest.mark.parametrize("change", ["drop", "rename"])
def test_nor_where_a_column_that_it_writes_is_no_more(table, address, change):
    theirs = lance.dataset(address.uri)
    if change == "drop":
        theirs.drop_columns(["_tokens"])
    else:
        theirs.alter_columns({"path": "_tokens", "name": "tokens"})
    before = state(address)
    refuses(table, "columns that this run writes were dropped, renamed or replaced.*_tokens")
    assert state(address) == before


def test_columns_of_the_owner_do_not_end_a_run(table, address):
    lance.dataset(address.uri).add_columns({"note": "concat('of ', id)"})
    commit(table)
    notes = lance.dataset(address.uri).to_table(columns=["note"])["note"]
    assert (len(notes), notes.null_count) == (9, 3)


# ---------------------------------------------------------------------- between the look and the commit


@pytest.fixture
def unseen(monkeypatch):
    """Does something between a run's look and its commit."""

    def happens(act):
        real = fence_module.check

        def check(handle, mine):
            found = real(handle, mine)
            monkeypatch.setattr(fence_module, "check", real)
            act()
            return found

        monkeypatch.setattr(fence_module, "check", check)

    return happens


def test_a_commit_that_landed_on_another_table_is_taken_back(table, address, unseen):
    files = write_rows(address, rows(3))
    unseen(lambda: made_anew(address))
    with pytest.raises(Superseded, match=r"made anew.*Its last commit was taken back"):
        table.fence.commit(files, {})
    assert state(address) == (3, 3)
    assert heal(address) == []


def test_so_is_one_that_landed_where_the_table_was(table, address, unseen):
    files = write_rows(address, rows(3))
    unseen(lambda: drop(address))
    with pytest.raises((Superseded, OSError), match=r"dropped|not found"):
        table.fence.commit(files, {})
    assert LanceTable.open(address) is None or not list(Path(address.uri).glob("_versions/*"))


def test_one_on_which_somebody_has_built_stays(table, address, unseen, monkeypatch):
    files = write_rows(address, rows(3))
    real = fence_module.check_landed

    def late(*arguments):
        lance.write_dataset(rows(8), address.uri, mode="append")
        real(*arguments)

    unseen(lambda: made_anew(address) and monkeypatch.setattr(fence_module, "check_landed", late))
    with pytest.raises(Superseded, match="Somebody has committed on top"):
        table.fence.commit(files, {})
    assert lance.dataset(address.uri).version == 6


def test_the_next_run_takes_back_what_a_killed_one_left_on_another_table(table, address, unseen, monkeypatch):
    files = write_rows(address, rows(3))

    def killed(*_):
        raise KeyboardInterrupt

    unseen(lambda: made_anew(address) and monkeypatch.setattr(fence_module, "check_landed", killed))
    with pytest.raises(KeyboardInterrupt):
        table.fence.commit(files, {})
    assert lance.dataset(address.uri).version == 5, "one more than it had in the table that it knew"
    monkeypatch.undo()
    assert heal(address) == [5]
    assert state(address) == (3, 3)
    assert heal(address) == []


def test_a_commit_under_which_versions_were_cleaned_up_stays(table, address, monkeypatch):
    """Below it there is a tagged one that is older than a column that the run writes."""
    lance.dataset(address.uri).drop_columns(["_mark"])
    old = lance.dataset(address.uri)
    old.tags.create("old", old.version)
    old.add_columns({"_mark": "cast(null as string)"})
    again = LanceTable.open(address)
    again.take_fence("again", {}, SCHEMA.names)
    real = fence_module.check_landed

    def late(*arguments):
        clean(address)
        real(*arguments)

    monkeypatch.setattr(fence_module, "check_landed", late)
    again.fence.commit(write_rows(address, rows(3)), {})
    assert state(address)[1] == 9
    assert heal(address) == []


@pytest.mark.parametrize("tagged", [True, False])
def test_a_whole_table_is_not_taken_back_over_what_is_left_of_another(table, address, tagged):
    """Its owner overwrote it, restored it, and removed some versions since, but not the one in between."""
    lance.write_dataset(pa.table({"x": [1]}), address.uri, mode="overwrite")
    theirs = lance.dataset(address.uri).version
    lance.dataset(address.uri, version=theirs - 1).restore()
    again = LanceTable.open(address)
    again.take_fence("again", {}, SCHEMA.names)
    again.fence.commit(write_rows(address, rows(3)), {})
    if tagged:
        lance.dataset(address.uri).tags.create("theirs", theirs)
        clean(address)
    else:
        for version in range(theirs + 1, again.version):
            os.remove(f"{address.uri}/_versions/{2**64 - 1 - version}.manifest")
    before = state(address)
    with pytest.raises(TableError, match=rf"remove version {theirs} \(and the tags on it\); else restore that"):
        heal(address)
    assert state(address) == before


# ---------------------------------------------------------------------- tags and branches


def clean(address):
    lance.dataset(address.uri).cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)


def test_a_table_with_a_tag_and_all_versions_since_goes_on(table, address):
    lance.dataset(address.uri).tags.create("good", 2)
    commit(table)
    assert state(address)[1] == 9


def test_versions_removed_since_a_tag_are_refused(table, address):
    """A commit that was prepared on the tagged version would land: no fence lies between."""
    commit(table)
    lance.dataset(address.uri).tags.create("good", 2)
    clean(address)
    with pytest.raises(TableError, match=r"the tags good keep old versions, and 2 versions since then were removed"):
        commit(table)
    with pytest.raises(TableError, match="cannot be added safely"):
        LanceTable.open(address).take_fence("next", {})
    lance.dataset(address.uri).tags.delete("good")
    commit(table)
    assert state(address)[1] == 12


def test_a_stale_commit_on_a_tagged_version_would_land(table, address):
    """Pins what the rule is for on the installed pylance."""
    old = lance.dataset(address.uri, version=2)
    lance.write_dataset(rows(9), address.uri, mode="append")
    lance.dataset(address.uri).tags.create("good", 2)
    clean(address)
    fragments = [lance.FragmentMetadata.from_json(one) for one in write_rows(address, rows(8))]
    operation = lance.LanceOperation.Update(removed_fragment_ids=[fence_module.FENCE_ID], new_fragments=fragments)
    lance.LanceDataset.commit(old, lance.Transaction(2, operation))
    assert state(address)[1] == 12


def test_branches_are_refused(table, address):
    lance.dataset(address.uri).create_branch("aside")
    with pytest.raises(TableError, match=r"has branches \(aside\).*delete_branch"):
        commit(table)
    lance.dataset(address.uri).branches.delete("aside")
    commit(table)


# ---------------------------------------------------------------------- half a copy


def test_data_without_a_version_is_no_empty_place(table, address):
    files = set(Path(address.uri).rglob("data/*"))
    shutil.rmtree(Path(address.uri) / "_versions")
    for _ in range(2):
        with pytest.raises(TableError, match=r"2 data file\(s\) and no version that names them"):
            LanceTable.open_or_create(address, SCHEMA)
    assert set(Path(address.uri).rglob("data/*")) == files
