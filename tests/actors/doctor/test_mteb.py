"""The wrappers keep to mteb's protocols, called as mteb calls them, without mteb: its version 2.26.24 was read and run
once by hand (docs/evaluation.md)."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from actors.doctor.mteb import MtebEmbedder, MtebReranker
from actors.embedder.embedder import Embedder
from actors.reranker.reranker import Scores
from actors.spec import ModelSpec

TASK = SimpleNamespace(name="SciFact", prompt={"query": "Find the evidence"})
BATCHES = [{"text": ["alpha beta", "gamma"], "id": ["1", "2"]}, {"text": ["delta"]}]
TEXTS = ["alpha beta", "gamma", "delta"]
OF_MTEB = {"task_metadata": TASK, "hf_split": "test", "hf_subset": "default", "batch_size": 2}


@pytest.fixture
def card(monkeypatch):
    """mteb's ModelMeta, as far as it is asked."""
    mteb, models = ModuleType("mteb"), ModuleType("mteb.models")
    models.ModelMeta = SimpleNamespace(create_empty=lambda overwrites: SimpleNamespace(**overwrites))
    monkeypatch.setitem(sys.modules, "mteb", mteb)
    monkeypatch.setitem(sys.modules, "mteb.models", models)


def test_documents_and_queries_are_those_of_the_pipeline():
    model, plain = MtebEmbedder(ModelSpec("fake", dimensions=32)), Embedder(ModelSpec("fake", dimensions=32))
    documents = model.encode(BATCHES, prompt_type="document", **OF_MTEB)
    queries = model.encode(BATCHES, prompt_type="query", **OF_MTEB)
    neither = model.encode(BATCHES, **OF_MTEB)
    assert np.array_equal(documents, plain.embed_documents(TEXTS))
    assert np.array_equal(queries, plain.embed_queries(TEXTS))
    assert np.array_equal(neither, documents)
    assert model.encode([], prompt_type="query", **OF_MTEB).shape == (0, 32)


class Instructed:
    """An embedder that takes instructions, and notes them."""

    dimensions = 4

    def __init__(self, spec):
        self.asked = []

    def embed_documents(self, texts):
        self.asked.append(("document", None))
        return np.ones((len(texts), 4), np.float32)

    def embed_queries(self, texts, instruction=None):
        self.asked.append(("query", instruction))
        return np.ones((len(texts), 4), np.float32)


@pytest.mark.parametrize(
    ("task", "ours", "want"),
    [
        (TASK, {}, "Find the evidence"),
        (TASK, {"SciFact": "Ours"}, "Ours"),
        (TASK, {"Other": "Ours"}, "Find the evidence"),
        (SimpleNamespace(name="STS12", prompt="Alike"), {}, "Alike"),
        (SimpleNamespace(name="X", prompt=None), {}, None),
        (SimpleNamespace(name="X", prompt={"document": "only"}), {}, None),
    ],
)
def test_a_model_that_takes_instructions_gets_the_tasks(monkeypatch, task, ours, want):
    monkeypatch.setattr("actors.doctor.mteb.Embedder", Instructed)
    resolved = SimpleNamespace(query_prompt="Instruct: anything\nQuery:")
    monkeypatch.setattr("actors.doctor.mteb.resolve", lambda spec: resolved)
    model = MtebEmbedder(ModelSpec("fake"), ours)
    for prompt_type in ("query", None, "document"):
        model.encode(BATCHES, prompt_type=prompt_type, **{**OF_MTEB, "task_metadata": task})
    assert model._embedder.asked == [("query", want), ("query", want), ("document", None)]


def test_similarities_are_cosines():
    model = MtebEmbedder(ModelSpec("fake"))
    first, second = np.array([[3.0, 0], [0, 2]]), torch.tensor([[1.0, 1], [5, 0], [0, -1]])
    half = 2**-0.5
    assert torch.allclose(model.similarity(first, second), torch.tensor([[half, 1, 0], [half, 0, -1]]))
    assert torch.allclose(model.similarity_pairwise(first, second[:2]), torch.tensor([half, 0]))


def test_results_of_other_vectors_are_filed_apart(card):
    """mteb takes results from its cache by name and revision."""
    cards = [
        MtebEmbedder(ModelSpec("fake", dimensions=32)).mteb_model_meta,
        MtebEmbedder(ModelSpec("fake", dimensions=64)).mteb_model_meta,
        MtebEmbedder(ModelSpec("fake", dimensions=64), {"SciFact": "Ours"}).mteb_model_meta,
        MtebEmbedder(ModelSpec("fake", dimensions=64)).mteb_model_meta,
    ]
    assert {card.name for card in cards} == {"vectormill/fake"}
    revisions = [card.revision for card in cards]
    assert len(set(revisions)) == 3
    assert revisions[1] == revisions[3]


def test_pairs_are_scored_as_the_reranker_does(monkeypatch):
    asked = []

    class Fake:
        def __init__(self, spec):
            pass

        def score_pairs(self, pairs, instruction=None):
            asked.append((pairs, instruction))
            logits = np.array([2.5, np.nan, 30.0], np.float32)
            return Scores(logits, logits, np.zeros(3, np.bool_))

    monkeypatch.setattr("actors.doctor.mteb.Reranker", Fake)
    documents = [{"text": ["one"]}, {"text": ["two", "three"]}]
    found = MtebReranker(ModelSpec("any")).predict(BATCHES, documents, **OF_MTEB)
    assert asked == [([("alpha beta", "one"), ("gamma", "two"), ("delta", "three")], "Find the evidence")]
    assert (found[0], found[2]) == (2.5, 30)
    assert np.isfinite(found).all()
    assert found.argmin() == 1
    with pytest.raises(ValueError, match="zip"):
        MtebReranker(ModelSpec("any")).predict(BATCHES, documents[:1], **OF_MTEB)
