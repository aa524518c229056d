"""What a run holds follows the bytes of a few rows, not what they carry times what becomes of them."""

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import StorageConfig
from pipelines.engine.inline import InlineExecutor
from pipelines.job_file import parse_job
from pipelines.maintenance.scan import scan
from pipelines.progress import Silent
from pipelines.run.job import run_job
from pipelines.run.prepare import prepare
from pipelines.table.files import TableAddress
from pipelines.table.table import open_table
from pipelines.tasks.registry import task_of
from tests.support.jobs import job, rows, run, text_of
from tests.support.peak import peak_mib

CARRIED = {
    "string": lambda long: pa.array(long),
    "large_binary": lambda long: pa.array([one.encode() for one in long], pa.large_binary()),
    "list": lambda long: pa.array([[one, "short"] for one in long]),
    "one long list": lambda long: pa.array([[long[0]], *([] for _ in long[1:])]),
    "struct": lambda long: pa.array([{"a": one, "b": [1, 2]} for one in long]),
    "dictionary": lambda long: pa.array(long).dictionary_encode(),
}


def embeds(folder, engine):
    """20 MB of rows; with what they carry copied for each passage they would be 6 GB."""
    config = parse_job(
        {
            "corpus": {"uri": f"{folder}/corpus", "id": "doc_id", "columns": ["body"]},
            "model": {"weights": "fake"},
            "chunking": {"max_tokens": 64, "overlap_tokens": 8},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": {"engine": engine, "rows_per_unit": 64},
        }
    )
    assert run_job(config, Silent()).adds_up


def write_long_rows(folder, kind, count=64, size=150_000):
    text = " ".join(text_of(n) for n in range(40_000))[:size]
    (folder / "corpus").mkdir()
    columns = {"doc_id": [f"d{n}" for n in range(count)], "text": [text] * count, "body": CARRIED[kind]([text] * count)}
    pq.write_table(pa.table(columns), folder / "corpus" / "a.parquet")


@pytest.mark.parametrize("kind", CARRIED)
def test_passages_do_not_repeat_what_their_row_carries(kind, tmp_path):
    """At the size that fails for good when they do: strings of more than 2 GiB."""
    write_long_rows(tmp_path, kind, 8 if kind != "string" else 16)
    assert peak_mib(embeds, str(tmp_path), "inline") < 500
    stored = lance.dataset(str(tmp_path / "db" / "t.lance"))
    assert stored.count_rows() > 3000
    (first, *others) = stored.scanner(columns=["body"], filter="_row = 0", limit=3).to_table()["body"].to_pylist()
    assert first == others[0] == pq.read_table(tmp_path / "corpus" / "a.parquet", columns=["body"])["body"][0].as_py()


def scans(folder):
    table = open_table(TableAddress(f"{folder}/db/t.lance", StorageConfig()))
    soundness = task_of(parse_job({"corpus": {"uri": "x"}, "table": {"uri": "y", "name": "t"}})).soundness(
        table.schema, table.metadata
    )
    found = scan(table, [], ["body"], ["vector"], soundness)
    assert (found.results, found.changed, found.wrong) == (table.count_rows(), 0, 0)


def test_verify_looks_at_few_long_records_at_once(tmp_path):
    write_long_rows(tmp_path, "string", 8)
    embeds(str(tmp_path), "inline")
    assert peak_mib(scans, str(tmp_path)) < 500


def reranks(folder):
    config = parse_job(
        {
            "task": "rerank",
            "corpus": {
                "uri": f"{folder}/corpus",
                "id": "doc_id",
                "query": "q",
                "candidates": "docs",
                "columns": ["body"],
            },
            "model": {"weights": "fake"},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": {"engine": "inline"},
        }
    )
    assert run_job(config, Silent()).adds_up


def test_candidates_do_not_repeat_what_their_row_carries(tmp_path):
    (tmp_path / "corpus").mkdir()
    docs = [text_of(n) for n in range(1200)]
    columns = {"doc_id": ["a", "b"], "q": ["alpha", "beta"], "docs": [docs] * 2, "body": ["x" * (1 << 20)] * 2}
    pq.write_table(pa.table(columns), tmp_path / "corpus" / "a.parquet")
    assert peak_mib(reranks, str(tmp_path)) < 500
    assert lance.dataset(str(tmp_path / "db" / "t.lance")).count_rows() == 2400


def test_what_becomes_too_large_is_cut_before_a_model_sees_it(tmp_path, monkeypatch):
    """A unit whose passages come to more than is held at once is embedded in parts: the same records."""
    write_long_rows(tmp_path, "string", count=40, size=20_000)
    config = job(
        tmp_path, corpus={"columns": []}, chunking={"max_tokens": 32, "overlap_tokens": 4}, run={"rows_per_unit": 40}
    )
    whole = job(
        tmp_path, corpus={"columns": []}, chunking={"max_tokens": 32, "overlap_tokens": 4}, table={"name": "whole"}
    )
    assert run(whole).adds_up
    monkeypatch.setattr("pipelines.engine.stage.UNIT_BYTES_MOST", 500_000)
    certificate = run(config)
    assert certificate.adds_up
    assert certificate.units > 1
    assert [r["id"] for r in rows(config)] == [r["id"] for r in rows(whole)]
    assert [(r["_chunk"], r["vector"]) for r in rows(config)] == [(r["_chunk"], r["vector"]) for r in rows(whole)]
    assert run(config).units == certificate.units, "and it stays done"


def test_rows_that_nothing_can_divide_go_through(tmp_path, monkeypatch):
    write_long_rows(tmp_path, "string", count=3, size=20_000)
    monkeypatch.setattr("pipelines.engine.stage.UNIT_BYTES_MOST", 1000)
    monkeypatch.setattr("pipelines.corpus.reading.UNIT_BYTES_MOST", 1000)
    certificate = run(job(tmp_path, corpus={"columns": ["body"]}, chunking={"max_tokens": 32, "overlap_tokens": 4}))
    assert (certificate.adds_up, certificate.units) == (True, 3)


def prepares(folder, rows_wanted):
    config = parse_job(
        {
            "corpus": {"uri": f"{folder}/corpus", "id": "doc_id", "columns": ["body"]},
            "model": {"weights": "fake"},
            "table": {"uri": f"{folder}/db", "name": "t"},
            "run": {"engine": "inline"},
        }
    )
    assert prepare(config, InlineExecutor()).metadata.rows_per_unit == rows_wanted


def test_the_size_of_a_unit_is_chosen_by_few_long_rows(tmp_path):
    """`auto` reads as many as are 8 MiB, not 256, and gives units that can be held."""
    (tmp_path / "corpus").mkdir()
    body = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), pa.array(["x " * (1 << 21)]))
    columns = {"doc_id": [f"d{n}" for n in range(300)], "text": [text_of(n) for n in range(300)], "body": body}
    pq.write_table(pa.table(columns), tmp_path / "corpus" / "a.parquet", store_schema=False)
    assert peak_mib(prepares, str(tmp_path), 16) < 200
