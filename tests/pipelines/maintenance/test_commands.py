"""status, verify, optimize and plan: what they say of good tables, and of each way in which one can be bad."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import boto3
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import StorageConfig
from pipelines.corpus.counting import ShardCache
from pipelines.corpus.reading import columns_of
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import FingerprintMismatch, TableError
from pipelines.maintenance import optimize as maintain
from pipelines.maintenance import verify as verify_module
from pipelines.maintenance.status import status
from pipelines.run.certificate import account
from pipelines.run.forecast import forecast
from pipelines.run.prepare import prepare
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table import compaction
from pipelines.table.digests import DIGEST_FIELDS, with_digests
from pipelines.table.files import TableAddress
from pipelines.table.index import columns
from pipelines.table.table import LanceTable
from tests.support.jobs import (
    Said,
    address,
    between_commits,
    dataset,
    ids,
    job,
    rows,
    run,
    stop_after,
    text_of,
    write_jsonl,
    write_parquet,
)

ROOT = Path(__file__).parents[3]
ACCOUNT, TWICE, IDS = "every row accounted for", "each record once", "ids unique"
CLAIMED = "no row in two units"
VECTORS, SAMPLE, BAD = "vectors finite and of unit length", "sample embedded again", "bad rows are bad"


def verdict(config, sample=1000):
    """Verify with a sample as large as the table; says that nothing was written to it."""
    before = {path: path.stat().st_mtime_ns for path in files_of(config)}
    result = verify_module.verify(config, Said(), sample)
    assert {path: path.stat().st_mtime_ns for path in files_of(config)} == before
    return result


def files_of(config):
    return [path for path in Path(config.table.location).rglob("*") if path.is_file()]


def doubts(config):
    result = verdict(config)
    assert result.ok == (not [check for check in result.checks if not check.ok])
    return {check.name: check.found for check in result.checks if not check.ok}


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


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    write_parquet(folder / "corpus")
    run(job(folder))
    return folder


@pytest.fixture
def config(tmp_path, built):
    """A job whose table of 120 rows is complete, for a test to spoil."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return job(tmp_path)


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
    assert run(config).bad_rows == 3
    assert doubts(config) == {}
    found = {check.name: check.found for check in verdict(config).checks}
    assert found[BAD].startswith("2 rows with a reason read again"), "a duplicate id is not seen in one row alone"


def test_verify_works_in_passes(config, monkeypatch):
    monkeypatch.setattr(verify_module, "RECORDS_PER_PASS", 7)
    assert doubts(config) == {}
    append(config, dataset(config).to_table(filter="n = 41").to_pylist())
    assert {TWICE, IDS} < set(doubts(config))


def test_verify_trusts_no_cached_counts(config):
    """A count cache that tells of fewer rows makes `plan` believe it; `verify` counts again and mends it."""
    for path in (Path(config.corpus.uri)).iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
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
    assert set(found) == {ACCOUNT, CLAIMED, TWICE, IDS}
    assert "1 TOO MANY" in found[ACCOUNT]


def test_doubled_record_that_makes_up_for_a_deleted_one(config):
    """The number of rows is right, yet one is lost."""
    dataset(config).delete("n = 3")
    append(config, dataset(config).to_table(filter="n = 100").to_pylist())
    assert set(doubts(config)) == {ACCOUNT, CLAIMED, TWICE, IDS}


def test_unit_in_the_table_twice_under_another_name(config):
    """What a second committer without the fence would leave behind."""
    copies = dataset(config).to_table(filter="n < 16").to_pylist()
    for record in copies:
        record["_unit"] += 1
    append(config, copies)
    assert {CLAIMED, TWICE, IDS, ACCOUNT} == set(doubts(config))


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
        (swap("n"), {SAMPLE}, "2 have another id or other columns"),
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


