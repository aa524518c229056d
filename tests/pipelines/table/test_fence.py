"""The fence: what makes a commit of an older run fail. The first tests pin the conflict rules of the installed
pylance that it leans on; the others prove LanceTable's use of them."""

import uuid

import lance
import pyarrow as pa
import pytest
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from pipelines.config import StorageConfig
from pipelines.errors import StorageError, StorageRefused, StoreUnavailable, Superseded, TableChanged, TableError
from pipelines.table import contents, orphans
from pipelines.table.fence import FENCE_ID, RUN_PROPERTY, Fence
from pipelines.table.files import Handle, TableAddress, write_rows
from pipelines.table.orphans import Orphans, remove_orphans
from pipelines.table.table import LanceTable
from tests.support.tables import METADATA, SCHEMA, rows


@pytest.fixture
def table(address):
    return LanceTable.open_or_create(address, SCHEMA)


def units_of(table):
    return sorted(u.unit for u in contents.units(LanceTable.open(table.address), {}))


# ---------------------------------------------------------------------- the installed pylance


def raw_fence(dataset, fragments=()):
    operation = lance.LanceOperation.Update(removed_fragment_ids=[FENCE_ID], new_fragments=list(fragments))
    transaction = lance.Transaction(dataset.version, operation, str(uuid.uuid4()))
    return lance.LanceDataset.commit(dataset, transaction)


def test_pylance_two_fenced_commits_conflict(table):
    raw_fence(table.handle.dataset)
    with pytest.raises(CommitConflictError):
        raw_fence(table.handle.dataset)


def test_pylance_plain_append_does_not_conflict(table):
    """Why Append is not used: it is rebased silently, so a zombie's rows land."""
    stale = table.handle.dataset
    raw_fence(stale)
    fragments = write_fragments(rows(1), stale)
    operation = lance.LanceOperation.Append(fragments)
    lance.LanceDataset.commit(stale, lance.Transaction(stale.version, operation, str(uuid.uuid4())), max_retries=0)
    assert LanceTable.open(table.address).count_rows() == 3


@pytest.mark.parametrize("other", ["append", "delete", "index", "compact"])
def test_pylance_fenced_commit_rebases_over(table, other):
    """Other people's work on the table does not stop a run."""
    stale = raw_fence(table.handle.dataset, write_fragments(rows(1, 600), table.handle.dataset))
    stale = raw_fence(stale, write_fragments(rows(2, 600), stale))
    theirs = lance.dataset(table.address.location)
    if other == "append":
        lance.write_dataset(rows(3), theirs, mode="append")
    elif other == "delete":
        theirs.delete("_row = 2")
    elif other == "index":
        theirs.create_scalar_index("_unit", "BTREE")
    else:
        theirs.optimize.compact_files()
    before = theirs.count_rows() if other != "append" else 1203
    raw_fence(stale, write_fragments(rows(4), stale))
    assert lance.dataset(table.address.location).count_rows() == before + 3


# ---------------------------------------------------------------------- LanceTable


def test_older_run_is_superseded_and_adds_nothing(table, address):
    table.take_fence("old", {})
    table.fence.commit(write_rows(address, rows(1)), {})
    newer = LanceTable.open(address)
    newer.take_fence("new", {})
    with pytest.raises(Superseded, match="superseded by run new"):
        table.fence.commit(write_rows(address, rows(2)), {})
    newer.fence.commit(write_rows(address, rows(2)), {})
    assert units_of(table) == [1, 2]


def test_fence_taken_while_the_older_run_commits(table, address):
    """A commit that lands before the fence is seen by the done-set read after it."""
    table.take_fence("old", {})
    newer = LanceTable.open(address)
    table.fence.commit(write_rows(address, rows(1)), {})
    newer.take_fence("new", {})
    assert [u.unit for u in contents.units(newer, {})] == [1]


def test_the_fence_is_taken_among_many_that_want_it(table, address, monkeypatch):
    """Ten times another run comes first; five drivers at once did so six times."""
    newer, others = LanceTable.open(address), []
    opened = type(address).open
    real = lance.LanceDataset.commit

    def commit(base, transaction, **options):
        if len(others) < 10:
            others.append(Fence(Handle(address, opened(address)), f"other {len(others) + 1}"))
            real(others[-1].handle.dataset, others[-1]._transaction([], {}))
        return real(base, transaction, **options)

    monkeypatch.setattr(lance.LanceDataset, "commit", commit)
    newer.take_fence("new", {})
    assert len(others) == 10
    monkeypatch.undo()
    newer.fence.commit(write_rows(address, rows(1)), {})
    assert units_of(table) == [1]


def test_run_survives_other_commits(table, address):
    table.take_fence("run", {})
    table.fence.commit(write_rows(address, rows(1, 600)), {})
    table.fence.commit(write_rows(address, rows(2, 600)), {})
    theirs = lance.dataset(address.location)
    theirs.optimize.compact_files()
    theirs.create_scalar_index("_unit", "BTREE")
    table.fence.commit(write_rows(address, rows(3)), {})
    assert units_of(table) == [1, 2, 3]


