"""Candidates ordered anew by a reranker."""

import functools
import json
import shutil

import numpy as np
import pytest
import torch

from actors.embedder.embedder import Embedder
from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from pipelines.errors import ConfigError, VectormillError
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from tests.support.jobs import address
from tests.support.models import build as build_embedder
from tests.support.rerank_peers import ModelCard, build, build_tiny
from tests.support.searching import ANIMALS, MIXED, ids, table_of

torch.set_num_threads(1)


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


def test_a_folder_of_an_embedder_is_no_reranker(mixed, tmp_path):
    folder = shutil.copytree(build_tiny(tmp_path / "tiny"), tmp_path / "embedder")
    modules = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"is an embedding model .*, not a reranker"):
        Searcher(address(mixed), ModelSpec(str(folder)))
