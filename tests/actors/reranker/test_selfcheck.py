"""A reranker must not work when it computes wrongly.

With a tiny vocabulary, because Qwen's takes seconds to load.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.checks.layouts import Comparison
from actors.network import attention, qwen3
from actors.reranker.batches import PairBatch, PairBatches
from actors.reranker.model import RerankModel
from actors.reranker.reranker import Reranker
from actors.reranker.selfcheck import check
from actors.spec import ModelError, ModelSpec
from tests.support.rerank_peers import build_tiny

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("reranker"))


def load(folder: Path, **fields) -> Reranker:
    return Reranker(ModelSpec(str(folder), device="cpu", threads=1, **{"dtype": "float32", **fields}))


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
