"""What a reranker must not do: run other models, rank what is no number, work when it computes wrongly.

With a tiny vocabulary, because Qwen's takes seconds to load.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.checks.layouts import Comparison
from actors.network import attention, qwen3
from actors.reranker.batches import PairBatch, PairBatches
from actors.reranker.model import RerankModel
from actors.reranker.prompt import RerankPrompt
from actors.reranker.reranker import Reranker
from actors.reranker.selfcheck import check
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken
from tests.support.rerank_peers import build_tiny, convert, write_tokenizer

torch.set_num_threads(1)

QUERY, DOCUMENTS = "What is the capital of China?", ["rain", "Beijing", "The capital of China is Beijing.", "北京", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("reranker"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "copy")


def load(folder: Path, **fields) -> Reranker:
    return Reranker(ModelSpec(str(folder), device="cpu", threads=1, **{"dtype": "float32", **fields}))


def change_config(folder: Path, **fields) -> None:
    config = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    changed = load_file(folder / "model.safetensors") | {name.replace("__", "."): t for name, t in tensors.items()}
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "bert"}, "architecture 'bert'; as a reranker only Qwen3-Reranker"),
        ({"quantization_config": {"bits": 4}}, "quantised weights"),
        ({"is_causal": False}, "two-way attention"),
        ({"use_sliding_window": True, "sliding_window": 100}, "a sliding window"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4}, "rope_parameters": None}, "rope scaling 'yarn'"),
        ({"tie_word_embeddings": False}, r"no lm_head.weight.*nothing to score with"),
        ({"architectures": ["Qwen3ForSequenceClassification"]}, "no score.weight: its head was never converted"),
        ({"vocab_size": 300}, r"token ids up to \d+, but the model's vocabulary ends at 299"),
    ],
)
def test_models_it_cannot_run(copy: Path, fields: dict, said: str) -> None:
    change_config(copy, **fields)
    with pytest.raises(ModelError, match=said):
        load(copy)


def test_an_embedding_model(copy: Path) -> None:
    entries = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in ("Transformer", "Pooling")]
    (copy / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ModelError, match=r"is an embedding model \(its modules.json has Pooling\), not a reranker"):
        load(copy)


def test_what_a_tokenizer_adds_to_a_text_is_left_out(copy: Path) -> None:
    pair = [("What?", "That.")]
    wanted = Reranker(ModelSpec(str(copy))).score_pairs(pair).logits
    write_tokenizer(copy, closing=True)
    assert (Reranker(ModelSpec(str(copy))).score_pairs(pair).logits == wanted).all()


def test_a_reranker_of_other_modules(copy: Path) -> None:
    kinds = [("Transformer", ""), ("LogitScore", "1_LogitScore")]
    entries = [{"type": f"sentence_transformers.cross_encoder.modules.{kind}", "path": path} for kind, path in kinds]
    (copy / "modules.json").write_text(json.dumps(entries))
    (copy / "1_LogitScore").mkdir()
    prompt = RerankPrompt(ModelSpec(str(copy)))
    score = {"true_token_id": prompt.yes_id, "false_token_id": prompt.no_id}
    (copy / "1_LogitScore" / "config.json").write_text(json.dumps(score))
    load(copy)
    (copy / "1_LogitScore" / "config.json").write_text(json.dumps({"true_token_id": 16, "false_token_id": 15}))
    with pytest.raises(ModelError, match=f"tokens 16 and 15, Qwen3-Reranker by yes and no, {prompt.yes_id} and"):
        load(copy)
    (copy / "modules.json").write_text(json.dumps([*entries, {"type": "a.Dense", "path": "2_Dense"}]))
    with pytest.raises(ModelError, match="has the module Dense"):
        load(copy)


def test_heads_that_tell_nothing(folder: Path, tmp_path: Path) -> None:
    copy = convert(folder, tmp_path / "converted", yes=1, no=2)
    change_weights(copy, score__weight=torch.zeros(1, 32))
    with pytest.raises(ModelError, match="does not tell yes from no"):
        load(copy)
    change_weights(copy, score__weight=torch.ones(2, 32))
    with pytest.raises(ModelError, match=r"has 2 rows; supported is one"):
        load(copy)


def test_other_weights_than_expected(folder: Path) -> None:
    with pytest.raises(ModelError, match="digest"):
        load(folder, digest="0" * 64)


def test_what_is_no_number_is_never_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = load(folder)
    order = [found.index for found in reranker.rank(QUERY, DOCUMENTS)]
    to_host = reranker._model.to_host

    def broken(pending):
        logits = to_host(pending).copy()
        at = {document: i for i, document in enumerate(sorted(DOCUMENTS, key=len, reverse=True))}  # as they are sent
        logits[at["rain"]], logits[at["北京"]] = np.nan, np.inf
        return logits

    monkeypatch.setattr(reranker._model, "to_host", broken)
    found = reranker.score_pairs([(QUERY, document) for document in DOCUMENTS])
    bad = {i for i in range(5) if not found.finite[i]}
    assert len(bad) == 2
    assert np.isnan(found.logits[list(bad)]).all()
    assert np.isnan(found.scores[list(bad)]).all()
    ranked = reranker.rank(QUERY, DOCUMENTS)
    assert [row.index for row in ranked] == [i for i in order if i not in bad] + sorted(bad)
    assert np.isnan([row.logit for row in ranked[3:]]).all()


def test_equal_logits_keep_their_order_and_top_cuts(folder: Path) -> None:
    reranker = load(folder)
    documents = ["rain", "Beijing", "rain", "Beijing", "rain"]
    ranked = reranker.rank(QUERY, documents)
    same = {word: [row.index for row in ranked if documents[row.index] == word] for word in ("rain", "Beijing")}
    assert same == {"rain": [0, 2, 4], "Beijing": [1, 3]}
    assert reranker.rank(QUERY, documents, top=2) == ranked[:2]
    assert all(0 < row.score < 1 for row in ranked)


def test_a_micro_batch_that_does_not_fit_is_halved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = load(folder)
    pairs = [(query, document) for query in (QUERY, "gravity") for document in DOCUMENTS]
    expected = reranker.score_pairs(pairs).logits
    encode, sizes = reranker._model.encode, []

    def small(batch: PairBatch):
        sizes.append(batch.pairs)
        if batch.pairs > 3:
            raise DeviceOutOfMemory("too large")
        return encode(batch)

    monkeypatch.setattr(reranker._model, "encode", small)
    budget = reranker.token_budget
    np.testing.assert_allclose(reranker.score_pairs(pairs).logits, expected, atol=1e-5)
    assert sizes == [10, 5, 2, 3, 5, 2, 3]
    assert reranker.token_budget < budget / 4

    def none(batch: PairBatch):
        raise DeviceOutOfMemory("too large")

    monkeypatch.setattr(reranker._model, "encode", none)
    with pytest.raises(ReplicaBroken, match="not even a single"):
        reranker.score_pairs(pairs)


def _future_seen(qkv, packing, causal, reach=None, scale=None):
    return attention.attend_packed(qkv, packing, False, reach, scale)


def _keys_of_the_neighbour(qkv, packing, causal, reach=None, scale=None):
    rows = packing.key_rows
    return attention.attend_packed(
        qkv, replace(packing, key_rows=None if rows is None else rows.roll(1)), causal, reach, scale
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(_future_seen, "off the plain reference"), (_keys_of_the_neighbour, "documents of one query: the logit is")],
)
def test_the_self_check_sees_wrong_attention(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wrong: object, said: str
) -> None:
    monkeypatch.setattr(qwen3, "attend_packed", wrong)
    with pytest.raises(ModelError, match=f"computes wrong scores.*{said}"):
        load(folder)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_self_check_sees_positions_that_begin_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    batch = PairBatches.batch

    def from_zero(self: PairBatches, rows_m: np.ndarray) -> PairBatch:
        found = batch(self, rows_m)
        starts = np.cumsum(found.queries_n) - found.queries_n
        return replace(found, positions_T=found.positions_T - np.repeat(found.positions_T[starts], found.queries_n))

    monkeypatch.setattr(PairBatches, "batch", from_zero)
    with pytest.raises(ModelError, match="computes wrong scores"):
        load(folder, dtype=dtype)


def test_the_self_check_sees_a_wrong_head_and_nan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = RerankModel.start

    def turned(self: RerankModel, *arguments) -> None:
        self._direction_H = -self._direction_H
        start(self, *arguments)

    monkeypatch.setattr(RerankModel, "start", turned)
    with pytest.raises(ModelError, match="alone: the logit is"):
        load(folder)
    good = Comparison("packed", 1.0, 1.0, 0, 0.0, 0.0)
    check([good], "float32")
    for field in ("cosine", "cosine_to_alone", "logit_error", "logit_error_to_alone"):
        with pytest.raises(ModelError, match=r"'What is the capital of China\?' x 'The capital of China is Beijing.'"):
            check([good, replace(good, **{field: float("nan")})], "float32")
