"""Qwen3's fused forward pass against transformers' own model, one sequence at a time, on the same random weights."""

import gc
import json
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModel, Qwen3Config, Qwen3Model

from actors.embedder.embedder import Embedder
from actors.embedder.reference import EmbedReference
from actors.network import attention
from actors.network.attention import to_device
from actors.network.network import Qwen3Network, TransformersNetwork, load_network
from actors.network.qwen3 import Qwen3
from actors.network.qwen3_weights import Geometry, Weights, unsupported
from actors.spec import ModelError, ModelSpec
from actors.weights.recipe import load_recipe
from tests.support.models import TEXTS, build, write_modules
from tests.support.qwen3 import SMALL, filled, write

torch.set_num_threads(1)

GEOMETRIES = {
    "grouped": SMALL,
    "each query head its own key head": replace(SMALL, kv_heads=4),
    "one key head": replace(SMALL, heads=8, kv_heads=1),
    "heads wider than the hidden size": replace(SMALL, hidden=48, heads=4, head_size=32),
    "one layer": replace(SMALL, layers=1),
    "another base and epsilon": replace(SMALL, rope_theta=100.0, eps=0.1),
}
MIXED = [5, 1, 33, 33, 33, 120, 7, 7, 200, 2, 1, 1]


def sequences(lengths: list[int], vocabulary: int = SMALL.vocabulary) -> list[np.ndarray]:
    rng = np.random.default_rng(len(lengths))
    return [rng.integers(0, vocabulary, length).astype(np.int32) for length in lengths]


def unit(states: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(states.double(), dim=-1).numpy()


@torch.inference_mode()
def packed(weights: Weights, ids: list[np.ndarray]) -> np.ndarray:
    """All in one micro-batch, scaled to length 1."""
    network = Qwen3Network(weights, varlen=False)
    return unit(network.pooled(np.concatenate(ids), np.array([len(row) for row in ids])))


@torch.inference_mode()
def one_by_one(model: torch.nn.Module, ids: list[np.ndarray]) -> np.ndarray:
    states = [model(input_ids=torch.from_numpy(row.astype(np.int64))[None]).last_hidden_state[0, -1] for row in ids]
    return unit(torch.stack(states))


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float((left * right).sum(axis=1).min())


@pytest.mark.parametrize("name", GEOMETRIES)
def test_float32_is_transformers(tmp_path: Path, name: str) -> None:
    weights = filled(GEOMETRIES[name])
    peer = Qwen3Model.from_pretrained(write(tmp_path, weights), dtype=torch.float32, attn_implementation="eager").eval()
    for lengths in (MIXED, [17] * 5, [1] * 4, [64], [110] * 6):  # the last: more tokens than there are positions
        ids = sequences(lengths)
        found = packed(weights, ids)
        np.testing.assert_allclose(found, one_by_one(peer, ids), atol=1e-5)
        np.testing.assert_allclose(found, one_by_one(weights.reference(), ids), atol=1e-5)


def test_the_slow_way_shares_the_memory_of_the_fast() -> None:
    weights = filled(SMALL)
    network, [row] = Qwen3Network(weights, varlen=False), sequences([9])
    with torch.inference_mode():
        before = network.plain(row)
        assert before.shape == (9, SMALL.hidden)
        np.testing.assert_allclose(unit(before[-1:]), packed(weights, [row]), atol=1e-5)
        weights.layers[1].gate_up.weight *= 2
        after = network.plain(row)
    assert (after - before).abs().max() > 0.01
    np.testing.assert_allclose(unit(after[-1:]), packed(weights, [row]), atol=1e-5)


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("float16", 0.999), ("float8", 0.99)])
def test_fewer_bits_stay_near(dtype: str, least: float) -> None:
    """Near the same weights in float32, and near transformers in the same dtype."""
    ids = sequences(MIXED)
    weights = filled(SMALL, dtype, std=0.05)
    exact = Weights(SMALL, "cpu", "float32")
    for name, tensor in exact.tensors().items():
        tensor.copy_(weights.tensors()[name])
    beside = one_by_one(weights.reference(), ids)
    if dtype == "float8":
        weights.to_8_bits()
        assert {layer.down.weight.dtype for layer in weights.layers} == {torch.float8_e4m3fn}
    found = packed(weights, ids)
    assert cosine(found, packed(exact, ids)) >= least
    assert cosine(found, beside) >= least


def test_the_states_have_the_dtype_of_the_model() -> None:
    network = Qwen3Network(filled(SMALL, "bfloat16"), varlen=False)
    [row] = sequences([5])
    with torch.inference_mode():
        assert network.plain(row).dtype == torch.bfloat16
        assert network.pooled(row, np.array([5])).dtype == torch.float32


def test_the_geometry_of_the_smallest_published_model() -> None:
    """0.6B, with two of its 28 layers and fewer words."""
    weights = filled(Geometry(1024, 2, 16, 8, 128, 3072, 2000, 32768, 1e6, 1e-6), std=0.02)
    ids = sequences([40, 3, 3, 1, 65], vocabulary=2000)
    np.testing.assert_allclose(packed(weights, ids), one_by_one(weights.reference(), ids), atol=1e-5)


def test_far_positions() -> None:
    """The table of rotations reaches the last position, and is as exact there."""
    weights = filled(replace(SMALL, positions=3000))
    ids = sequences([3000, 2999])
    np.testing.assert_allclose(packed(weights, ids), one_by_one(weights.reference(), ids), atol=1e-5)


