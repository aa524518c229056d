"""The model on its device: torch's errors under our names, and a token budget that is measured."""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.device import memory
from actors.device.device import Pending
from actors.device.memory import LARGE, SMALL, STEP
from actors.embedder.embedder import Embedder
from actors.embedder.model import TOKEN_BUDGET_CPU, EmbedModel
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken
from actors.weights.recipe import resolve
from tests.support.models import build

GB = 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EmbedModel:
    folder = build(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")
    return model_of(folder)


def model_of(folder: Path, **changes: object) -> EmbedModel:
    spec = ModelSpec(str(folder), device="cpu", dtype="float32", **changes)
    model = EmbedModel(spec, resolve(spec))
    model.start(None)
    return model


IDS, LENGTHS = np.arange(12, dtype=np.int32), np.array([4, 8])


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            DeviceOutOfMemory,
            "2 texts, 12 tokens, the longest 8.* does not fit",
        ),
        (RuntimeError("CUDA error: device-side assert\nlong"), ReplicaBroken, r"cpu failed on .* CUDA error: [\w -]+$"),
        (torch.AcceleratorError("launch failed"), ReplicaBroken, "cpu failed on a micro-batch .* launch failed"),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError, "shapes cannot"),
    ],
)
def test_errors_of_the_device_have_our_names(
    model: EmbedModel, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type, message: str
) -> None:
    def failing(ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        raise error

    monkeypatch.setattr(model._network, "pooled", failing)
    with pytest.raises(kind, match=message) as caught:
        model.encode(IDS, LENGTHS)
    assert isinstance(caught.value, ModelError) == (kind is not RuntimeError)


def test_an_error_that_shows_when_the_result_is_fetched(model: EmbedModel) -> None:
    class Event:
        def synchronize(self) -> None:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(ReplicaBroken, match="illegal memory access"):
        model.to_host(Pending(torch.zeros(1, 2), Event()))


def test_what_did_not_fit_is_not_held_on_to(model: EmbedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frames of the failed forward pass keep its tensors alive; the half that is tried next needs their memory."""
    held = []

    def failing(ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model._network, "pooled", failing)
    with pytest.raises(DeviceOutOfMemory) as caught:
        model.encode(IDS, LENGTHS)
    assert held[0]() is None
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_halved_from_the_error_to_the_vectors(model: EmbedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = Embedder(ModelSpec("fake", token_budget=64))
    embedder._model, embedder.dimensions = model, model.dimensions
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, 40)
    ids, offsets = rng.integers(0, 300, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)])
    wanted = embedder.embed(ids, offsets)
    pooled = model._network.pooled

    def small_memory(ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        if len(ids_T) > 40:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pooled(ids_T, lengths_n)

    monkeypatch.setattr(model._network, "pooled", small_memory)
    np.testing.assert_allclose(embedder.embed(ids, offsets), wanted, atol=1e-5)
    assert 20 <= embedder.token_budget <= 32


def test_ids_and_lengths_that_would_kill_a_gpu_stop_before_it(model: EmbedModel) -> None:
    with pytest.raises(AssertionError, match="id 100000 is not of this model"):
        model.encode(np.array([100000]), np.array([1]))
    with pytest.raises(AssertionError, match="a text of 513 tokens was not cut"):
        model.encode(np.zeros(513, dtype=np.int32), np.array([513]))


def test_on_a_cpu_nothing_is_measured(model: EmbedModel, tmp_path: Path) -> None:
    assert model.token_budget == TOKEN_BUDGET_CPU
    other = model_of(build(tmp_path, "qwen3"))
    other.start(77)
    assert other.token_budget == 77


@pytest.mark.parametrize("max_tokens", [100, 256, 300, 512])
def test_on_cuda_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_tokens: int) -> None:
    """On a simulated device of 3 GB: full micro-batches of the longest texts, and what they took beside the weights."""
    spec = ModelSpec(str(build(tmp_path, "qwen3")), device="cpu", dtype="float32", max_tokens=max_tokens)
    model = EmbedModel(spec, resolve(spec))
    # Of the size of 0.6B.
    model._network.operations = 881_000_000
    weights, peak, ran = 7 * GB, [9 * GB], []  # the peak: loading took more for a moment

    def encode(ids_T: np.ndarray, lengths_n: np.ndarray) -> None:
        ran.append(lengths_n)
        assert len(ids_T) == lengths_n.sum()
        assert lengths_n.min() >= 1
        peak[0] = max(peak[0], weights + 10**8 + 100_000 * len(ids_T))

    for name, stand_in in {
        "empty_cache": lambda: None,
        "mem_get_info": lambda device: (3 * GB, 10 * GB),
        "memory_allocated": lambda device: weights,
        "reset_peak_memory_stats": lambda device: peak.__setitem__(0, weights),
        "max_memory_allocated": lambda device: peak[0],
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(model, "encode", encode)
    monkeypatch.setattr(model, "to_host", lambda pending: None)
    model._on_cuda = True
    model.start(None)
    assert [int(lengths_n.sum()) for lengths_n in ran] == [SMALL, LARGE]
    assert all(lengths_n.max() == max_tokens for lengths_n in ran)
    room = int((memory.SHARE * 3 * GB - 10**8) / 100_000) // STEP * STEP
    assert model.token_budget == room
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (90 * GB, 99 * GB))
    model.start(None)
    assert model.token_budget == memory.MOST
    model._network.operations = 21_000_000  # of MiniLM's
    model.start(None)
    assert model.token_budget == memory.MOST_OF_SMALL_MODELS
    model.start(5)
    assert model.token_budget == 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_measured_on_a_real_device(tmp_path: Path) -> None:
    spec = ModelSpec(str(build(tmp_path, "qwen3")), device="cuda")
    embedder = Embedder(spec)
    assert embedder.token_budget % STEP == 0
    rng = np.random.default_rng(0)
    ids, offsets = rng.integers(0, 300, 40_000), np.arange(0, 40_001, 50)
    assert np.isfinite(embedder.embed(ids, offsets)).all()