def test_commit_survives_added_column(table, address):
    """add_columns conflicts with everything; the commit is tried again on the new version."""
    table.take_fence("run", {})
    fragments = write_rows(address, rows(1))
    lance.dataset(address.location).add_columns(pa.field("extra", pa.string()))
    table.fence.commit(fragments, {})
    assert units_of(table) == [1]


def lose_answer(monkeypatch, after=None):
    """The next commit lands, but its answer is lost."""
    real = lance.LanceDataset.commit
    state = {"lost": False}

    def commit(*args, **kwargs):
        result = real(*args, **kwargs)
        if not state["lost"]:
            state["lost"] = True
            if after:
                after()
            raise OSError("Commit result for version 3 is unknown: the commit may or may not have been applied")
        return result

    monkeypatch.setattr(lance.LanceDataset, "commit", commit)


def test_lost_answer_is_not_committed_twice(table, address, monkeypatch):
    table.take_fence("run", {})
    fragments = write_rows(address, rows(1))
    lose_answer(monkeypatch)
    table.fence.commit(fragments, {})
    table.fence.commit(write_rows(address, rows(2)), {})
    assert LanceTable.open(address).count_rows() == 6


def test_store_that_fails_while_a_lost_commit_is_looked_for(table, address, monkeypatch):
    """That says nothing about other runs: this one is not superseded, and nothing is committed twice."""
    table.take_fence("run", {})
    fragments = write_rows(address, rows(1))
    lose_answer(monkeypatch)
    real, calls = lance.LanceDataset.read_transaction, []

    def read_transaction(self, version):
        calls.append(version)
        if len(calls) == 1:
            raise OSError("Server returned non-2xx status code: 503 Service Unavailable")
        return real(self, version)

    monkeypatch.setattr(lance.LanceDataset, "read_transaction", read_transaction)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    table.fence.commit(fragments, {})
    assert len(calls) > 1
    assert LanceTable.open(address).count_rows() == 3


def test_lost_answer_then_takeover(table, address, monkeypatch):
    """Our commit landed, then a newer run took the fence before we looked: we must still be stopped."""
    table.take_fence("old", {})
    fragments = write_rows(address, rows(1))
    lose_answer(monkeypatch, after=lambda: LanceTable.open(address).take_fence("new", {}))
    table.fence.commit(fragments, {})
    with pytest.raises(Superseded):
        table.fence.commit(write_rows(address, rows(2)), {})
    assert units_of(table) == [1]


def test_failed_commit_leaves_nothing_and_says_so(table, address, monkeypatch):
    table.take_fence("run", {})
    fragments = write_rows(address, rows(1))

    def refuse(*args, **kwargs):
        raise OSError("503 Slow Down")

    monkeypatch.setattr(lance.LanceDataset, "commit", refuse)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(StoreUnavailable, match=r"asks for fewer requests \(503\).*given up: committing, attempt 10"):
        table.fence.commit(fragments, {})
    monkeypatch.undo()
    assert LanceTable.open(address).count_rows() == 0


def test_removed_versions_stop_the_run(table, address, monkeypatch):
    """If the versions in between are gone nobody can tell who committed: stop rather than guess."""
    table.take_fence("old", {})
    newer = LanceTable.open(address)
    newer.take_fence("new", {})
    newer.fence.commit(write_rows(address, rows(1)), {})

    def gone(self, version):
        raise OSError("not found")

    monkeypatch.setattr(lance.LanceDataset, "read_transaction", gone)
    monkeypatch.setattr("pipelines.table.identity.versions", lambda address: {4: "4.manifest"})
    with pytest.raises(TableChanged, match="was removed while this run waited, so it cannot tell"):
        table.fence.commit(write_rows(address, rows(2)), {})


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_a_version_that_may_not_be_read_is_not_one_that_was_removed(table, address, monkeypatch, kind):
    table.take_fence("old", {})
    newer = LanceTable.open(address)
    newer.take_fence("new", {})

    def forbidden(self, version):
        raise kind("Server returned non-2xx status code: 403 Forbidden: AccessDenied")

    monkeypatch.setattr(lance.LanceDataset, "read_transaction", forbidden)
    for look in (lambda: table.fence.commit(write_rows(address, rows(2)), {}), newer.transaction, newer.last_commit):
        with pytest.raises(StorageRefused, match="access is denied"):
            look()
    monkeypatch.undo()
    with pytest.raises(Superseded):
        table.fence.commit(write_rows(address, rows(2)), {})


def test_created_once_by_many(address):
    tables = [LanceTable.open_or_create(address, SCHEMA) for _ in range(3)]
    assert {t.version for t in tables} == {1}
    assert tables[2].metadata == METADATA