@pytest.mark.parametrize("prefixes", [[(9, [3])], [(9, [4, 4, 1, 7]), (2, [5, 5]), (30, [1])]], ids=str)
@torch.inference_mode()
def test_shared_prefixes_change_nothing(prefixes: list[tuple[int, list[int]]]) -> None:
    """Each prefix once, then its tails, all in one packing: what the reranker does with query and documents."""
    weights = filled(SMALL)
    ids, positions, queries, keys, rows, wanted, last, last_rows = [], [], [], [], [], [], [], []
    for prefix, tails in prefixes:
        head, *parts = sequences([prefix, *tails])
        begin = sum(map(len, ids))
        shared = np.arange(begin, begin + prefix)
        ids.append(head)
        positions.append(np.arange(prefix))
        queries.append(prefix)
        keys.append(prefix)
        rows.append(shared)
        for part in parts:
            at = sum(map(len, ids))
            ids.append(part)
            positions.append(prefix + np.arange(len(part)))
            queries.append(len(part))
            keys.append(prefix + len(part))
            rows.append(np.concatenate([shared, np.arange(at, at + len(part))]))
            last_rows.append(rows[-1])
            last.append(at + len(part) - 1)
            wanted.append(np.concatenate([head, part]))
    packing = attention.pack_queries(np.array(queries), np.array(keys), np.concatenate(rows), "cpu", False)
    lengths = np.array([len(row) for row in last_rows])
    asking = attention.pack_queries(np.ones_like(lengths), lengths, np.concatenate(last_rows), "cpu", False)
    numbers = (np.concatenate(ids).astype(np.int64), np.concatenate(positions))
    ids_T, positions_T, last_n = (to_device(x, "cpu") for x in (*numbers, np.array(last)))
    found = unit(Qwen3(weights).last_states(ids_T, positions_T, packing, asking, last_n))
    np.testing.assert_allclose(found, one_by_one(weights.reference(), wanted), atol=1e-5)


# Loading.


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


# What the fused pass does not compute goes to transformers' modules.

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
UNSUPPORTED = {
    "a scaled rotation": ({"rope_parameters": YARN}, "rope scaling 'yarn'"),
    "a sliding window": ({"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, "a sliding window"),
    "biases": ({"attention_bias": True}, "biases in its attention"),
    "another activation": ({"hidden_act": "gelu"}, "the activation 'gelu'"),
    "heads of odd sizes": ({"head_dim": 24}, "heads of size 24"),
}


@pytest.fixture
def other_qwen3(tmp_path: Path):
    """A function that writes a random Qwen3 with changes to its config."""
    build(tmp_path, "qwen3")
    vocabulary = json.loads((tmp_path / "config.json").read_text())["vocab_size"]

    def written(**changes: object) -> Path:
        shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        rest = {"num_hidden_layers": 2, "intermediate_size": 128, "initializer_range": 0.15, "vocab_size": vocabulary}
        model = AutoModel.from_config(
            Qwen3Config(**{**shape, **rest, "max_position_embeddings": 512, **changes}), dtype=torch.float32
        )
        for name, tensor in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
        model.save_pretrained(tmp_path)
        return tmp_path

    return written


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_qwen3_run_through_transformers(other_qwen3, name: str) -> None:
    changes, problem = UNSUPPORTED[name]
    folder = other_qwen3(**changes)
    config = json.loads((folder / "config.json").read_text())
    assert unsupported(config) == problem
    with pytest.raises(ModelError, match=problem):
        Geometry.of(config)
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, TransformersNetwork)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)
    with pytest.raises(ModelError, match="float8 is for Qwen3 models with last-token pooling only; use bfloat16"):
        Embedder(replace(spec, dtype="float8"))


def test_another_pooling_runs_through_transformers(other_qwen3) -> None:
    """The fused pass knows the last token only."""
    folder = other_qwen3()
    write_modules(folder, "mean")
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, TransformersNetwork)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)


def test_no_cache_keeps_keys_and_values(other_qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would read it, and it would hold all keys and values of a micro-batch."""

    def cache(*given: object, **more: object) -> None:
        raise AssertionError("a cache was made")

    monkeypatch.setattr("transformers.models.qwen3.modeling_qwen3.DynamicCache", cache)
    Embedder(ModelSpec(str(other_qwen3(hidden_act="gelu")), device="cpu", dtype="float32"))


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}], ids=str)
def test_plain_qwen3_do_not(other_qwen3, changes: dict[str, object]) -> None:
    folder = other_qwen3(**changes)
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, Qwen3Network)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)


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


def test_8_bits_from_the_start_of_a_replica(other_qwen3) -> None:
    """The reference is asked in bfloat16 before the matrices lose their bits."""
    folder = other_qwen3(initializer_range=0.03)
    spec = ModelSpec(str(folder), device="cpu", dtype="float8")
    embedder = Embedder(spec)
    assert {matrix.dtype for matrix in _matrices(embedder)} == {torch.float8_e4m3fn}
    exact = Embedder(replace(spec, dtype="float32")).embed_documents(TEXTS)
    assert cosine(embedder.embed_documents(TEXTS), exact) > 0.99
    assert not np.allclose(embedder.embed_documents(TEXTS), exact, atol=1e-4), "it was computed in 8 bits"


def test_the_reference_lets_go_of_the_weights_it_shared() -> None:
    """Or 8 bits would take 16 more."""
    weights = filled(SMALL, "float8")
    network = Qwen3Network(weights, varlen=False, in_8_bits=True)
    with torch.inference_mode():
        network.plain(np.arange(5))
    before = weakref.ref(weights.layers[0].down.weight)
    network.start()
    gc.collect()
    assert before() is None


def _matrices(embedder: Embedder) -> list[torch.Tensor]:
    layers = embedder._model._network._weights.layers
    return [getattr(layer, part).weight for layer in layers for part in ("qkv", "out", "gate_up", "down")]
