"""`bulk-search`: each query searched once over one version of the table, and the hits in one file."""

import contextlib
import json
import math
import shutil
from datetime import timedelta
from pathlib import Path

import boto3
import lance
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from actors.spec import ModelSpec
from pipelines.config import RunConfig, StorageConfig
from pipelines.errors import ConfigError, FingerprintMismatch, TableError
from pipelines.run import job as run_job
from pipelines.search import task as search_task
from pipelines.search.bulk import BulkSearch, _in_order, bulk_search
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.search.task import SEARCHED
from pipelines.storage.files import read_bytes, writing
from pipelines.table.digests import with_digests
from pipelines.table.files import TableAddress
from pipelines.table.table import open_table
from tests.support.bulk_jobs import rerank_job, rewritten, vectormill_killed_at
from tests.support.commands import call, refused
from tests.support.jobs import Said, job, run, stop_after, text_of, write_jsonl, write_parquet

INLINE = RunConfig(engine="inline", rows_per_unit=8, commit_every_seconds=1e-9)
COLUMNS = ["query_id", "rank", "id", "similarity", "relevance", "first_rank", "chunk", "start", "end", "n", "text"]
QUERIES = [{"id": f"q{n}", "text": text_of(n * 3)} for n in range(30)]
QUERIES[3]["text"] = ""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A table of 120 rows with their texts, for tests that do not write to it."""
    folder = tmp_path_factory.mktemp("built")
    write_parquet(folder / "corpus")
    run(job(folder, table={"text_column": "text"}))
    return folder


@pytest.fixture
def queries(tmp_path):
    return str(write_jsonl(tmp_path / "queries.jsonl", QUERIES))


def table_of(folder):
    return TableAddress(str(folder / "db" / "t.lance"), StorageConfig())


def asked_for(folder, tmp_path, queries, out="results.parquet", reranker=None, **query):
    return BulkSearch(table_of(folder), queries, str(tmp_path / out), Query(**query), reranker)


def search(asked, run_as=INLINE):
    found = bulk_search(asked, run_as, Said())
    return found, pq.read_table(asked.out).to_pylist()


def expected(folder, query, reranker=None):
    searcher = Searcher(table_of(folder), reranker)
    for one in QUERIES:
        for hit in searcher.search(one["text"], query) if one["text"] else []:
            yield one["id"], hit.rank, hit.id, hit.similarity, hit.relevance, hit.first_rank, hit.columns["n"], hit.text


def same(rows, wanted):
    for row, (query_id, rank, id_, similarity, relevance, first_rank, n, text) in zip(rows, wanted, strict=True):
        assert (row["query_id"], row["rank"], row["id"], row["n"]) == (query_id, rank, id_, n)
        assert (row["first_rank"], row["text"], row["reason"]) == (first_rank, text, None)
        assert math.isclose(row["similarity"], similarity, abs_tol=1e-6)
        assert (row["relevance"] is None) == (relevance is None)
        assert relevance is None or math.isclose(row["relevance"], relevance, abs_tol=1e-6)


def test_each_query_finds_what_it_finds_alone(tmp_path, built, queries):
    found, rows = search(asked_for(built, tmp_path, queries, limit=3, where="n > 10"))
    assert pq.read_table(tmp_path / "results.parquet").schema.names == [*COLUMNS, "reason"]
    certificate = found.certificate
    assert (certificate.rows, certificate.embedded_rows, certificate.reasons) == (30, 29, {"empty_text": 1})
    assert (found.certificate.adds_up, found.hits) == (True, 87)
    same([row for row in rows if row["reason"] is None], expected(built, Query(limit=3, where="n > 10")))
    assert list(dict.fromkeys(row["query_id"] for row in rows)) == [one["id"] for one in QUERIES], "in their order"
    lost = [row for row in rows if row["query_id"] == "q3"]
    assert lost == [{**dict.fromkeys(lost[0]), "query_id": "q3", "reason": "empty_text"}]


def test_reranked_as_one_query_is(tmp_path, built, queries):
    query = Query(limit=2, candidates=20)
    _, rows = search(asked_for(built, tmp_path, queries, reranker="fake", limit=2, candidates=20))
    same([row for row in rows if row["reason"] is None], expected(built, query, ModelSpec("fake")))
    assert any(row["first_rank"] != row["rank"] for row in rows), "the second stage orders anew"


def test_a_filter_that_nothing_passes_is_an_answer(tmp_path, built, queries):
    found, rows = search(asked_for(built, tmp_path, queries, where="n < 0"))
    assert found.certificate.adds_up
    assert (found.certificate.reasons, found.hits) == ({"empty_text": 1, "nothing_found": 29}, 0)
    assert {row["reason"] for row in rows} == {"empty_text", "nothing_found"}


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_queries_come_in_each_format(kind, tmp_path, built, queries):
    _, wanted = search(asked_for(built, tmp_path, queries))
    table = pa.Table.from_pylist(QUERIES)
    file = tmp_path / f"other.{kind}"
    if kind == "parquet":
        pq.write_table(table, file)
    else:
        file.write_text("id,text\n" + "".join(f"{one['id']},{one['text']}\n" for one in QUERIES))
    assert search(asked_for(built, tmp_path, str(file), f"{kind}.parquet"))[1] == wanted


def test_a_column_that_has_the_name_of_a_result(tmp_path, queries):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": f"d{n}", "text": text_of(n), "rank": n} for n in range(9)])
    run(job(tmp_path, corpus={"columns": ["rank"]}))
    _, rows = search(asked_for(tmp_path, tmp_path, queries, limit=1))
    assert [row["rank"] for row in rows if row["reason"] is None] == [1] * 29
    assert {row["carried_rank"] for row in rows if row["reason"] is None} <= set(range(9))


def test_the_same_command_again_does_nothing_and_mends_the_file(tmp_path, built, queries):
    asked = asked_for(built, tmp_path, queries)
    _, rows = search(asked)
    version = lance.dataset(tmp_path / "results.lance").version
    (tmp_path / "results.parquet").unlink()
    assert search(asked)[1] == rows
    assert lance.dataset(tmp_path / "results.lance").version == version
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("changes", [["q3"], ["q3", "q11", "q0"]])
def test_the_order_holds_after_the_owner_changed_records(tmp_path, built, queries, changes):
    """A changed record moves to another fragment, behind all others."""
    asked = asked_for(built, tmp_path, queries, limit=3)
    _, before = search(asked, RunConfig(engine="inline", rows_per_unit=4))
    table = lancedb.connect(str(tmp_path)).open_table("results")
    for one in changes:
        table.update(where=f"id = '{one}'", values={"_detail": "seen"})
    Path(asked.out).unlink()
    assert search(asked)[1] == before
    table = lancedb.connect(str(tmp_path)).open_table("results")
    table.delete(f"id = '{before[0]['query_id']}' AND _chunk = 1")
    table.update(where="_chunk = 2", values={"_detail": "seen"})
    table.optimize()
    Path(asked.out).unlink()
    lost = (before[0]["query_id"], 2)
    request = TableAddress(str(tmp_path / "results.lance"), StorageConfig())
    parts = _in_order(open_table(request))
    found = [(row["id"], row["_chunk"]) for part in parts for row in part.to_pylist()]
    wanted = [(row["query_id"], (row["rank"] or 1) - 1) for row in before if (row["query_id"], row["rank"]) != lost]
    assert found == wanted


def test_killed_in_the_middle_it_goes_on_over_the_same_rows(tmp_path, queries):
    """The table gets more rows meanwhile: the pinned version has none of them."""
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, table={"text_column": "text"}, run={"rows_per_unit": 8})
    run(config)
    _, undisturbed = search(asked_for(tmp_path, tmp_path, queries, "undisturbed.parquet", limit=3))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    arguments = ["bulk-search", tmp_path / "job.yaml", queries, "--out", tmp_path / "results.parquet", "-k", 3]
    killed = vectormill_killed_at("before commit", 3, tmp_path, *arguments)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "results.parquet").exists()
    write_parquet(tmp_path / "corpus", shards=1, first=900)
    run(config)
    done = call(*map(str, arguments), "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0
    assert found["searched_version"] < lance.dataset(config.table.location).version
    assert pq.read_table(tmp_path / "results.parquet").to_pylist() == undisturbed
    assert pq.read_table(tmp_path / "results.parquet").equals(pq.read_table(tmp_path / "undisturbed.parquet"))


def test_a_version_that_is_gone_is_refused(tmp_path, queries, monkeypatch):
    write_parquet(tmp_path / "corpus")
    run(job(tmp_path))
    asked = asked_for(tmp_path, tmp_path, queries)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        search(asked)
    monkeypatch.undo()
    write_parquet(tmp_path / "corpus", shards=1, first=900)
    run(job(tmp_path))
    lance.dataset(tmp_path / "db" / "t.lance").cleanup_old_versions(older_than=timedelta(0))
    with pytest.raises(TableError, match=r"began with version \d+ of .*, which is gone: .*give another --out"):
        search(asked)
    assert search(asked_for(tmp_path, tmp_path, queries, "new.parquet"))[0].certificate.adds_up


def test_another_table_in_the_same_place_is_not_the_same(tmp_path, queries, monkeypatch):
    """Made anew with other rows, it may have the same version and the same model."""
    write_parquet(tmp_path / "corpus")
    run(job(tmp_path))
    asked = asked_for(tmp_path, tmp_path, queries)
    stop_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        search(asked)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "db")
    shutil.rmtree(tmp_path / "corpus")
    write_parquet(tmp_path / "corpus", first=500)
    run(job(tmp_path))
    with pytest.raises(FingerprintMismatch, match="table_transaction"):
        search(asked)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"limit": 4}, "limit: table has 10, this job has 4"),
        ({"where": "n > 1"}, "where: table has None, this job has 'n > 1'"),
        ({"exact": True}, "exact: table has False"),
        ({"reranker": "fake"}, "reranker: table has None"),
    ],
)
def test_other_options_are_refused_by_name(changed, words, tmp_path, built, queries):
    search(asked_for(built, tmp_path, queries))
    with pytest.raises(FingerprintMismatch, match="results of another search") as caught:
        search(asked_for(built, tmp_path, queries, **changed))
    assert words in str(caught.value)
    assert "Give another --out" in str(caught.value)


def test_other_queries_are_refused(tmp_path, built, queries):
    search(asked_for(built, tmp_path, queries))
    write_jsonl(tmp_path / "queries.jsonl", QUERIES[:-1])
    with pytest.raises(ConfigError, match=r"results of other queries: it differs in QUERIES \(30 of them"):
        search(asked_for(built, tmp_path, queries))


def test_another_table_is_refused(tmp_path, built, queries):
    write_parquet(tmp_path / "corpus")
    run(job(tmp_path))
    search(asked_for(built, tmp_path, queries))
    with pytest.raises(FingerprintMismatch, match="table: table has"):
        search(asked_for(tmp_path, tmp_path, queries))


def test_results_that_are_not_what_was_written_are_not_handed_out(tmp_path, built, queries):
    asked = asked_for(built, tmp_path, queries)
    search(asked)
    rewritten(tmp_path / "results.lance", lambda records: records[5].update(similarity=0.5))
    (tmp_path / "results.parquet").unlink()
    with pytest.raises(TableError, match="records are not what was written"):
        search(asked)
    assert not (tmp_path / "results.parquet").exists()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("name", SEARCHED.names)
def test_the_digests_cover_each_part_of_a_hit(name):
    hit = dict(zip(SEARCHED.names, ("d1", 0.5, None, 1, 0, 0, 9), strict=True))
    other = {"hit_id": "d2", "similarity": None, "relevance": 0.5}.get(name, 7)
    fixed = {"id": ["q"], "_chunk": pa.array([0], pa.int32()), "_reason": pa.nulls(1, pa.string())}
    tables = (
        pa.table({**fixed, **{f.name: pa.array([h[f.name]], f.type) for f in SEARCHED}})
        for h in (hit, {**hit, name: other})
    )
    found = [with_digests(table, SEARCHED.names)["_digest"][0].as_py() for table in tables]
    assert found[0] != found[1]


def test_ray_finds_the_same(tmp_path, built, queries, executor, monkeypatch):
    _, wanted = search(asked_for(built, tmp_path, queries, reranker="fake", limit=2))
    monkeypatch.setattr(run_job, "open_executor", lambda _: contextlib.nullcontext(executor))
    as_ray = RunConfig(engine="ray", rows_per_unit=8)
    assert search(asked_for(built, tmp_path, queries, "ray.parquet", "fake", limit=2), as_ray)[1] == wanted


# ---------------------------------------------------------------------- the command, and what is refused


def test_the_command(tmp_path, built, queries):
    out = tmp_path / "r.parquet"
    shown = call("bulk-search", str(built / "db" / "t"), queries, "--out", str(out), "-k", "2", "--quiet")
    assert shown.exit_code == 0
    assert "every query is accounted for" in shown.stdout
    assert "58" in shown.stdout
    assert pq.read_metadata(out).num_rows == 59
    shown = call("status", str(tmp_path / "r")).stdout
    assert "hits" in shown
    assert "30 of 30" in shown
    refused(
        2, "holds the results of task: search; this needs a table of task: embed", "search", str(tmp_path / "r"), "x"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["search"], "Missing argument 'TEXT'"),
        (["bulk-search"], "Missing argument 'QUERIES'"),
        (["bulk-search", "q.jsonl"], "Missing option '--out'"),
    ],
)
def test_what_is_missing_is_named(arguments, words, built):
    command, *others = arguments
    shown = call(command, str(built / "db" / "t"), *others)
    assert shown.exit_code == 2
    assert words in shown.stderr


def test_what_cannot_be_searched_is_said_before_anything_is_written(tmp_path, built, queries):
    for out in ("results.csv", "re sults.parquet", ".parquet"):
        with pytest.raises(ConfigError, match="results are written as Parquet"):
            search(asked_for(built, tmp_path, queries, out))
    with pytest.raises(ConfigError, match=r"--where 'nope > 1' is no filter(?s:.*)the columns are id"):
        search(asked_for(built, tmp_path, queries, where="nope > 1"))
    with pytest.raises(ConfigError, match="cannot be chosen from 3 candidates"):
        search(asked_for(built, tmp_path, queries, reranker="fake", candidates=3))
    with pytest.raises(Exception, match="there is no such folder"):
        search(asked_for(built, tmp_path, queries, reranker="./nowhere"))
    with pytest.raises(Exception, match="as a reranker only Qwen3-Reranker is supported"):
        search(asked_for(built, tmp_path, queries, reranker="bundled"))
    with pytest.raises(Exception, match="has no column 'id'"):
        search(asked_for(built, tmp_path, str(write_jsonl(tmp_path / "bad.jsonl", [{"name": "a", "text": "b"}]))))
    assert not (tmp_path / "results.lance").exists()
    (tmp_path / "results.parquet").write_text("mine")
    with pytest.raises(ConfigError, match="it would be overwritten"):
        search(asked_for(built, tmp_path, queries))
    assert (tmp_path / "results.parquet").read_text() == "mine"


def test_a_table_of_scores_is_not_searched_and_not_overwritten(tmp_path, built, queries):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"pair_id": "a", "query": "a", "document": "b", "n": 1}])
    config = rerank_job(tmp_path)
    run(config)
    scores = TableAddress(config.table.location, StorageConfig())
    with pytest.raises(TableError, match="holds the results of task: rerank; this needs a table of task: embed"):
        search(BulkSearch(scores, queries, str(tmp_path / "r.parquet"), Query()))
    with pytest.raises(TableError, match="holds the results of task: rerank, and this job has task: search"):
        search(asked_for(built, tmp_path, queries, "db/scores.parquet"))


def test_a_search_that_fails_in_a_replica_ends_the_run(tmp_path, built, queries, monkeypatch):
    """Such as a full-text index that is missing: no other query would fare better."""

    def fails(*_):
        raise TableError("there is no full-text index")

    monkeypatch.setattr(search_task.Searcher, "nearest", fails)
    with pytest.raises(Exception, match="there is no full-text index"):
        search(asked_for(built, tmp_path, queries))


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_a_file_appears_whole_or_not_at_all(where, tmp_path, request):
    storage = StorageConfig()
    uri = str(tmp_path / "folder" / "a.bin")
    if where == "s3":
        endpoint = request.getfixturevalue("s3_endpoint")
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="whole")
        storage, uri = StorageConfig(endpoint_url=endpoint, region="us-east-1"), "s3://whole/folder/a.bin"

    def fail_after(content):
        with writing(uri, storage) as stream:
            stream.write(content)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after(bytes(6 << 20))  # more than one part
    assert read_bytes(uri, storage) is None
    for content in (b"old", b"new" * (2 << 20)):
        with writing(uri, storage) as stream:
            stream.write(content)
        assert read_bytes(uri, storage) == content
    with pytest.raises(ZeroDivisionError):
        fail_after(b"newer")
    assert read_bytes(uri, storage) == content
    assert where == "s3" or [path.name for path in (tmp_path / "folder").iterdir()] == ["a.bin"]
