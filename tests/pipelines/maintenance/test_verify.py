"""verify: what it says of good tables, and of each way in which one can be bad."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.counting import ShardCache
from pipelines.corpus.reading import columns_of
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import FingerprintMismatch, StoreUnavailable, TableChanged, TableError
from pipelines.maintenance import optimize as maintain
from pipelines.maintenance import verify as verify_module
from pipelines.maintenance.status import status
from pipelines.run.certificate import account
from pipelines.run.forecast import forecast
from pipelines.run.prepare import prepare
from pipelines.table.digests import DIGEST_FIELDS, with_digests
from pipelines.table.files import reading, unreadable
from pipelines.table.table import LanceTable
from tests.support.jobs import Said, address, dataset, job, run, write_jsonl, write_parquet
from tests.support.verifying import doubts, files_of, verdict

ACCOUNT, TWICE, IDS = "every row accounted for", "each record once", "ids unique"
CLAIMED = "no row in two units"
VECTORS, SAMPLE, BAD = "vectors finite and of unit length", "sample embedded again", "bad rows are bad"
WRITTEN = "records as they were written"


def alter(config, change):
    """Write the table anew with its records changed by `change(records)`, and digests that agree: what `verify` then
    finds it finds without them. Schema and fingerprint stay."""
    old = dataset(config)
    records = old.to_table().to_pylist()
    change(records)
    changed = pa.Table.from_pylist(records, schema=old.schema).drop_columns([field.name for field in DIGEST_FIELDS])
    lance.write_dataset(with_digests(changed).cast(old.schema), config.table.location, mode="overwrite")


def append(config, records):
    lance.write_dataset(
        pa.Table.from_pylist(records, schema=dataset(config).schema), config.table.location, mode="append"
    )


# ---------------------------------------------------------------------- verify: good tables


def test_verify_certifies_a_good_table(config):
    result = verdict(config)
    assert result.ok
    assert result.certificate.adds_up
    assert result.certificate.rows == 120
    sample = next(check.found for check in result.checks if check.name == SAMPLE)
    assert sample.startswith("120 records, lowest cosine 1.0")


def test_verify_certifies_half_precision_chunks_templates_and_bad_rows(tmp_path):
    long = " ".join(f"w{n}" for n in range(100))
    records = [{"doc_id": str(n), "title": f"T{n}", "text": long if n % 2 else "kurz ü", "n": n} for n in range(20)]
    bad = [{"doc_id": None, "title": "t", "text": "x", "n": 1}, b"{broken\n", {"doc_id": "b", "text": " ", "n": 2}]
    twice = {"doc_id": "0", "title": "t", "text": "again", "n": 3}
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, *bad, twice])
    config = job(
        tmp_path,
        corpus={"text": "{title}: {text}", "columns": ["n", "title"]},
        chunking={"max_tokens": 32, "overlap_tokens": 4},
        model={"dimensions": 16},
        table={"vector_dtype": "float16"},
        run={"rows_per_unit": 64},
    )
    assert run(config).bad_rows == 2
    assert doubts(config) == {}
    found = {check.name: check.found for check in verdict(config).checks}
    assert found[BAD].startswith("2 rows with a reason read again")


def test_verify_works_in_passes(config, monkeypatch):
    monkeypatch.setattr(verify_module, "RECORDS_PER_PASS", 7)
    assert doubts(config) == {}
    append(config, dataset(config).to_table(filter="n = 41").to_pylist())
    assert {TWICE} < set(doubts(config))


def test_verify_trusts_no_cached_counts(config, monkeypatch):
    """A count cache that tells of fewer rows makes `plan` believe it; `verify` counts again and mends it."""
    monkeypatch.setattr("pipelines.corpus.counting.UNTRUSTED_NS", 0)
    forecast(config, Said())
    cache = ShardCache(f"{config.table.side_folder}/shards.arrow", config.storage, columns_of(config.corpus))
    cache.save([replace(shard, rows=10, breaks=()) for shard in cache.load().values()], 2**62)
    assert forecast(config, Said()).to_dict()["rows"] == 30
    assert doubts(config) == {}
    assert forecast(config, Said()).to_dict()["rows"] == 120


def test_verify_of_a_table_with_only_bad_rows(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "a", "text": None, "n": 1}])
    config = job(tmp_path, run={"max_bad_rows": 5})
    run(config)
    assert doubts(config) == {}


def test_verify_compares_times_that_python_cannot_hold(tmp_path):
    """After the year 9999, of an unknown zone, and inside lists and structs: compared, and a change is doubted."""
    far = pa.array([400_000_000_000, 2**40, None], pa.timestamp("s"))
    mars = pa.array([1, 2, 3], pa.timestamp("ms", "Mars/Olympus"))
    nested = pa.array([[{"d": 2**30}], [], None], pa.list_(pa.struct([("d", pa.date32())])))
    table = pa.table({"doc_id": ["a", "b", "c"], "text": ["x", "y", "z"], "far": far, "mars": mars, "nested": nested})
    (tmp_path / "corpus").mkdir()
    pq.write_table(table, tmp_path / "corpus" / "a.parquet")
    config = job(tmp_path, corpus={"columns": ["far", "mars", "nested"]})
    run(config)
    assert doubts(config) == {}
    dataset(config).update({"far": "CAST(7 AS TIMESTAMP)"}, where="id = 'a'")
    assert "1 have another id or other columns in the corpus" in doubts(config)[SAMPLE]


def test_account_is_read_from_the_table(config, tmp_path):
    """`account` is what verify leans on: a row deleted behind its back is counted."""
    dataset(config).delete("n = 0")
    prepared = prepare(config, InlineExecutor())
    certificate = account(prepared, LanceTable.open(address(config)))
    assert (certificate.embedded_rows, certificate.deleted_rows, certificate.missing_rows) == (119, 1, 0)


# ---------------------------------------------------------------------- verify: each doubt


def test_deleted_row(config):
    dataset(config).delete("n = 17")
    assert set(doubts(config)) == {ACCOUNT}
    assert "1 deleted from the table since" in doubts(config)[ACCOUNT]


def test_deleted_unit(config):
    dataset(config).delete("n < 16")
    found = doubts(config)
    assert set(found) == {ACCOUNT}
    assert "16 MISSING" in found[ACCOUNT]


def test_doubled_record(config):
    append(config, dataset(config).to_table(filter="n = 17").to_pylist())
    found = doubts(config)
    assert set(found) == {ACCOUNT, CLAIMED, TWICE}
    assert "1 TOO MANY" in found[ACCOUNT]


def test_doubled_record_that_makes_up_for_a_deleted_one(config):
    """The number of rows is right, yet one is lost."""
    dataset(config).delete("n = 3")
    append(config, dataset(config).to_table(filter="n = 100").to_pylist())
    assert set(doubts(config)) == {ACCOUNT, CLAIMED, TWICE}


def test_unit_in_the_table_twice_under_another_name(config):
    """What a second committer without the fence would leave behind."""
    copies = dataset(config).to_table(filter="n < 16").to_pylist()
    for record in copies:
        record["_unit"] += 1
    append(config, copies)
    assert {CLAIMED, TWICE, ACCOUNT} == set(doubts(config))


def scale(records):
    records[5]["vector"] = [x * 1.1 for x in records[5]["vector"]]


def not_a_number(records):
    records[5]["vector"] = [float("nan"), *records[5]["vector"][1:]]


def null_without_reason(records):
    records[5]["vector"] = None


def reason_beside_a_vector(records):
    records[5]["_reason"] = "no_text"


def swap(name):
    def change(records):
        records[5][name], records[90][name] = records[90][name], records[5][name]

    return change


@pytest.mark.parametrize(
    ("change", "names", "words"),
    [
        (scale, {VECTORS, SAMPLE}, "1 wrong"),
        (not_a_number, {VECTORS, SAMPLE}, "1 wrong"),
        (null_without_reason, {VECTORS}, "1 wrong"),
        (reason_beside_a_vector, {VECTORS, BAD}, "1 have none in the corpus"),
        (swap("vector"), {SAMPLE}, "2 are not the vectors of their rows"),
        (swap("id"), {SAMPLE}, "2 have another id or other columns"),
        (swap("n"), {WRITTEN, SAMPLE}, "2 have another id or other columns"),
    ],
    ids=["scaled", "nan", "null", "reason", "vectors swapped", "ids swapped", "columns swapped"],
)
def test_spoilt_record(config, change, names, words):
    alter(config, change)
    found = doubts(config)
    assert set(found) == names
    assert words in str(found)


def test_good_row_recorded_as_bad(config):
    def change(records):
        records[5] |= {"vector": None, "_reason": "no_text"}

    alter(config, change)
    assert set(doubts(config)) == {BAD}


@pytest.mark.parametrize(("chunk", "names"), [(1, {TWICE}), (3, {TWICE, SAMPLE})], ids=["middle", "last"])
def test_lost_passage(tmp_path, chunk, names):
    long = " ".join(f"w{n}" for n in range(100))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": str(n), "text": long, "n": n} for n in range(5)])
    config = job(tmp_path, chunking={"max_tokens": 32, "overlap_tokens": 4})
    run(config)
    assert doubts(config) == {}
    dataset(config).delete(f"id = '2' AND _chunk = {chunk}")
    assert set(doubts(config)) == names
    again = run(config)
    assert (again.incomplete_rows, again.missing_rows, again.adds_up) == (1, 0, False)


def test_id_used_in_two_shards(tmp_path):
    write_parquet(tmp_path / "corpus", shards=2)
    table = pq.read_table(tmp_path / "corpus" / "part-1.parquet")
    doc_ids = ["d7", *table["doc_id"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "doc_id", pa.array(doc_ids)), tmp_path / "corpus" / "part-1.parquet")
    config = job(tmp_path)
    certificate = run(config)
    assert (certificate.adds_up, certificate.duplicate_ids, certificate.embedded_rows) == (True, 1, 80)
    assert doubts(config) == {}
    assert "1 ids name several rows, such as 'd7'" in {c.name: c.found for c in verdict(config).checks}[IDS]
    strict = job(tmp_path, run={"max_duplicate_ids": 0})
    assert set(doubts(strict)) == {IDS}
    refused = run(strict)
    assert not refused.adds_up
    assert "1 ids name several rows each" in refused.failures[0]
    assert "run.max_duplicate_ids is 0" in refused.failures[0]


def test_shard_that_left_the_corpus(config):
    (Path(config.corpus.uri) / "part-0.parquet").unlink()
    found = doubts(config)
    assert set(found) == {"no row without a source"}
    assert "40 rows" in str(found)
    assert "run.stale_rows=delete" in str(found)


def test_table_of_another_corpus_altogether(config):
    """No record has a source: there is nothing to sample, and no crash over it."""
    shutil.rmtree(config.corpus.uri)
    write_parquet(Path(config.corpus.uri), shards=1, first=1000)
    assert set(doubts(config)) == {"no row without a source", ACCOUNT}


def test_added_shard(config):
    write_parquet(Path(config.corpus.uri), shards=1, first=1000)
    found = doubts(config)
    assert set(found) == {ACCOUNT}
    assert "40 MISSING (run `vectormill embed` again)" in found[ACCOUNT]


def test_verify_refuses_what_it_cannot_judge(config, tmp_path):
    with pytest.raises(TableError, match=r"there is no table at .*nope.lance yet"):
        verdict(job(tmp_path, table={"name": "nope"}))
    with pytest.raises(FingerprintMismatch) as bad:
        verdict(job(tmp_path, model={"dimensions": 32, "prompt": "x"}))
    assert set(bad.value.differences) == {"dimensions", "prompt"}


def damage(how, path):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if how == "cut" else content[:50] + bytes(400) + content[450:])


def test_a_table_that_is_whole_is_not_called_damaged(config):
    """A reader's version may be gone with its files; and a store may say for a moment that a file is not there."""
    old = dataset(config)
    name = old.get_fragments()[0].metadata.files[0].path
    missing = OSError(f"Not found: {config.table.location}/data/{name}")
    there = unreadable(missing, address(config))
    assert (type(there), there.exit_code) == (StoreUnavailable, 1)
    maintain.optimize(address(config), Said())
    dataset(config).cleanup_old_versions(older_than=timedelta(0))
    gone = unreadable(missing, address(config))
    assert (type(gone), gone.exit_code) == (TableChanged, 1)
    assert "The table is whole; run the same command again" in str(gone)
    with pytest.raises(TableChanged, match="the version that was read is gone"), reading(address(config)):
        old.to_table()
    assert doubts(config) == {}


@pytest.mark.parametrize(
    ("how", "words"), [("gone", r"the data file [\w-]+\.lance is gone"), ("cut", "damaged"), ("zeroed", "damaged")]
)
def test_damaged_data_file(config, how, words):
    damage(how, next(path for path in files_of(config) if path.parent.name == "data"))
    commands = [lambda: verify_module.verify(config, Said())]
    if how != "zeroed":  # a status reads only some of the columns
        commands += [lambda: status(address(config)), lambda: maintain.optimize(address(config), Said())]
    for command in commands:
        with pytest.raises(TableError, match=words) as caught:
            command()
        assert "delete" not in str(caught.value)
