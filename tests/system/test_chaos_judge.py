"""Proof that the judge of the chaos suite can find fault."""

import random
import uuid

import lance
import pyarrow as pa
import pytest

from tests.support.jobs import job, run
from tests.system.chaos.corpus import FORMATS, Writer
from tests.system.chaos.history import check_versions, torn_units
from tests.system.chaos.judge import Expectation, judge
from tests.system.chaos.place import Place

CHUNKED = {"chunking": {"max_tokens": 12, "overlap_tokens": 3}}


@pytest.fixture(params=FORMATS)
def made(request, tmp_path):
    return make(tmp_path, request.param, chunked=request.param == "jsonl")


@pytest.fixture
def simple(tmp_path):
    return make(tmp_path, "parquet", chunked=False)


def make(folder, format, chunked):
    """A place with a finished table, and what must be in it."""
    place = Place.local(folder)
    chance = random.Random(1)
    writer = Writer(chance, format, chunked)
    expectation = Expectation()
    for _ in range(3):
        version = writer.file(writer.new_path(), 60)
        expectation.files[version.path] = version
        place.put(version.path, version.content(chance))
    assert run(job(folder, **(CHUNKED if chunked else {}))).adds_up
    return place, expectation


def counts(made):
    place, expectation = made
    return dict(judge(place.open(), expectation).counts)


def a_row(place, where="_reason IS NULL"):
    """(shard, row) of some record that is not at the edge of its unit."""
    found = place.open().to_table(filter=f"{where} AND _row = 5").to_pylist()[0]
    return f"_shard = {found['_shard']} AND _row = 5"


def test_a_good_table_of_every_format(made):
    assert counts(made) == {}
    assert judge(made[0].open(), made[1]).records >= made[1].rows


def test_every_kind_of_bad_row_is_in_the_corpora():
    defects = {row.defect for format in FORMATS for row in Writer(random.Random(1), format, False).file("a", 900).rows}
    assert defects == {None, "no_id", "no_text", "empty_text", "not_a_string", "undecodable"}


def test_a_lost_row(simple):
    simple[0].open().delete(a_row(simple[0]))
    assert counts(simple) == {"lost": 1, "torn": 1}


def test_a_row_that_the_owner_deleted_is_not_lost_and_may_not_come_back(simple):
    place, expectation = simple
    shard = place.open().to_table(columns=["_shard"])["_shard"][0].as_py()
    expectation.gone[shard] = {5}
    assert counts(simple) == {"unknown": 1}
    place.open().delete(f"_shard = {shard} AND _row = 5")
    assert counts(simple) == {}
    assert judge(place.open(), expectation).deleted == 1


def test_a_lost_file(simple):
    place, _ = simple
    shard = place.open().to_table(columns=["_shard"])["_shard"][0].as_py()
    lost = place.open().count_rows(f"_shard = {shard}")
    place.open().delete(f"_shard = {shard}")
    assert counts(simple) == {"lost": lost}


def test_a_doubled_row(simple):
    place, _ = simple
    lance.write_dataset(place.open().to_table(filter=a_row(place)), place.table, mode="append")
    assert counts(simple) == {"doubled": 1}


def test_a_stranger(simple):
    place, _ = simple
    place.open().update({"_shard": "12345", "n": "999999"}, where=a_row(place))
    assert counts(simple) == {"lost": 1, "torn": 1, "unknown": 1}


def test_rows_of_another_job_are_counted_each_once(simple):
    place, expectation = simple
    place.open().update({"_shard": "12345", "id": "'theirs'"}, where=a_row(place))
    expectation.foreign[12345] = {"theirs"}
    assert counts(simple) == {"lost": 1, "torn": 1}
    lance.write_dataset(place.open().to_table(filter="id = 'theirs'"), place.table, mode="append")
    assert counts(simple)["doubled"] == 1


@pytest.mark.parametrize("column", ["id", "n", "_reason", "_end"])
def test_a_wrong_value(simple, column):
    value = {"id": "'other'", "n": "n + 1", "_reason": "'no_text'", "_end": "_end + 1"}[column]
    simple[0].open().update({column: value}, where=a_row(simple[0]))
    assert counts(simple) == {"wrong": 1}


@pytest.mark.parametrize("value", ["null", "another row's"])
def test_a_wrong_vector(simple, value):
    place, _ = simple
    where = a_row(place)
    row = place.open().to_table(filter=where)
    other = place.open().to_table(filter="_row = 6 AND _reason IS NULL", limit=1)["vector"]
    vector = pa.nulls(1, other.type) if value == "null" else other
    place.open().delete(where)
    lance.write_dataset(row.set_column(row.column_names.index("vector"), "vector", vector), place.table, mode="append")
    assert counts(simple) == {"wrong": 1}


def test_a_shard_under_two_ids(simple):
    """What a checkpoint that forgets who a shard is would leave."""
    place, _ = simple
    shard = place.open().to_table(columns=["_shard"])["_shard"][0].as_py()
    again = place.open().to_table(filter=f"_shard = {shard}")
    ids = pa.array([7] * again.num_rows, pa.int64())
    again = again.set_column(again.column_names.index("_shard"), again.schema.field("_shard"), ids)
    lance.write_dataset(again, place.table, mode="append")
    assert counts(simple)["doubled"] == again.num_rows


def test_half_a_unit_is_seen_in_any_version(simple):
    place, _ = simple
    dataset = place.open()
    unit = dataset.to_table(columns=["_unit"])["_unit"][0].as_py()
    dataset.delete(f"_unit = {unit} AND _row % 2 = 1")
    place.open().restore()
    assert torn_units(place.open(), lambda shard: set())
    off, read = check_versions(place, lambda shard: set(), random.Random(1), 1000)
    assert read == place.open().version
    assert any(str(unit) in line for line in off)
    assert not torn_units(place.open(), lambda shard: set(range(1000))), "the owner may have deleted them"


def commit(place, run):
    dataset = place.open()
    operation = lance.LanceOperation.Append([])
    transaction = lance.Transaction(
        dataset.version, operation, str(uuid.uuid4()), transaction_properties={"vectormill.run": run}
    )
    lance.LanceDataset.commit(dataset, transaction)


def test_a_run_that_commits_after_a_newer_one(simple):
    place, _ = simple
    for name in ("old", "new"):
        commit(place, name)
    assert check_versions(place, lambda shard: set(), random.Random(1), 1)[0] == []
    commit(place, "old")
    [complaint] = check_versions(place, lambda shard: set(), random.Random(1), 1)[0]
    assert "run old committed version" in complaint
