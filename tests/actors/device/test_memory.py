"""Never out of memory: the token budget is measured, and halved when it was too much."""

import re
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from actors import fake
from actors.device import memory
from actors.device.device import Pending
from actors.device.memory import LARGE, MOST, SHARE, SMALL, STEP, token_budget
from actors.embedder.embedder import Embedder
from actors.embedder.fake import FakeEmbedModel
from actors.embedder.model import TOKEN_BUDGET_CPU, EmbedModel
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken
from actors.weights.recipe import resolve
from tests.support.models import build

GB = 10**9

# The budget.


def linear(base: float, per_token: float):
    asked = []

    def peak_bytes(tokens: int) -> int:
        asked.append(tokens)
        return int(base + per_token * tokens)

    return peak_bytes, asked


@pytest.mark.parametrize("per_token", [20_000, 150_000, 700_000])
@pytest.mark.parametrize("base", [0, 0.5 * GB])
@pytest.mark.parametrize("free", [8 * GB, 20 * GB, 60 * GB])
def test_the_budget_fills_its_share_and_no_more(free: int, base: float, per_token: float) -> None:
    peak_bytes, asked = linear(base, per_token)
    found = token_budget(peak_bytes, free, 512)
    assert asked == [SMALL, LARGE]
    assert found % STEP == 0
    assert STEP <= found <= MOST
    assert peak_bytes(found) <= SHARE * free <= 0.9 * free
    assert found == MOST or peak_bytes(found + STEP) > SHARE * free


def test_memory_that_does_not_grow() -> None:
    assert token_budget(lambda tokens: 1000, GB, 8192) == MOST
    assert token_budget(lambda tokens: 10**6 - tokens, GB, 8192) == MOST


def test_not_even_the_small_measurement_fits() -> None:
    def full(tokens: int) -> int:
        raise DeviceOutOfMemory("full")

    with pytest.raises(ModelError, match=rf"leave too little memory \(1\.5 GB\) to embed {LARGE} tokens") as caught:
        token_budget(full, int(1.5 * GB), 512)
    assert not isinstance(caught.value, DeviceOutOfMemory), "halving would not help"
    assert isinstance(caught.value.__cause__, DeviceOutOfMemory)


def test_the_longest_text_would_not_fit() -> None:
    peak_bytes, _ = linear(GB, 1_000_000)
    with pytest.raises(ModelError, match=r"a text of 32768 tokens needs 32\.8 GB .* 20\.0 GB are free") as caught:
        token_budget(peak_bytes, 20 * GB, 32768)
    advised = int(re.search(r"lower max_tokens to (\d+) or less", str(caught.value))[1])
    assert token_budget(peak_bytes, 20 * GB, advised) >= advised
    with pytest.raises(ModelError, match="lower max_tokens"):
        token_budget(peak_bytes, 20 * GB, advised + STEP)


# What happens when a micro-batch does not fit.


