"""Faults of the forward pass of BERT's kind are caught by the self-check."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from actors.embedder.embedder import Embedder
from actors.network import encoder
from actors.network.kernels import plain
from actors.spec import ModelError, ModelSpec
from tests.support import encoders
from tests.support.models import build

Patch = pytest.MonkeyPatch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its biases are not zero, as those of a model that was never trained are."""
    folder = build(tmp_path_factory.mktemp("models") / "bert", "bert")
    return encoders.write(folder, encoders.drawn("bert", vocab_size=330))


def keys_taken_for_values(patch: Patch) -> None:
    honest = encoder.attend_packed
    patch.setattr(encoder, "attend_packed", lambda qkv, *rest, **more: honest((qkv[0], *qkv[:0:-1]), *rest, **more))


def bias_left_out(patch: Patch) -> None:
    honest = plain.bias_norm
    patch.setattr(plain, "bias_norm", lambda x, bias, *rest: honest(x, torch.zeros_like(bias), *rest))


def norms_left_out(patch: Patch) -> None:
    """Only the embeddings are normed."""
    honest = encoder.Encoder._normed
    patch.setattr(
        encoder.Encoder, "_normed", lambda self, x, norm: x if norm is not self._norm else honest(self, x, norm)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", [keys_taken_for_values, bias_left_out, norms_left_out])
def test_a_fault_is_caught(folder: Path, dtype: str, fault: Callable[[Patch], None], monkeypatch: Patch) -> None:
    spec = ModelSpec(str(folder), device="cpu", dtype=dtype)
    Embedder(spec)
    fault(monkeypatch)
    with pytest.raises(ModelError, match=r"this replica computes wrong vectors: .*, alone, has cosine"):
        Embedder(spec)
