"""Which folders are run as a reranker, and with which head.

With a tiny vocabulary, because Qwen's takes seconds to load.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.reranker.prompt import RerankPrompt
from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from tests.support.rerank_peers import build_tiny, convert, write_tokenizer

torch.set_num_threads(1)


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
