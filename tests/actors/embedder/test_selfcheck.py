"""Each fault that gives vectors which look right is caught by the self-check, and named."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.checks.layouts import COPIES, LEAST_COSINE, Comparison
from actors.embedder.embedder import Embedder
from actors.embedder.selfcheck import TEXTS, check, compare, layouts, sequences_of
from actors.network import attention, encoder, pooling, qwen3
from actors.network.attention import Packing, Run
from actors.network.kernels import plain
from actors.network.kernels.operations import Heads, Rotation
from actors.network.network import TransformersNetwork
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.recipe import resolve
from tests.support.models import ARCHITECTURES, build
from tests.support.qwen3 import SMALL, filled, write

WRONG = "this replica computes wrong vectors: "
Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    found = {name: build(base / name, name) for name in ARCHITECTURES}
    # With norms that differ from channel to channel and head norms that are not 1.
    write(found["qwen3"], filled(replace(SMALL, vocabulary=330)))
    return found


def spec_of(folder: Path, dtype: str = "float32") -> ModelSpec:
    return ModelSpec(str(folder), device="cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_right_model_passes(folders: dict[str, Path], name: str, dtype: str) -> None:
    found = Embedder(spec_of(folders[name], dtype)).comparisons
    assert [c.layout for c in found] == ["alone", "together", "equal lengths", "packed"]
    for c in found:
        assert LEAST_COSINE[dtype] <= c.cosine <= 1 + 1e-6
        assert c.cosine_to_alone >= 0.999
        assert dtype == "float32" or c.cosine < 1 - 1e-9 or c.cosine_to_alone > 1 - 1e-6


def test_8_bits_pass(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = build(tmp_path, "qwen3")
    write(folder, filled(replace(SMALL, vocabulary=330), std=0.03))
    found = Embedder(spec_of(folder, "float8")).comparisons
    assert all(0.95 <= c.cosine < 0.999999 for c in found)


@pytest.mark.parametrize("most", [2, 5])
def test_texts_of_very_few_tokens_pass(folders: dict[str, Path], most: int) -> None:
    Embedder(replace(spec_of(folders["qwen3"]), max_tokens=most))
    Embedder(replace(spec_of(folders["bert"]), max_tokens=most + 2))


# Faults, put where they would be.


def _attention_changed(patch: Patch, change: Callable[..., dict[str, object]]) -> None:
    """In the packed way alone; the reference has the honest function."""
    honest = torch.nn.functional.scaled_dot_product_attention

    def changed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> torch.Tensor:
        return honest(q, k, v, **{**options, **change(q, options)})

    patch.setattr(attention, "F", SimpleNamespace(scaled_dot_product_attention=changed))


def lost_mask(patch: Patch) -> None:
    _attention_changed(patch, lambda q, options: {"is_causal": False} if options["attn_mask"] is None else {})


def lost_mask_of_equal_lengths(patch: Patch) -> None:
    _attention_changed(patch, lambda q, options: {"is_causal": False} if q.shape[0] > 1 else {})


def lost_mask_of_many_equal_lengths(patch: Patch) -> None:
    _attention_changed(patch, lambda q, options: {"is_causal": False} if q.shape[0] >= 2 * len(TEXTS) else {})


def lost_scale(patch: Patch) -> None:
    _attention_changed(patch, lambda q, options: {"scale": 1.0})


def lost_boundaries(patch: Patch) -> None:
    """All sequences of a micro-batch as one."""
    honest = attention.pack

    def pack(lengths_n: np.ndarray, device: str, varlen: bool) -> Packing:
        total = int(lengths_n.sum())
        return replace(honest(lengths_n, device, varlen), runs=(Run(0, 0, 1, total, total),))

    patch.setattr(attention, "pack", pack)


def lost_boundaries_of_the_last_tokens(patch: Patch) -> None:
    """The one asking token of a sequence sees what lies before its sequence too."""
    honest = attention.pack_queries

    def pack_queries(queries_n: np.ndarray, keys_n: np.ndarray, *rest: object) -> Packing:
        packing = honest(queries_n, keys_n, *rest)
        if queries_n is keys_n:
            return packing
        ends = np.cumsum(keys_n).tolist()
        return replace(packing, runs=tuple(Run(i, 0, 1, 1, end) for i, end in enumerate(ends)))

    patch.setattr(attention, "pack_queries", pack_queries)


def positions_run_on(patch: Patch) -> None:
    patch.setattr(TransformersNetwork, "_positions", lambda self, ids_T, lengths_n: np.arange(len(ids_T)) % 250 + 2)


def row_before_the_last(patch: Patch) -> None:
    honest = qwen3.Qwen3.last_states
    patch.setattr(qwen3.Qwen3, "last_states", lambda self, *given: honest(self, *given[:-1], (given[-1] - 1).clamp(0)))


def rows_of_the_neighbour(patch: Patch) -> None:
    honest = pooling.pool
    patch.setattr(pooling, "pool", lambda states, ends, mode: honest(states, ends, mode).roll(1, dims=0))


def _keys_changed(patch: Patch, change: Callable[..., tuple[torch.Tensor, ...]]) -> None:
    honest = qwen3.attend_packed

    def changed(qkv: tuple[torch.Tensor, ...], packing: Packing, causal: bool) -> torch.Tensor:
        return honest((qkv[0], *change(*qkv[1:])), packing, causal)

    patch.setattr(qwen3, "attend_packed", changed)


def heads_swapped(patch: Patch) -> None:
    """Query heads ask the key heads of another group."""
    _keys_changed(patch, lambda key, value: (key.flip(1), value.flip(1)))


def keys_and_values_of_different_groups(patch: Patch) -> None:
    _keys_changed(patch, lambda key, value: (key, value.flip(1)))


def neighbours_rotated_together(patch: Patch) -> None:
    """Value 2i with value 2i + 1, as other models do, in place of i with i + D/2."""

    def norm_rope_(heads: Heads, weights: torch.Tensor, eps: float, rotation: Rotation) -> None:
        cos, sin = (table[rotation.positions].unsqueeze(1) for table in rotation[:2])
        for x, weight in zip((heads.x[:, : heads.queries], heads.x[:, heads.queries :]), weights, strict=True):
            normed = plain.rms_norm(x, weight, eps)
            even, odd = normed[..., ::2], normed[..., 1::2]
            x.copy_(torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2))

    patch.setattr(plain, "norm_rope_", norm_rope_)


def one_half_rotated(patch: Patch) -> None:
    honest = plain.norm_rope_

    def norm_rope_(heads: Heads, weights: torch.Tensor, eps: float, rotation: Rotation) -> None:
        size = heads.x.shape[-1] // 2
        still = rotation._replace(cos=torch.ones_like(rotation.cos), sin=torch.zeros_like(rotation.sin))
        normed = heads._replace(x=heads.x.clone())
        honest(normed, weights, eps, still)
        honest(heads, weights, eps, rotation)
        heads.x[..., size:] = normed.x[..., size:]

    patch.setattr(plain, "norm_rope_", norm_rope_)


def head_norm_left_out(patch: Patch) -> None:
    honest = plain.norm_rope_
    patch.setattr(plain, "norm_rope_", lambda x, weights, *rest: honest(x, torch.ones_like(weights), *rest))


def gate_and_up_swapped(patch: Patch) -> None:
    honest = plain.silu_mul
    patch.setattr(plain, "silu_mul", lambda x: honest(x.roll(x.shape[1] // 2, dims=1)))


def no_unit_length(patch: Patch) -> None:
    patch.setattr(pooling, "finish", lambda pooled, dimensions, normalise: pooled[:, :dimensions].float())


def not_a_number(patch: Patch) -> None:
    honest = attention.attend_packed

    def attend_packed(qkv: tuple[torch.Tensor, ...], *given: object, **more: object) -> torch.Tensor:
        found = honest(qkv, *given, **more)
        found[-1:] = torch.nan
        return found

    patch.setattr(attention, "attend_packed", attend_packed)
    patch.setattr(qwen3, "attend_packed", attend_packed)
    patch.setattr(encoder, "attend_packed", attend_packed)


OF_ALL = ("qwen3", "bert", "xlm-roberta", "modernbert")
FAULTS = [
    (lost_mask, ("qwen3", "qwen3-window"), "(cut )?text .*, alone, has cosine"),
    (lost_mask_of_equal_lengths, ("qwen3",), r"cut text \d, together, has cosine"),
    (lost_mask_of_many_equal_lengths, ("qwen3",), "(cut )?text .*, packed, has cosine"),
    (lost_scale, OF_ALL, "(cut )?text .*, alone, has cosine"),
    (lost_boundaries, OF_ALL, "(cut )?text .*, together, has cosine"),
    (lost_boundaries_of_the_last_tokens, ("qwen3",), "(cut )?text .*, together, has cosine"),
    (positions_run_on, ("bert", "xlm-roberta"), "(cut )?text .*, (alone|together), has cosine"),
    (row_before_the_last, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (rows_of_the_neighbour, ("bert", "xlm-roberta", "modernbert"), "(cut )?text .*, together, has cosine"),
    (heads_swapped, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (keys_and_values_of_different_groups, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (neighbours_rotated_together, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (one_half_rotated, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (head_norm_left_out, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (gate_and_up_swapped, ("qwen3",), "(cut )?text .*, alone, has cosine"),
    (no_unit_length, OF_ALL, r"alone, a vector has length \d+\.\d+, not 1"),
    (not_a_number, OF_ALL, r"text 0 \('Paris.*'\), alone, has a vector that is not finite"),
]
CASES = [
    pytest.param(fault, name, dtype, message, id=f"{fault.__name__}-{name}-{dtype}")
    for fault, names, message in FAULTS
    for name in names
    for dtype in (("float32", "bfloat16") if name in ("qwen3", "bert") else ("float32",))
]


@pytest.mark.parametrize(("fault", "name", "dtype", "message"), CASES)
def test_a_fault_is_caught_and_named(
    folders: dict[str, Path], fault: Callable[[Patch], None], name: str, dtype: str, message: str, monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    with pytest.raises(ModelError, match=WRONG + message) as caught:
        Embedder(spec_of(folders[name], dtype))
    for part in ("Nothing was written by it", "versions of torch, transformers", "vectormill doctor"):
        assert part in str(caught.value)


# The check itself, on vectors made up.


IDS = [np.arange(i, i + length) for i, length in enumerate([9, 4, 12, 6, 9, 5])]
SEQUENCES = sequences_of(IDS)


def vector_of(row: np.ndarray) -> np.ndarray:
    """Of length 1, another one for every other sequence."""
    drawn = np.random.default_rng(row.tolist()).normal(size=16)
    return (drawn / np.linalg.norm(drawn)).astype(np.float32)


REFERENCE = np.stack([vector_of(row) for row in SEQUENCES])


def encoding(change: Callable[[int, np.ndarray], np.ndarray] = lambda count, found: found):
    """An encode that gives the vectors of its sequences, changed by change(number of sequences, vectors)."""
    return lambda rows: change(len(rows), np.stack([vector_of(row) for row in rows]))


def test_sequences_are_whole_and_cut_to_one_length() -> None:
    assert [row.tolist() for row in SEQUENCES[:6]] == [row.tolist() for row in IDS]
    assert {len(row) for row in SEQUENCES[6:]} == {5}
    assert len(SEQUENCES) == 6 + 5, "the text of 4 tokens is too short"
    assert SEQUENCES[6].tolist() == [0, 1, 2, 3, 8], "the closing token stays"
    assert [len(row) for row in sequences_of([np.array([7])] * 3)] == [1, 1, 1]


def test_layouts_cover_every_sequence() -> None:
    alone, together, equal, packed = layouts(SEQUENCES)
    everything = list(range(len(SEQUENCES)))
    assert [batch for (batch,) in alone.batches] == everything
    assert [list(batch) for batch in together.batches] == [everything]
    assert len(equal.batches[0]) == 6
    assert {len(SEQUENCES[i]) for i in equal.batches[0]} == {5}
    (batch,) = packed.batches
    assert sorted(batch) == sorted(everything * COPIES)
    lengths = [len(SEQUENCES[i]) for i in batch]
    assert lengths == sorted(lengths, reverse=True)


def test_one_micro_batch_a_call() -> None:
    calls = []

    def noting(count: int, found: np.ndarray) -> np.ndarray:
        calls.append(count)
        return found

    found = compare(SEQUENCES, REFERENCE, encoding(noting), True)
    assert calls == [1] * 11 + [11, 6, 44]
    assert [round(c.cosine, 6) for c in found] == [1] * 4
    check(found, "float32")


def test_the_worst_of_all_vectors_counts() -> None:
    """One bad vector of 44, in one layout."""

    def change(count: int, found: np.ndarray) -> np.ndarray:
        if count == 44:
            found[17] = found[17, ::-1]
        return found

    found = compare(SEQUENCES, REFERENCE, encoding(change), True)
    with pytest.raises(ModelError, match=r"text \d.*, packed, has cosine .* to the plain reference on the same"):
        check(found, "float8")
    assert [c.layout for c in found if c.cosine < 0.9] == ["packed"]
    assert found[3].worst == layouts(SEQUENCES)[3].batches[0][17]


def test_layouts_are_also_compared_with_one_another() -> None:
    """Near enough to the reference of another dtype, and yet neighbours matter."""

    def change(count: int, found: np.ndarray) -> np.ndarray:
        return found if count == 1 else found + 0.02 * np.roll(found, 1, axis=1)

    found = compare(SEQUENCES, REFERENCE, encoding(change), False)
    assert 0.999 < min(c.cosine for c in found) < 0.9999
    check(found, "bfloat16")
    with pytest.raises(ModelError, match=r"together, has cosine 0\.99\d+ .*; float32 wants 0\.99999999"):
        check(found, "float32")
    assert [c.cosine_to_alone == pytest.approx(c.cosine, abs=1e-6) for c in found] == [True] * 4
    apart = [Comparison("together", 0.9999, 0.9985, 0)]
    with pytest.raises(ModelError, match=r"neighbours in a micro-batch change a vector \(together: cosine 0\.99850"):
        check(apart, "bfloat16")
    check(apart, "float8")


@pytest.mark.parametrize("cosines", [(float("nan"), 1.0), (1.0, float("nan"))])
def test_a_cosine_that_is_no_number_does_not_pass(cosines: tuple[float, float]) -> None:
    with pytest.raises(ModelError, match="cosine nan"):
        check([Comparison("alone", *cosines, 0)], "float8")


def test_vectors_of_nought_do_not_pass() -> None:
    zeros = encoding(lambda count, found: found * 0)
    with pytest.raises(ModelError, match=r"alone, a vector has length 0\.000, not 1"):
        compare(SEQUENCES, REFERENCE, zeros, True)
    with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="cosine nan"):
        check(compare(SEQUENCES, REFERENCE, zeros, False), "float8")


def test_lengths_matter_where_the_model_normalises() -> None:
    long = encoding(lambda count, found: found * 1.01)
    check(compare(SEQUENCES, REFERENCE, long, False), "float32")
    with pytest.raises(ModelError, match=r"a vector has length 1\.010, not 1"):
        compare(SEQUENCES, REFERENCE, long, True)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    def change(count: int, found: np.ndarray) -> np.ndarray:
        if count == 6:
            found[2, 3] = value
        return found

    with pytest.raises(ModelError, match=r"cut text 1, equal lengths, has a vector that is not finite"):
        compare(SEQUENCES, REFERENCE, encoding(change), True)


def test_the_texts_differ_in_length_and_script(folders: dict[str, Path]) -> None:
    spec = spec_of(folders["qwen3"])
    lengths = np.diff(TextTokenizer(spec).encode(TEXTS).offsets)
    assert len(set(lengths.tolist())) >= 5
    assert resolve(spec).max_tokens > lengths.max()
    assert any(re.search(r"[一-龥]", text) for text in TEXTS)
    assert any(re.search(r"[а-я]", text) for text in TEXTS)


@pytest.mark.parametrize("name", ["qwen3", "bert", "xlm-roberta"])
def test_the_self_check_sees_sequences_that_see_each_other(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = attention.pack

    def one_long_sequence(lengths, device, varlen):
        packing = honest(lengths, device, varlen)
        total = int(lengths.sum())
        return replace(packing, runs=(attention.Run(0, 0, 1, total, total),))

    monkeypatch.setattr(attention, "pack", one_long_sequence)
    wrong = r"this replica computes wrong vectors: .*, together, has cosine -?0\.\d+ to the plain reference"
    for dtype in ("float32", "bfloat16"):
        with pytest.raises(ModelError, match=wrong):
            Embedder(replace(spec_of(folders[name]), dtype=dtype))


def test_the_self_check_sees_nan_and_lengths(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    finish = pooling.finish
    monkeypatch.setattr(pooling, "finish", lambda *given: finish(*given) * torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        Embedder(spec_of(folders["bert"]))
    monkeypatch.setattr(pooling, "finish", lambda *given: finish(*given) * 2)
    with pytest.raises(ModelError, match=r"alone, a vector has length 2\.000, not 1"):
        Embedder(spec_of(folders["bert"]))