@pytest.mark.parametrize(("chunk", "name"), [(1, TWICE), (3, SAMPLE)], ids=["middle", "last"])
def test_lost_passage(tmp_path, chunk, name):
    long = " ".join(f"w{n}" for n in range(100))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": str(n), "text": long, "n": n} for n in range(5)])
    config = job(tmp_path, chunking={"max_tokens": 32, "overlap_tokens": 4})
    run(config)
    assert doubts(config) == {}
    dataset(config).delete(f"id = '2' AND _chunk = {chunk}")
    assert set(doubts(config)) == {name}


def test_id_used_in_two_shards(tmp_path):
    write_parquet(tmp_path / "corpus", shards=2)
    table = pq.read_table(tmp_path / "corpus" / "part-1.parquet")
    doc_ids = ["d7", *table["doc_id"].to_pylist()[1:]]
    pq.write_table(table.set_column(0, "doc_id", pa.array(doc_ids)), tmp_path / "corpus" / "part-1.parquet")
    config = job(tmp_path)
    assert run(config).adds_up
    found = doubts(config)
    assert set(found) == {IDS}
    assert "1 ids name more than one embedded row; corpus.id must be unique" in found[IDS]


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


@pytest.mark.parametrize(
    ("how", "words"), [("gone", r"the data file \w+\.lance is gone"), ("cut", "damaged"), ("zeroed", "damaged")]
)
def test_damaged_data_file(config, how, words):
    damage(how, next(path for path in files_of(config) if path.parent.name == "data"))
    commands = [lambda: verify_module.verify(config, Said())]
    if how != "zeroed":  # a status reads only some of the columns
        commands += [lambda: status(address(config)), lambda: maintain.optimize(address(config), Said())]
    for command in commands:
        with pytest.raises(TableError, match=words):
            command()


# ---------------------------------------------------------------------- status