class Device:
    """The fake model on a device of so many tokens: `encode` fills it, `to_host` empties it and gives the vectors."""

    normalised, dtype = True, "float32"

    def __init__(self, capacity: int, fails: tuple[int, ...] = ()) -> None:
        self._fake = FakeEmbedModel(fake.DIMENSIONS)
        self.dimensions = fake.DIMENSIONS
        self._capacity, self._fails = capacity, fails
        self._held = 0
        self.in_flight_most = 0
        self._in_flight = 0
        self.tried: list[int] = []
        self.refused = 0

    def encode(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.tried.append(len(ids_T))
        if self._held + len(ids_T) > self._capacity or len(self.tried) - 1 in self._fails:
            self.refused += 1
            raise DeviceOutOfMemory("full")
        self._held += len(ids_T)
        self._in_flight += 1
        self.in_flight_most = max(self.in_flight_most, self._in_flight)
        return ids_T, lengths_n

    def to_host(self, pending: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        self._held -= len(pending[0])
        self._in_flight -= 1
        return self._fake.encode(*pending)


def embedder_on(device: Device, budget: int) -> Embedder:
    embedder = Embedder(ModelSpec("fake", token_budget=budget))
    embedder._model = device
    return embedder


def texts_of(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, fake.WORDS, sum(lengths)).astype(np.int32)
    return ids, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


MANY = np.random.default_rng(1).integers(1, 60, 300).tolist()


def test_one_micro_batch_is_queued_ahead_and_no_more() -> None:
    device = Device(10**9)
    ids, offsets = texts_of(MANY)
    found = embedder_on(device, 500).embed(ids, offsets)
    np.testing.assert_array_equal(found, Embedder(ModelSpec("fake")).embed(ids, offsets))
    assert len(device.tried) > 10
    assert device.in_flight_most == 2


@pytest.mark.parametrize("fails", [(0,), (1,), (4,), (4, 5), (2, 3, 4, 9)], ids=str)
def test_no_vector_is_lost_or_misplaced_when_memory_ends_in_the_middle(fails: tuple[int, ...]) -> None:
    device = Device(10**9, fails)
    ids, offsets = texts_of(MANY)
    found = embedder_on(device, 500).embed(ids, offsets)
    np.testing.assert_array_equal(found, Embedder(ModelSpec("fake")).embed(ids, offsets))
    assert device.refused == len(fails)


def test_the_budget_is_halved_once_and_for_good() -> None:
    """Not once for every micro-batch that was planned before: 512 tokens fit, so 512 it is."""
    device = Device(1040)  # two micro-batches of 512 tokens
    embedder = embedder_on(device, 1024)
    ids, offsets = texts_of([16] * 400)
    wanted = Embedder(ModelSpec("fake")).embed(ids, offsets)
    np.testing.assert_array_equal(embedder.embed(ids, offsets), wanted)
    assert embedder.token_budget == 512
    refused = device.refused
    device.tried.clear()
    np.testing.assert_array_equal(embedder.embed(ids, offsets), wanted)
    assert device.refused == refused
    assert max(device.tried) == 512


def test_halved_as_often_as_it_takes() -> None:
    device = Device(40)
    embedder = embedder_on(device, 4096)
    ids, offsets = texts_of([1, 9, 1, 1, 20, 3] * 50)
    np.testing.assert_array_equal(embedder.embed(ids, offsets), Embedder(ModelSpec("fake")).embed(ids, offsets))
    assert 10 <= embedder.token_budget <= 40


def test_one_long_text_among_short_ones_is_no_event() -> None:
    """32k tokens go alone, first; the short ones lose nothing by it."""
    device = Device(32_768 + 4096)
    embedder = embedder_on(device, 4096)
    ids, offsets = texts_of([30] * 200 + [32_768] + [30] * 200)
    np.testing.assert_array_equal(embedder.embed(ids, offsets), Embedder(ModelSpec("fake")).embed(ids, offsets))
    assert device.refused == 0
    assert device.tried[0] == 32_768
    assert embedder.token_budget == 4096


def test_a_text_that_fits_only_alone() -> None:
    """It did not fit beside a micro-batch that was still on its way; the budget is not to blame."""
    device = Device(1000)
    embedder = embedder_on(device, 400)
    ids, offsets = texts_of([900, 800, 700, 5, 5])
    np.testing.assert_array_equal(embedder.embed(ids, offsets), Embedder(ModelSpec("fake")).embed(ids, offsets))
    assert embedder.token_budget == 400


@pytest.mark.parametrize("lengths", [[50], [200, 50, 3], [3, 3, 101]], ids=str)
def test_a_single_text_that_does_not_fit_ends_the_replica(lengths: list[int]) -> None:
    with pytest.raises(ReplicaBroken, match="not even a single text fits: full"):
        embedder_on(Device(40), 100).embed(*texts_of(lengths))


def test_nothing_is_made_up_for_a_device_that_failed() -> None:
    device = Device(10**9)
    calls = iter(range(100))

    def poisoned(pending: object) -> np.ndarray:
        if next(calls) == 3:
            raise ReplicaBroken("device lost")
        return Device.to_host(device, pending)

    device.to_host = poisoned
    with pytest.raises(ReplicaBroken, match="device lost"):
        embedder_on(device, 500).embed(*texts_of(MANY))


# The same from torch's errors on.


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


# The measurement.


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
    assert model.token_budget == int((memory.SHARE * 3 * GB - 10**8) / 100_000) // STEP * STEP
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
