"""What a carried column holds ends no search and loses no digit: in JSON it has one form, in Parquet its own type. And
rows without a vector take the place of no other, in no mode."""

from __future__ import annotations

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig
from pipelines.search.bulk import BulkSearch, bulk_search
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from tests.support.commands import object_of, write_job
from tests.support.jobs import Said, address, job, run, write_jsonl
from tests.support.searching import with_words


def raw(value, kind):
    return pa.array([value], pa.int64()).view(kind)


VALUES = {
    "late": (raw(253_402_300_800, pa.timestamp("s")), "+10000-01-01T00:00:00"),
    "early": (raw(-(10**15), pa.timestamp("ms", "UTC")), "-29719-04-05T22:13:20Z"),
    "nanos": (raw(1_714_564_800_000_000_001, pa.timestamp("ns")), "2024-05-01T12:00:00.000000001"),
    "odd_zone": (raw(0, pa.timestamp("us", "Odd/Zone")), "1970-01-01T00:00:00Z"),
    "offset": (raw(0, pa.timestamp("us", "+05:45")), "1970-01-01T00:00:00Z"),
    "time": (raw(1, pa.time64("ns")), "00:00:00.000000001"),
    "duration": (raw(-1, pa.duration("ns")), "-PT0.000000001S"),
    "bytes": (pa.array([b"\xff\x00"]), "/wA="),
    "decimal": (pa.array([Decimal("1.50")]), "1.50"),
    "half": (pa.array([np.float16("inf")], pa.float16()), "Infinity"),
    "nan": (pa.array([float("nan")]), "NaN"),
    "list": (pa.array([[253_402_300_800]], pa.list_(pa.int64())).cast(pa.list_(pa.timestamp("s"))),
             ["+10000-01-01T00:00:00"]),
    "struct": (pa.StructArray.from_arrays([raw(1, pa.time64("ns")), pa.array([b"x"])], ["t", "b"]),
               {"t": "00:00:00.000000001", "b": "eA=="}),
    "map": (pa.array([[("k", b"x")]], pa.map_(pa.string(), pa.binary())), [["k", "eA=="]]),
    "null": (pa.nulls(1, pa.timestamp("ns")), None),
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    columns = {name: column for name, (column, _) in VALUES.items()}
    table = pa.table({"doc_id": ["d"], "text": ["some words"], **columns})
    (tmp_path / "corpus").mkdir()
    pq.write_table(table, tmp_path / "corpus" / "a.parquet", store_schema=True)
    config = job(tmp_path, corpus={"columns": list(columns)}, table={"text_column": "text"})
    assert run(config).bad_rows == 0
    return with_words(config)


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
def test_json_has_one_form_of_each(config, tmp_path, mode):
    code, found = object_of("search", write_job(tmp_path / "job.yaml", config), "words", "--mode", mode)
    assert code == 0
    assert found["hits"][0]["columns"] == {name: shown for name, (_, shown) in VALUES.items()}


def test_a_program_gets_it_too(config):
    (hit,) = Searcher(address(config)).search("words", Query())
    assert hit.columns["late"] == "+10000-01-01T00:00:00"
    assert hit.columns["bytes"] == b"\xff\x00"
    json.dumps(hit.to_dict(), allow_nan=False)


def test_results_of_a_bulk_search_hold_each_value_exactly(config, tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q0", "text": "words"}, {"id": "q1", "text": ""}])
    request = BulkSearch(address(config), str(tmp_path / "q.jsonl"), str(tmp_path / "out.parquet"), Query(limit=3))
    assert bulk_search(request, RunConfig(engine="inline"), Said()).certificate.adds_up
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["text"].to_pylist() == ["some words", None]
    for name, (column, _) in VALUES.items():
        if name in ("late", "odd_zone", "list"):
            continue  # Parquet has no seconds: it holds milliseconds
        got = found[name].combine_chunks()
        assert got.slice(1).null_count == 1
        assert got.slice(0, 1).cast(column.type).equals(column) or name == "nan", name


GOOD, BAD = 5, 400


@pytest.fixture
def half_bad(tmp_path):
    """Many rows that match best have no vector: their text is null, and the words are in a carried column."""
    records = [{"doc_id": f"bad{i}", "text": None, "title": "match", "n": i} for i in range(BAD)]
    records += [
        {"doc_id": f"good{i}", "text": f"text {i}", "title": "a match of more words", "n": i} for i in range(GOOD)
    ]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path, corpus={"columns": ["n", "title"]}, run={"max_bad_rows": 1e6})
    run(config)
    return with_words(config, "title")


@pytest.mark.parametrize("mode", ["vector", "text", "hybrid"])
@pytest.mark.parametrize(
    ("where", "some"), [(None, range(GOOD)), ("n < 3 -- few", range(3)), ("n = 0 OR n = 1", range(2))]
)
def test_rows_without_a_vector_take_no_place(half_bad, mode, where, some):
    hits = Searcher(address(half_bad)).search("match", Query(limit=GOOD, where=where, mode=mode, candidates=GOOD))
    assert {hit.id for hit in hits} == {f"good{i}" for i in some}


def test_nor_in_a_bulk_search(half_bad, tmp_path):
    write_jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "match"}])
    query = Query(limit=GOOD, mode="text")
    request = BulkSearch(address(half_bad), str(tmp_path / "q.jsonl"), str(tmp_path / "out.parquet"), query)
    assert bulk_search(request, RunConfig(engine="inline"), Said()).hits == GOOD
