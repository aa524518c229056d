"""Qwen3's fused forward pass against transformers' own model, one sequence at a time, on the same random weights."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Model

from actors.network import attention
from actors.network.attention import to_device
from actors.network.kernels import plain
from actors.network.kernels.operations import Kernels
from actors.network.network import Qwen3Network
from actors.network.qwen3 import Qwen3
from actors.network.qwen3_weights import Geometry, Matrix, Weights
from tests.support.live import LiveBytes
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
PUBLISHED = {  # two of their layers, few words
    "0.6B": (1024, 2, 16, 8, 128, 3072, 1000, 1024, 1e6, 1e-6),
    "4B": (2560, 2, 32, 8, 128, 9728, 1000, 1024, 1e6, 1e-6),
    "8B": (4096, 2, 32, 8, 128, 12288, 1000, 1024, 1e6, 1e-6),
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


@pytest.mark.parametrize(("size", "dtype"), [*((size, "bfloat16") for size in PUBLISHED), ("8B", "float8")])
@torch.inference_mode()
def test_nothing_of_the_attention_is_held_through_the_mlp(
    size: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its most a token takes its state, gate and up, and what is made of those. Of the published sizes, on torch's
    device without memory."""
    geometry = Geometry(*PUBLISHED[size])
    weights = Weights(geometry, "meta", dtype)
    if dtype == "float8":
        weights.to_8_bits()
    tokens, qwen3 = 4096, Qwen3(weights)
    ids_T, positions_T = torch.zeros((2, tokens), dtype=torch.int64, device="meta")
    lengths = np.full(tokens // 512, 512)
    packing = attention.pack(lengths, "cpu", False)
    last = attention.pack_queries(np.ones_like(lengths), lengths, None, "cpu", False)
    last_n = torch.zeros(len(lengths), dtype=torch.int64, device="meta")
    live = LiveBytes()
    for name in ("rms_norm", "rms_norm_8", "add_rms_norm_8", "norm_rope_", "silu_mul", "silu_mul_8", "quantise"):
        monkeypatch.setattr(plain, name, live.around(getattr(plain, name)))
    monkeypatch.setattr(Matrix, "times", live.around(Matrix.times))
    qwen3.last_states(ids_T, positions_T, packing, last, last_n)
    gated = geometry.intermediate * (1 if dtype == "float8" else 2)
    assert live.most / tokens == pytest.approx(2 * geometry.hidden + 4 * geometry.intermediate + gated, rel=0.01)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_one_launch_turns_queries_and_keys_and_norms_add_what_is_owed(
    dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, [row] = filled(SMALL, dtype, std=0.05), sequences([9])
    if dtype == "float8":
        weights.to_8_bits()
    calls: Counter[str] = Counter()
    for name in (name for name in vars(Kernels) if not name.startswith("_")):
        honest = getattr(plain, name)
        monkeypatch.setattr(plain, name, lambda *a, name=name, honest=honest: (calls.update([name]), honest(*a))[1])
    packed(weights, [row])
    layers = SMALL.layers
    assert calls["norm_rope_"] == layers - 1 + 2, "in the last layer keys of all tokens, queries of the last ones"
    assert calls["add_rms_norm_8"] == (2 * layers - 1 if dtype == "float8" else 0), "each norm but the first adds"
