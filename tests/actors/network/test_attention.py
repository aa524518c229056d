"""Both kernels of packed attention against attention written out, in float64, one sequence and head at a time."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.network import attention, flash
from actors.network.attention import Packing, pack, pack_queries
from actors.spec import ModelError
from tests.support.varlen import Qkv, one_by_one, varlen_of_torch_2_11, varlen_of_torch_2_13

HEAD_SIZE = 8


KERNELS = {"by equal lengths": None, "torch 2.11": varlen_of_torch_2_11, "torch 2.13": varlen_of_torch_2_13}


@pytest.fixture(params=list(KERNELS))
def varlen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    """Whether to pack for the variable-length kernel; if so, an emulation of it stands in for torch's."""
    kernel = KERNELS[request.param]
    if kernel is not None:
        monkeypatch.setattr(attention, "varlen_function", lambda: kernel)
    attention._varlen_parameters.cache_clear()
    yield kernel is not None
    attention._varlen_parameters.cache_clear()


def random_qkv(tokens: int, keys: int, heads: int, kv_heads: int) -> Qkv:
    generator = torch.Generator().manual_seed(0)
    shapes = ((tokens, heads), (keys, kv_heads), (keys, kv_heads))
    return tuple(torch.randn(*shape, HEAD_SIZE, generator=generator) for shape in shapes)


def wanted(qkv: Qkv, packing: Packing, causal: bool, reach: int | None, scale: float | None) -> torch.Tensor:
    left = -1 if reach is None else reach
    query, key, value = qkv
    if packing.key_rows is not None:
        key, value = key[packing.key_rows], value[packing.key_rows]
    window = (left, 0 if causal else left)
    return one_by_one(
        (query, key, value), packing.cu_queries, packing.cu_keys, window, scale or query.shape[-1] ** -0.5
    )


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 1)], ids=str)
@pytest.mark.parametrize("reach", [None, 0, 3, 100])
@pytest.mark.parametrize("causal", [True, False])
def test_whole_sequences(varlen: bool, causal: bool, reach: int | None, heads: tuple[int, int]) -> None:
    lengths = np.array([1, 7, 7, 7, 2, 1, 1, 12, 7])
    packing = pack(lengths, "cpu", varlen)
    qkv = random_qkv(45, 45, *heads)
    for scale in (None, 0.3):
        found = attention.attend_packed(qkv, packing, causal, reach, scale)
        assert found.is_contiguous()
        torch.testing.assert_close(found, wanted(qkv, packing, causal, reach, scale), atol=2e-6, rtol=0)


@pytest.mark.parametrize("reach", [None, 2])
@pytest.mark.parametrize("causal", [True, False])
def test_only_the_last_tokens_ask(varlen: bool, causal: bool, reach: int | None) -> None:
    queries, keys = np.array([1, 1, 3, 3, 5, 2, 1]), np.array([6, 6, 6, 6, 5, 9, 1])
    packing = pack_queries(queries, keys, None, "cpu", varlen)
    qkv = random_qkv(16, 39, 4, 2)
    found = attention.attend_packed(qkv, packing, causal, reach)
    torch.testing.assert_close(found, wanted(qkv, packing, causal, reach, None), atol=2e-6, rtol=0)


def shared_prefix(prefix: int, tails: list[int], varlen: bool) -> Packing:
    """A prefix that asks for itself, then tails that each see the prefix and themselves."""
    starts = prefix + np.cumsum(tails) - tails
    rows = [np.arange(prefix)]
    rows += [np.concatenate([np.arange(prefix), np.arange(at, at + n)]) for at, n in zip(starts, tails, strict=True)]
    queries = np.array([prefix, *tails])
    return pack_queries(queries, np.array([len(row) for row in rows]), np.concatenate(rows), "cpu", varlen)


@pytest.mark.parametrize("tails", [[3], [2, 5, 5, 1, 1], [4, 4, 4]], ids=str)
def test_a_shared_prefix_is_computed_once(varlen: bool, tails: list[int]) -> None:
    """Every tail gets what it gets behind a copy of the prefix of its own."""
    prefix, tokens = 6, 6 + sum(tails)
    qkv = random_qkv(tokens, tokens, 4, 2)
    found = attention.attend_packed(qkv, shared_prefix(prefix, tails, varlen), causal=True)
    at = prefix
    for tail in tails:
        rows = [*range(prefix), *range(at, at + tail)]
        alone = attention.attend_packed(tuple(x[rows] for x in qkv), pack(np.array([len(rows)]), "cpu", varlen), True)
        torch.testing.assert_close(found[at : at + tail], alone[prefix:], atol=2e-6, rtol=0)
        at += tail
    torch.testing.assert_close(found[:prefix], alone[:prefix], atol=2e-6, rtol=0)