def test_losing_the_creation_race(address, monkeypatch):
    """Another creator wins between our look and our commit; its rows stay."""
    real_open = LanceTable.open.__func__
    calls = []

    def open_late(cls, where):
        calls.append(1)
        if len(calls) == 1:
            first = lance.LanceDataset.commit(
                where.location, lance.LanceOperation.Overwrite(SCHEMA, []), read_version=0, max_retries=0
            )
            raw_fence(first, write_fragments(rows(1), first))
            return None
        return real_open(cls, where)

    monkeypatch.setattr(LanceTable, "open", classmethod(open_late))
    assert LanceTable.open_or_create(address, SCHEMA).count_rows() == 3


def test_foreign_table_is_refused(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/other.lance")
    with pytest.raises(TableError, match="not created by vectormill"):
        LanceTable.open(TableAddress(f"{tmp_path}/other.lance", StorageConfig()))


def test_orphans_are_removed_only_with_the_fence(table, address):
    table.take_fence("run", {})
    table.fence.commit(write_rows(address, rows(1)), {})
    write_rows(address, rows(2))  # never committed
    assert len(remove_orphans(table.fence).paths) == 1
    assert remove_orphans(table.fence).paths == []
    assert table.handle.dataset.to_table().num_rows == 3
    with pytest.raises(AssertionError):
        remove_orphans(LanceTable.open(address).fence)


def test_a_run_that_was_overtaken_removes_no_file(table, address):
    """It was stopped between taking the fence and looking for orphans; what it finds are files of the newer run."""
    table.take_fence("old", {})
    newer = LanceTable.open(address)
    newer.take_fence("new", {})
    committed = write_rows(address, rows(1))
    newer.fence.commit(committed, {})
    in_flight = write_rows(address, rows(2))
    with pytest.raises(Superseded):
        remove_orphans(table.fence)
    newer.fence.commit(in_flight, {})
    assert newer.handle.dataset.to_table().num_rows == 6


def test_an_orphan_that_another_run_removed_first_is_no_error(table, address, monkeypatch):
    table.take_fence("run", {})
    write_rows(address, rows(1))
    found = Orphans([*orphans.find_orphans(table.handle.dataset).paths, "data/gone.lance"])
    monkeypatch.setattr(orphans, "find_orphans", lambda *_: found)
    assert remove_orphans(table.fence) == found
    assert len(found.paths) == 2


@pytest.mark.parametrize("call", ["all_files", "tracked_files"])
def test_a_store_that_fails_while_orphans_are_listed_is_one_message(table, monkeypatch, call):
    def fail(self, **_):
        raise pa.ArrowInvalid("External error: LanceError(IO): Generic S3 error: HTTP error: request or response body")

    table.take_fence("run", {})
    monkeypatch.setattr(lance.LanceDataset, call, fail)
    with pytest.raises(StorageError, match="the store failed"):
        remove_orphans(table.fence)


def test_commit_and_status_survive_a_compaction_that_rewrote_an_index(table, address, monkeypatch):
    """pylance 14.0.2 cannot show that transaction: a run passes over it when it looks for its own."""
    table.take_fence("run", {})
    for unit in (1, 2):
        table.fence.commit(write_rows(address, rows(unit, 600)), {})
    theirs = lance.dataset(address.location)
    theirs.create_scalar_index("_unit", "BTREE")
    theirs.optimize.compact_files()
    lose_answer(monkeypatch)
    table.fence.commit(write_rows(address, rows(3)), {})
    assert units_of(table) == [1, 2, 3]
    monkeypatch.undo()
    theirs.checkout_latest()
    theirs.create_scalar_index("_unit", "BTREE", replace=True)
    theirs.optimize.compact_files()
    assert LanceTable.open(address).last_commit()[RUN_PROPERTY] == "run"


def test_delete_shards_is_fenced_and_exact(table, address):
    table.take_fence("run", {})
    table.fence.commit(write_rows(address, pa.concat_tables([rows(1), rows(2, shard=7)])), {})
    table.fence.commit(write_rows(address, rows(3, shard=7)), {})
    assert table.fence.delete_shards([7], {}) == 6
    assert units_of(table) == [1]
    LanceTable.open(address).take_fence("new", {})
    with pytest.raises(Superseded):
        table.fence.delete_shards([1], {})
    assert units_of(table) == [1]


def test_last_commit_names_the_run(table, address):
    table.take_fence("run-7", {"vectormill.rows_total": "9"})
    properties = LanceTable.open(address).last_commit()
    assert properties[RUN_PROPERTY] == "run-7"
    assert properties["vectormill.rows_total"] == "9"


def test_records_without_a_range_are_read_by_their_rows(table, address):
    """Another program wrote them: it knew shard, unit and row, and nothing else of ours."""
    table.take_fence("run", {})
    table.fence.commit(write_rows(address, rows(1)), {})
    theirs = rows(2, 4)
    for name in ("_first", "_rows", "_file", "_passages"):
        place = theirs.column_names.index(name)
        theirs = theirs.set_column(place, theirs.schema.field(name), pa.nulls(4, theirs.schema.field(name).type))
    lance.write_dataset(theirs, address.uri, mode="append")
    found = {unit.unit: (unit.range, unit.rows) for unit in contents.units(LanceTable.open(address), {})}
    assert found == {1: ((0, 3), 3), 2: ((0, 4), 4)}
