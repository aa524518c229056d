"""The forward pass of BERT's kind against transformers' own models, one sequence at a time, on the same files."""

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.network import attention
from actors.network.kernels import plain
from actors.network.network import EncoderNetwork, TransformersNetwork, load_network
from actors.spec import ModelError
from tests.support.encoders import KINDS, drawn, recipe_of, write

torch.set_num_threads(1)

MIXED = [5, 1, 33, 33, 33, 120, 7, 7, 200, 2, 1, 1]
POOLINGS = ("mean", "cls", "last")


def sequences(lengths: list[int]) -> list[np.ndarray]:
    """Ids that are no pad token but here and there."""
    rng = np.random.default_rng(len(lengths))
    found = [rng.integers(3, 300, length).astype(np.int32) for length in lengths]
    found[2][5] = found[5][0] = 1
    return found


IDS = sequences(MIXED)


@torch.inference_mode()
def packed(network: Any, ids: list[np.ndarray] = IDS) -> np.ndarray:
    return network.pooled(np.concatenate(ids), np.array([len(row) for row in ids])).float().cpu().numpy()


@torch.inference_mode()
def one_by_one(model: Any, pooling: str) -> np.ndarray:
    vectors = []
    for row in IDS:
        states = model(input_ids=torch.from_numpy(row.astype(np.int64))[None]).last_hidden_state[0].double().numpy()
        vectors.append({"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling])
    return np.array(vectors)


def loaded(folder: Path, kind: str, pooling: str = "mean", dtype: str = "float32") -> Any:
    network = load_network(folder, recipe_of(kind, pooling), "cpu", dtype)
    network.start()
    return network


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(((left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)).min())


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_transformers(tmp_path: Path, kind: str, pooling: str) -> None:
    model = drawn(kind)
    network = loaded(write(tmp_path, model), kind, pooling)
    assert isinstance(network, EncoderNetwork)
    np.testing.assert_allclose(packed(network), one_by_one(model, pooling), atol=1e-5)


SHAPES: dict[str, dict[str, Any]] = {
    "one layer": {"num_hidden_layers": 1},
    "heads of an odd size": {"hidden_size": 60, "num_attention_heads": 5},
    "one head": {"num_attention_heads": 1},
    "a narrow MLP": {"intermediate_size": 8},
    "another epsilon": {"layer_norm_eps": 0.1},
    "one kind of segment": {"type_vocab_size": 1},
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes(tmp_path: Path, name: str) -> None:
    model = drawn("bert", **SHAPES[name])
    network = loaded(write(tmp_path, model), "bert")
    assert isinstance(network, EncoderNetwork)
    np.testing.assert_allclose(packed(network), one_by_one(model, "mean"), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_company_changes_nothing(tmp_path: Path, kind: str) -> None:
    network = loaded(write(tmp_path, drawn(kind)), kind)
    together = packed(network)
    alone = np.concatenate([packed(network, [row]) for row in IDS])
    np.testing.assert_allclose(together, alone, atol=5e-6)
    np.testing.assert_allclose(packed(network, IDS[::-1]), together[::-1], atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_rounds_less_than_transformers(tmp_path: Path, kind: str) -> None:
    """Against the same weights in float32: norms are computed in float32 and rounded once."""
    folder = write(tmp_path, drawn(kind))
    exact = packed(loaded(folder, kind))
    half = load_network(folder, recipe_of(kind), "cpu", "bfloat16")
    theirs = TransformersNetwork(half._model, recipe_of(kind), "cpu", False)
    theirs.start()
    ours, other = cosine(packed(half), exact), cosine(packed(theirs), exact)
    assert ours > 0.999
    assert 1 - ours < 1.2 * (1 - other)


# Whatever transformers reads is read here too.


def renamed(tensors: dict[str, torch.Tensor], old: str, new: str) -> dict[str, torch.Tensor]:
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


def rewritten(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_files_with_a_prefix_and_a_head(tmp_path: Path, kind: str) -> None:
    model = drawn(kind)
    tensors = load_file(write(tmp_path, model) / "model.safetensors")
    prefix = "bert" if kind == "bert" else "roberta"
    under = {f"{prefix}.{name}": tensor for name, tensor in tensors.items() if not name.startswith("pooler")}
    head = {"cls.predictions.bias": torch.ones(300), "lm_head.dense.weight": torch.ones(64, 64)}
    rewritten(tmp_path, under | head)
    np.testing.assert_allclose(packed(loaded(tmp_path, kind)), one_by_one(model, "mean"), atol=1e-5)


def test_old_files(tmp_path: Path) -> None:
    """gamma and beta for the norms, and buffers that are no weights."""
    model = drawn("bert")
    tensors = load_file(write(tmp_path, model) / "model.safetensors")
    old = renamed(renamed(tensors, "LayerNorm.weight", "LayerNorm.gamma"), "LayerNorm.bias", "LayerNorm.beta")
    rewritten(tmp_path, old | {"embeddings.position_ids": torch.arange(260)[None]})
    np.testing.assert_allclose(packed(loaded(tmp_path, "bert")), one_by_one(model, "mean"), atol=1e-5)


def test_files_in_parts(tmp_path: Path) -> None:
    model = drawn("bert")
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    np.testing.assert_allclose(packed(loaded(tmp_path, "bert")), one_by_one(model, "mean"), atol=1e-5)


def test_a_file_in_half_precision(tmp_path: Path) -> None:
    model = drawn("bert").half().float()
    tensors = load_file(write(tmp_path, model) / "model.safetensors")
    rewritten(tmp_path, {name: tensor.half() for name, tensor in tensors.items()})
    np.testing.assert_allclose(packed(loaded(tmp_path, "bert")), one_by_one(model, "mean"), atol=1e-5)


@pytest.mark.parametrize("part", ["attention.self.key.bias", "attention.self.value.weight", "output.LayerNorm.bias"])
def test_a_tensor_is_missing(tmp_path: Path, part: str) -> None:
    tensors = load_file(write(tmp_path, drawn("bert")) / "model.safetensors")
    del tensors[f"encoder.layer.1.{part}"]
    with pytest.raises(ModelError, match=rf"encoder\.layer\.1\.{part} missing or of another shape"):
        loaded(rewritten(tmp_path, tensors), "bert")


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    tensors = load_file(write(tmp_path, drawn("bert")) / "model.safetensors")
    tensors["encoder.layer.1.attention.self.query.weight"] = torch.ones(32, 64)
    with pytest.raises(ModelError, match=r"layer\.1\.attention\.self\.query\.weight.* missing or of another shape"):
        loaded(rewritten(tmp_path, tensors), "bert")


@pytest.mark.parametrize("activation", ["relu", "gelu_new", "gelu_pytorch_tanh"])
def test_other_activations_run_through_transformers(tmp_path: Path, activation: str) -> None:
    model = drawn("bert", hidden_act=activation)
    network = loaded(write(tmp_path, model), "bert")
    assert type(network) is TransformersNetwork
    np.testing.assert_allclose(packed(network), one_by_one(model, "mean"), atol=1e-5)


def test_a_decoder_runs_through_transformers(tmp_path: Path) -> None:
    folder = write(tmp_path, drawn("bert"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"is_decoder": True}))
    assert type(load_network(folder, recipe_of("bert"), "cpu", "float32")) is TransformersNetwork


def test_the_reference_is_another_way_and_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shares no attention and no kernel; its own q, k and v are not held while a replica works."""
    model = drawn("bert")
    network = load_network(write(tmp_path, model), recipe_of("bert"), "cpu", "float32")
    monkeypatch.setattr(attention, "attend_packed", None)
    monkeypatch.setattr(plain, "bias_norm", None)
    with torch.inference_mode():
        states = network.plain(IDS[3]).numpy()
    np.testing.assert_allclose(states.mean(0), one_by_one(model, "mean")[3], atol=1e-5)
    held = weakref.ref(network._model.encoder.layer[0].attention.self.query.weight)
    network.start()
    gc.collect()
    assert held() is None