def test_neighbours_of_equal_lengths_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes, honest = [], torch.nn.functional.scaled_dot_product_attention

    def noting(q, k, v, **options):
        shapes.append((q.shape[0], q.shape[2], k.shape[2]))
        return honest(q, k, v, **options)

    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", noting)
    attention.attend_packed(random_qkv(20, 20, 2, 2), pack(np.array([5, 5, 3, 3, 3, 1]), "cpu", False), True)
    assert shapes == [(2, 5, 5), (3, 3, 3), (1, 1, 1)]
    shapes.clear()
    packing = pack_queries(np.array([2, 2, 2]), np.array([4, 4, 5]), None, "cpu", False)
    attention.attend_packed(random_qkv(6, 13, 2, 2), packing, True)
    assert shapes == [(2, 2, 4), (1, 2, 5)]


def test_no_runs_are_looked_for_where_the_kernel_needs_none() -> None:
    packing = pack(np.array([5, 5, 3]), "cpu", varlen=True)
    assert packing.runs == ()
    assert packing.cu_keys is packing.cu_queries
    assert packing.cu_queries.tolist() == [0, 5, 10, 13]
    assert (packing.longest_queries, packing.longest_keys, packing.key_rows) == (5, 5, None)


@pytest.mark.parametrize(
    ("window", "causal", "reach"), [(None, True, None), (-1, False, None), (4, True, 3), (4, False, 3), (1, True, 0)]
)
def test_the_window_of_transformers_counts_the_token_itself(
    varlen: bool, window: int | None, causal: bool, reach: int | None
) -> None:
    packing = pack(np.array([9, 9, 4]), "cpu", varlen)
    qkv = random_qkv(22, 22, 4, 2)
    as_transformers = [x.transpose(0, 1)[None] for x in qkv]
    found, scores = attention.attend(
        SimpleNamespace(is_causal=causal), *as_transformers, None, packing=packing, sliding_window=window, scaling=0.2
    )
    assert scores is None
    torch.testing.assert_close(found[0], wanted(qkv, packing, causal, reach, 0.2), atol=2e-6, rtol=0)


def test_a_mask_beside_the_packing_is_our_fault() -> None:
    packing, qkv = pack(np.array([2]), "cpu", False), [torch.ones(1, 1, 2, 8)] * 3
    with pytest.raises(AssertionError, match="a mask was built"):
        attention.attend(SimpleNamespace(is_causal=True), *qkv, torch.ones(1), packing=packing)


def test_the_real_function_has_the_parameters_we_give() -> None:
    """That of the installed torch: its kernel runs on CUDA only, its signature can be read here."""
    parameters = set(inspect.signature(attention.varlen_function()).parameters)
    assert {"scale", "window_size"} <= parameters
    assert list(inspect.signature(attention.varlen_function()).parameters)[:7] == [
        *("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
    ]


def test_a_torch_without_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.nn.attention.varlen as module

    def of_torch_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False):
        raise AssertionError

    attention.varlen_function.cache_clear()
    monkeypatch.setattr(module, "varlen_attn", of_torch_2_10)
    with pytest.raises(ModelError, match=r"too old, use 2\.11"):
        attention.varlen_function()
    monkeypatch.delattr(module, "varlen_attn")
    with pytest.raises(ModelError, match=r"has no variable-length attention: use torch 2\.11"):
        attention.varlen_function()
    monkeypatch.undo()
    assert attention.varlen_function() is flash.varlen
    attention.varlen_function.cache_clear()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reach", [None, 3])
@pytest.mark.parametrize("causal", [True, False])
def test_the_real_kernel_is_what_the_emulation_says(causal: bool, reach: int | None) -> None:
    queries, keys = np.array([1, 1, 3, 3, 5, 2, 1]), np.array([6, 6, 6, 6, 5, 9, 1])
    generator = torch.Generator().manual_seed(0)
    shapes = ((16, 4, 64), (39, 2, 64), (39, 2, 64))
    qkv = tuple(torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    packing = pack_queries(queries, keys, None, "cuda", True)
    found = attention.attend_packed(tuple(x.cuda() for x in qkv), packing, causal, reach).cpu()
    plain = wanted(qkv, pack_queries(queries, keys, None, "cpu", False), causal, reach, None)
    torch.testing.assert_close(found.float(), plain.float(), atol=2e-2, rtol=2e-2)
