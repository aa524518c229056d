"""Qwen3's weights read from a folder: every tensor in its place, and no other."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from actors.network.network import Qwen3Network, load_network
from actors.network.qwen3_weights import Geometry, Weights, unsupported
from actors.spec import ModelError
from actors.weights.recipe import load_recipe
from tests.support.qwen3 import SMALL, filled, write


def loaded(folder: Path, dtype: str = "float32") -> Weights:
    weights = Weights(Geometry.of(json.loads((folder / "config.json").read_text())), "cpu", dtype)
    weights.load(folder)
    return weights


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("prefix", ["", "model."])
def test_loaded_from_the_files_of_the_hub(tmp_path: Path, prefix: str, shards: int) -> None:
    weights = filled(SMALL, "bfloat16")
    heads = {"lm_head.weight": weights.embedding.clone(), "score.weight": torch.ones(1, SMALL.hidden)}
    write(tmp_path, weights, prefix, shards, **heads)
    for dtype in ("bfloat16", "float32"):
        found = loaded(tmp_path, dtype)
        assert asdict(found.geometry) == asdict(SMALL)
        for name, tensor in found.tensors().items():
            assert tensor.dtype == getattr(torch, dtype)
            assert torch.equal(tensor.float(), weights.tensors()[name].float()), name
    network = load_network(tmp_path, load_recipe(tmp_path), "cpu", "float32")
    assert isinstance(network, Qwen3Network)


def test_every_tensor_has_a_place_of_its_own() -> None:
    """Numbered, no two share memory, and the fused matrices are filled to the last row."""
    weights = Weights(SMALL, "cpu", "float32")
    for part in (weights.embedding, weights.norm):
        part.fill_(torch.nan)
    for layer in weights.layers:
        for held in vars(layer).values():
            getattr(held, "weight", held).fill_(torch.nan)
    for number, tensor in enumerate(weights.tensors().values()):
        tensor.fill_(number)
    for number, (name, tensor) in enumerate(weights.tensors().items()):
        assert (tensor == number).all(), name
    for layer in weights.layers:
        for held in vars(layer).values():
            assert not getattr(held, "weight", held).isnan().any()


def test_a_tensor_is_missing(tmp_path: Path) -> None:
    weights = filled(SMALL)
    whole = weights.tensors
    weights.tensors = lambda: {name: x for name, x in whole().items() if "layers.1." not in name}
    with pytest.raises(ModelError, match=r"do not fill the model, layers\.1\..* and 6 more missing: fetch them again"):
        loaded(write(tmp_path, weights))


def test_a_tensor_is_not_of_a_qwen3(tmp_path: Path) -> None:
    bias = {"layers.0.self_attn.q_proj.bias": torch.ones(64)}
    with pytest.raises(ModelError, match=r"safetensors has the tensor 'layers\.0\.self_attn\.q_proj\.bias', which is"):
        loaded(write(tmp_path, filled(SMALL), **bias))


def test_a_tensor_comes_twice(tmp_path: Path) -> None:
    write(tmp_path, filled(SMALL))
    save_file({"model.norm.weight": torch.ones(64)}, tmp_path / "another.safetensors")
    with pytest.raises(ModelError, match=r"'norm\.weight', which is not of a Qwen3, or twice"):
        loaded(tmp_path)


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    write(tmp_path, filled(SMALL))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "intermediate_size": 80}))
    with pytest.raises(ModelError, match=r"_proj\.weight has shape \[.*\], config\.json says \["):
        loaded(tmp_path)


def test_a_file_that_is_damaged(tmp_path: Path) -> None:
    write(tmp_path, filled(SMALL), shards=2)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.safetensors could not be read: .* Fetch the weights"):
        loaded(tmp_path)


def test_random_weights_are_the_same_for_a_seed_and_never_zero() -> None:
    first, second, other = (Weights(SMALL, "cpu", "float32") for _ in range(3))
    first.randomise(1)
    second.randomise(1)
    other.randomise(2)
    for name, tensor in first.tensors().items():
        assert torch.equal(tensor, second.tensors()[name])
        assert not torch.equal(tensor, other.tensors()[name])
        assert (tensor != 0).float().mean() > 0.99


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope scaling 'linear'"),
        ({"use_sliding_window": True, "sliding_window": 4096}, "a sliding window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "a sliding window"),
        ({"rope_scaling": {"rope_type": "default"}}, None),
        ({"layer_types": ["full_attention"] * 3, "sliding_window": 4096}, None),
        ({"head_dim": None, "hidden_size": 80}, "heads of size 20"),
    ],
    ids=str,
)
def test_both_spellings_of_config_json(tmp_path: Path, changes: dict[str, object], problem: str | None) -> None:
    config = json.loads((write(tmp_path, filled(SMALL)) / "config.json").read_text())
    assert unsupported({**config, **changes}) == problem