def test_status_says_what_the_table_holds(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": f"x{n}", "text": text_of(n), "n": n} for n in range(30)])
    bad = [{"doc_id": f"e{n}", "text": "", "n": n} for n in range(5)] + [{"doc_id": None, "text": "t", "n": 1}]
    write_jsonl(tmp_path / "corpus" / "b.jsonl", bad)
    config = job(tmp_path)
    certificate = run(config)
    found = status(address(config), bad_rows_shown=3).to_dict()
    table = dataset(config)
    assert found["version"] == table.version == found["versions_kept"]
    assert found["rows"] == found["corpus_rows"] == found["records"] == table.count_rows() == 36
    assert found["units"] == found["units_total"] == certificate.units == 3
    assert found["tokens"] == sum(r["_tokens"] for r in rows(config)) == certificate.tokens
    assert (found["bad_rows"], found["reasons"]) == (6, {"empty_text": 5, "no_id": 1})
    assert [row["_detail"].split(":")[0] for row in found["first_bad_rows"]] == [f"b.jsonl row {n}" for n in range(3)]
    assert found["bytes"] == sum(path.stat().st_size for path in files_of(config) if path.parent.name == "data")
    assert found["fingerprint"] == certificate.fingerprint
    assert len(status(address(config), bad_rows_shown=99).to_dict()["first_bad_rows"]) == 6
    assert json.dumps(found)


def test_status_while_a_run_is_between_commits(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    seen = []
    between_commits(monkeypatch, lambda: seen.append(status(address(config)).to_dict()))
    run(config)
    assert [s["rows"] for s in seen] == [16, 32, 40, 56, 72, 80, 96, 112, 120]
    assert {s["corpus_rows"] for s in seen} == {120}
    assert {s["units_total"] for s in seen} == {9}
    assert all(s["last_run"] and s["last_commit"] for s in seen)


def test_status_needs_neither_ray_nor_torch(config):
    code = (
        "import sys; from pipelines.cli.app import app\n"
        f"app(['status', {config.table.location!r}, '--json'], standalone_mode=False)\n"
        "print(sorted({'ray', 'torch', 'transformers', 'lancedb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found, loaded = done.stdout.splitlines()
    assert json.loads(found)["rows"] == 120
    assert loaded == "[]"


def test_status_of_what_is_not_ours(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/foreign.lance")
    for name, words in [("foreign", "was not created by vectormill"), ("missing", "there is no table at")]:
        with pytest.raises(TableError, match=words):
            status(TableAddress(f"{tmp_path}/{name}.lance", StorageConfig()))


def test_all_commands_on_s3(tmp_path, s3_endpoint):
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    write_parquet(tmp_path / "corpus", shards=1)
    storage = {"endpoint_url": s3_endpoint, "region": "us-east-1"}
    config = job(tmp_path, table={"uri": f"s3://{bucket}/db"}, storage=storage)
    with pytest.raises(TableError, match="there is no table"):
        status(address(config))
    run(config)
    found = status(address(config)).to_dict()
    assert (found["rows"], found["versions_kept"]) == (40, found["version"])
    assert verify_module.verify(config, Said(), 100).ok
    assert maintain.optimize(address(config), Said()).to_dict()["fragments_after"] == 1
    assert verify_module.verify(config, Said(), 100).ok
    assert Searcher(address(config)).search(text_of(7), Query(limit=1))[0].id == "d7"


# ---------------------------------------------------------------------- optimize


def optimize(config):
    return maintain.optimize(address(config), Said())


def test_compaction_keeps_every_row_and_its_provenance(config):
    before = rows(config)
    result = optimize(config).to_dict()
    assert (result["fragments_before"], result["fragments_after"], result["fragments_removed"]) == (9, 1, 9)
    assert result["index"]["action"] == "none"
    assert rows(config) == before
    assert doubts(config) == {}
    assert run(config).adds_up
    assert dataset(config).version == result["version"], "the checkpoint survived: nothing was left to do"
    assert optimize(config).to_dict()["fragments_removed"] == 0


def test_run_goes_on_after_an_optimize(tmp_path, built, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    done = len(rows(config))
    assert optimize(config).to_dict()["fragments_after"] == 1
    said = Said()
    assert run(config, display=said).adds_up
    assert f"({120 - done} of 120 rows)" in said.text
    assert rows(config) == rows(job(built))


@pytest.mark.parametrize("commits", [1, 4])
def test_optimize_during_a_run_does_not_hurt_it(tmp_path, built, monkeypatch, commits):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    seen = []

    def now_and_then():
        seen.append(1)
        if len(seen) % commits == 0:
            optimize(config)

    between_commits(monkeypatch, now_and_then)
    assert run(config).adds_up
    monkeypatch.undo()
    assert rows(config) == rows(job(built))
    assert doubts(config) == {}


def test_run_during_an_optimize_does_not_hurt_it(tmp_path, built, monkeypatch):
    """The other way round: the run commits between what optimize reads and what it commits."""
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    real = maintain.open_table

    def late(where):
        table = real(where)
        run(config)
        return table

    monkeypatch.setattr(maintain, "open_table", late)
    optimize(config)
    assert rows(config) == rows(job(built))
    assert doubts(config) == {}


def test_index_is_built_from_some_size_on_and_refreshed(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 300)
    write_parquet(tmp_path / "corpus", shards=2, rows=250)
    config = job(tmp_path, run={"rows_per_unit": 100})
    run(config)
    queries = [text_of(n) for n in (3, 77, 250, 499)]
    exact = [Searcher(address(config)).search(q, Query(limit=1))[0] for q in queries]
    result = optimize(config).to_dict()["index"]
    assert (result["action"], result["type"]) == ("built", "IVF_SQ")
    assert status(address(config)).to_dict()["indices"] == ["id_idx", result["name"]]
    found = [Searcher(address(config)).search(q, Query(limit=1))[0] for q in queries]
    assert [hit.id for hit in found] == [hit.id for hit in exact]
    assert np.allclose([hit.score for hit in found], [hit.score for hit in exact], atol=1e-5), "re-ranked exactly"
    write_parquet(tmp_path / "corpus", shards=1, rows=50, first=5000)
    run(config)
    assert Searcher(address(config)).search(text_of(5007), Query(limit=1))[0].id == "d5007", "and rows outside it"
    result = optimize(config).to_dict()["index"]
    assert (result["action"], result["unindexed_rows"]) == ("updated", 0)
    assert Searcher(address(config)).search(text_of(5007), Query(limit=1))[0].id == "d5007"
    assert doubts(config) == {}
    assert len(ids(config)) == 550


def test_optimize_with_rows_that_have_no_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 300)
    records = [{"doc_id": f"d{n}", "text": text_of(n) if n % 4 else None, "n": n} for n in range(500)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path)
    run(config)
    assert optimize(config).to_dict()["index"]["action"] == "built"
    assert Searcher(address(config)).search(text_of(77), Query(limit=1))[0].id == "d77"
    assert doubts(config) == {}


def test_old_versions_are_removed_and_data_stays(config, monkeypatch):
    assert optimize(config).to_dict()["versions_removed"] == 0, "all are younger than an hour"
    before, versions = rows(config), status(address(config)).to_dict()["versions_kept"]
    monkeypatch.setattr(compaction, "KEEP_VERSIONS_FOR", timedelta(0))
    result = optimize(config).to_dict()
    assert result["versions_removed"] == versions - 1
    assert result["bytes_removed"] > 0
    assert status(address(config)).to_dict()["versions_kept"] == 1
    assert rows(config) == before
    assert doubts(config) == {}
    write_parquet(Path(config.corpus.uri), shards=1, first=1000)
    assert run(config).adds_up
    assert len(rows(config)) == 160


def test_optimize_of_what_is_not_ours(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/foreign.lance")
    for name in ("foreign", "missing"):
        with pytest.raises(TableError):
            maintain.optimize(TableAddress(f"{tmp_path}/{name}.lance", StorageConfig()), Said())
    assert lance.dataset(f"{tmp_path}/foreign.lance").version == 1


# ---------------------------------------------------------------------- plan


def test_plan_before_during_and_after(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    before = forecast(config, Said()).to_dict()
    names = ("shards", "rows", "rows_to_embed", "units_to_embed", "stale_rows")
    assert [before[name] for name in names] == [3, 120, 120, 9, 0]
    written = [path.relative_to(tmp_path / "db").as_posix() for path in (tmp_path / "db").rglob("*") if path.is_file()]
    assert written == ["t.vectormill/shards.arrow"], "nothing but the count cache"
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    version = dataset(config).version
    assert [forecast(config, Said()).to_dict()[name] for name in names] == [3, 120, 80, 6, 0]
    assert dataset(config).version == version
    certificate = run(config)
    assert [forecast(config, Said()).to_dict()[name] for name in names] == [3, 120, 0, 0, 0]
    assert before["fingerprint"] == certificate.fingerprint
    assert before["tokens_estimate"] == pytest.approx(certificate.tokens, rel=0.2)
    assert before["vector_bytes_estimate"] == 120 * 64 * 4
    (tmp_path / "corpus" / "part-0.parquet").unlink()
    assert forecast(config, Said()).to_dict()["stale_rows"] == 40


def test_plan_estimates_passages_and_hours(tmp_path):
    long = " ".join(f"w{n}" for n in range(100))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": str(n), "text": long, "n": n} for n in range(20)])
    chunking = {"max_tokens": 32, "overlap_tokens": 4}
    found = forecast(job(tmp_path, chunking=chunking, model={"weights": "bundled"}), Said())
    assert found.replica_hours >= 0
    fake = forecast(job(tmp_path, chunking=chunking), Said())
    certificate = run(job(tmp_path, chunking=chunking))
    assert fake.to_dict()["vectors_estimate"] == certificate.records == 80
    assert fake.replica_hours is None


def test_account_is_read_from_the_table(config, tmp_path):
    """`account` is what verify leans on: a row deleted behind its back is counted."""
    dataset(config).delete("n = 0")
    prepared = prepare(config, InlineExecutor())
    certificate = account(prepared, LanceTable.open(address(config)))
    assert (certificate.embedded_rows, certificate.deleted_rows, certificate.missing_rows) == (119, 1, 0)
