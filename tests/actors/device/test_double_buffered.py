"""One micro-batch is always queued; one that does not fit is halved, and no vector is lost or misplaced by it."""

import numpy as np
import pytest

from actors import fake
from actors.embedder.embedder import Embedder
from actors.embedder.fake import FakeEmbedModel
from actors.spec import DeviceOutOfMemory, ModelSpec, ReplicaBroken


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
        return self._fake.vectors(*pending)


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
