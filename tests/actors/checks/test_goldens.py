"""Published numbers: who must give them, how near, and what is refused. Arithmetic only, no model."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from actors.checks import goldens
from actors.checks.published import PUBLISHED, Published
from actors.spec import ModelError, ModelSpec

EMBEDDERS = [published for published in PUBLISHED if published.task == "embed"]
RERANKERS = [published for published in PUBLISHED if published.task == "rerank"]
MINILM = EMBEDDERS[-1]
TINY_SHAPE = (64, 2, 4, 128)


class Reproducing:
    """An embedder that gives exactly the published cosines, plus `wrong` for one document.

    Each query has a direction of its own; a document has the cosines in them, and the rest of its length elsewhere.
    """

    def __init__(self, published: Published, wrong: float = 0.0, at: str | None = None) -> None:
        self._queries = list(dict.fromkeys(g.query for g in published.goldens))
        self._cosines = {(g.query, g.document): g.expected + wrong * (g.document == at) for g in published.goldens}

    def embed_queries(self, texts) -> np.ndarray:
        return 3.0 * np.eye(len(self._queries) + 1)[[self._queries.index(text) for text in texts]]

    def embed_documents(self, texts) -> np.ndarray:
        seen = np.array([[self._cosines.get((query, text), 0.0) for query in self._queries] for text in texts])
        rest = np.sqrt(1 - np.square(seen).sum(axis=1, keepdims=True))
        return np.concatenate([seen, rest], axis=1)


def judged(published: Published, dtype: str, wrong: float = 0.0, at: str | None = None) -> list[goldens.Result]:
    return goldens.judge(
        published.goldens, goldens.cosines(Reproducing(published, wrong, at), published.goldens), dtype
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("published", EMBEDDERS, ids=lambda published: published.model_id)
def test_an_embedder_that_reproduces_the_numbers_passes(published: Published, dtype: str) -> None:
    results = judged(published, dtype)
    assert len(results) >= 4
    assert all(result.ok for result in results)
    assert max(result.difference for result in results) < 1e-6
    goldens.check_embedder(Reproducing(published), published.model_id, dtype)


def test_one_wrong_vector_fails_for_its_pairs_only() -> None:
    published = EMBEDDERS[0]
    at = published.goldens[0].document
    results = judged(published, "float32", 0.002, at)
    assert [result.ok for result in results] == [result.golden.document != at for result in results]
    assert [result.ok for result in judged(published, "bfloat16", 0.002, at)] == [True] * len(results)
    assert not judged(published, "bfloat16", -0.006, at)[0].ok


def test_numbers_published_in_half_precision_are_not_asked_for_more_closely() -> None:
    planets = [result for result in judged(MINILM, "float32", 0.004, MINILM.goldens[-1].document) if result.ok]
    assert len(planets) == len(MINILM.goldens)


def test_nan_is_not_near_and_float8_is_not_judged() -> None:
    golden = EMBEDDERS[0].goldens[0]
    assert goldens.judge([golden], [float("nan")], "bfloat16")[0].ok is False
    assert goldens.judge([golden], [0.1], "float8")[0].ok is None


class ReproducingPairs:
    """A reranker that gives exactly the published logits and scores, plus `wrong`."""

    def __init__(self, published: Published, wrong: float = 0.0) -> None:
        self._numbers = {(g.kind, g.query, g.document): g.expected + wrong for g in published.goldens}

    def score_pairs(self, pairs) -> SimpleNamespace:
        found = {kind: [self._numbers.get((kind, *pair), np.nan) for pair in pairs] for kind in ("logit", "score")}
        return SimpleNamespace(logits=np.array(found["logit"]), scores=np.array(found["score"]))


@pytest.mark.parametrize("published", RERANKERS, ids=lambda published: published.model_id)
def test_a_reranker_that_reproduces_the_numbers_passes(published: Published) -> None:
    # One pair has two published logits, of which the later is rounded to 0.5.
    for dtype in ("float32", "bfloat16"):
        reranker = ReproducingPairs(published)
        results = goldens.judge(published.goldens, goldens.logits_or_scores(reranker, published.goldens), dtype)
        assert [result.ok for result in results] == [True] * len(published.goldens)
        goldens.check_reranker(reranker, published.model_id, dtype)


def test_a_wrong_reranker_fails_and_is_refused() -> None:
    published = RERANKERS[0]
    for wrong, dtype, exact, rounded in ((0.002, "float32", False, True), (0.4, "bfloat16", True, True)):
        got = goldens.logits_or_scores(ReproducingPairs(published, wrong), published.goldens)
        results = [r for r in goldens.judge(published.goldens, got, dtype) if r.golden.kind == "logit"]
        assert [result.ok for result in results] == [exact] * 4 + [rounded] * 2
    with pytest.raises(ModelError, match=r"Qwen3-Reranker-0.6B must give the logit -3\.1093 .* gives -0\.8093 here"):
        goldens.check_reranker(ReproducingPairs(published, 2.3), published.model_id, "bfloat16")


def test_a_replica_of_known_weights_refuses_what_is_far_off() -> None:
    published, at = EMBEDDERS[0], EMBEDDERS[0].goldens[0].document
    goldens.check_embedder(Reproducing(published, 0.015, at), published.model_id, "bfloat16")
    with pytest.raises(ModelError, match=r"cosine 0\.7646 for 'What is the capital of China\?' and .* gives 0\.6586"):
        goldens.check_embedder(Reproducing(published, -0.106, at), published.model_id, "bfloat16")
    with pytest.raises(ModelError, match="gives nan"):
        goldens.check_embedder(Reproducing(published, float("nan"), at), published.model_id, "bfloat16")


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        (ModelSpec("Qwen/Qwen3-Embedding-8B"), True),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", revision="main", dimensions=4096), True),
        (ModelSpec("modelscope:Qwen/Qwen3-Embedding-8B", revision="master"), True),
        (ModelSpec("bundled"), True),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", revision="4f4b1c2"), True),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", dimensions=1024), False),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", prompt="passage: "), False),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", max_tokens=16), False),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", dtype="float8"), False),
        (ModelSpec("Qwen/Qwen3-Reranker-8B"), False),
        (ModelSpec("Qwen/Qwen3-Embedding-8B", revision="v2"), True),
        (ModelSpec("me/Qwen3-Embedding-8B"), False),
        (ModelSpec("/models/Qwen3-Embedding-8B"), False),
    ],
)
def test_only_these_very_weights_must_give_the_numbers(spec: ModelSpec, known: bool) -> None:
    assert (goldens.hub_id(spec) is not None) == known


def test_a_reranker_is_known_whatever_its_dimensions_and_prompt() -> None:
    spec = ModelSpec("Qwen/Qwen3-Reranker-4B", dimensions=7, prompt="x", max_tokens=256)
    assert goldens.hub_id(spec, "rerank") == "Qwen/Qwen3-Reranker-4B"
    assert goldens.hub_id(replace(spec, max_tokens=200), "rerank") is None


def test_a_folder_of_the_same_name_is_not_the_hubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Qwen" / "Qwen3-Embedding-8B").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert goldens.hub_id(ModelSpec("Qwen/Qwen3-Embedding-8B")) is None


def config_of(shape: tuple[int, ...], architecture: str = "qwen3") -> dict[str, object]:
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    return {**dict(zip(names, shape, strict=True)), "model_type": architecture}


def test_models_are_known_by_their_shape_and_minilm_by_its_name_too() -> None:
    for published in PUBLISHED:
        config = config_of(published.shape, published.architecture)
        name = f"/models/{published.model_id.rpartition('/')[2]}"
        assert goldens.identify(name, config, published.task) == published
        assert goldens.identify("/models/mine", config, published.task) == (None if published.by_name else published)
    assert goldens.identify("bundled", config_of(MINILM.shape, "bert"), "embed") == MINILM
    assert goldens.identify("bundled", config_of(TINY_SHAPE, "bert"), "embed") is None


def test_no_two_models_share_shape_and_task() -> None:
    assert len({(p.task, p.shape) for p in PUBLISHED}) == len(PUBLISHED)
