"""Many calls of one model's thread at a time: each gets what it would have got alone, bit for bit, whatever happens to
another; and each knows how much of its time was its own."""

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from actors import fake
from actors.device.double_buffered import Request
from actors.embedder.embedder import Embedder
from actors.embedder.fake import FakeEmbedModel
from actors.replica.model_thread import ModelThread
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken

BUDGET = 200
BAD_ID = 17  # of a text whose computation fails
PATIENCE = 60  # seconds for a thread of this process


class Device(FakeEmbedModel):
    """The fake model, whose device may be full or fail, and that notes what it is asked."""

    def __init__(self) -> None:
        super().__init__(fake.DIMENSIONS)
        self.most_tokens = 10**9
        self.fails_to_send: dict[int, Exception] = {}  # by the first id
        self.fails_to_come: dict[int, Exception] = {}
        self.poisoned = False
        self.noted: list[tuple[str, int]] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def encode(self, ids_T, lengths_n):
        assert self.go_on.wait(PATIENCE)
        self.noted.append(("sent", int(ids_T[0])))
        if self.poisoned:
            raise ReplicaBroken("the device failed")
        if len(ids_T) > self.most_tokens:
            raise DeviceOutOfMemory("full")
        if error := next((error for bad, error in self.fails_to_send.items() if bad in ids_T), None):
            raise error
        return ids_T, super().encode(ids_T, lengths_n)

    def to_host(self, pending):
        ids_T, real = pending
        self.noted.append(("came", int(ids_T[0])))
        if error := next((error for bad, error in self.fails_to_come.items() if bad in ids_T), None):
            self.poisoned = isinstance(error, ReplicaBroken)
            raise error
        return super().to_host(real)


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def thread(device):
    def load():
        embedder = Embedder(ModelSpec("fake", token_budget=BUDGET))
        embedder._model = device
        return embedder

    return ModelThread(load)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as threads:
        yield threads


def texts_of(lengths, first=None):
    """Ids and offsets; all ids those of `first` if it is given."""
    total = int(np.sum(lengths))
    ids = np.random.default_rng(total).integers(100, fake.WORDS, total) if first is None else np.full(total, first)
    return ids.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def alone(texts):
    return Embedder(ModelSpec("fake", token_budget=BUDGET)).embed(*texts)


def until_in_hand(turns):
    deadline = time.monotonic() + PATIENCE
    while not turns and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)


def asked(pool, thread, device, *several):
    """Calls that are all in hand before the first is begun, in this order."""
    device.go_on.clear()
    calls = []
    for texts in several:
        turns = []
        calls.append(pool.submit(thread.call, thread.model.request(*texts), turns))
        until_in_hand(turns)
    device.go_on.set()
    return calls


def test_many_calls_of_random_sizes_are_as_each_alone(thread, pool):
    chance = np.random.default_rng(5)
    sizes = [0, 1, *chance.integers(0, 60, 118).tolist(), 0]
    several = [texts_of(chance.integers(1, 90, size)) for size in sizes]
    found = list(pool.map(lambda texts: thread.call(thread.model.request(*texts)), several))
    for texts, vectors in zip(several, found, strict=True):
        np.testing.assert_array_equal(vectors, alone(texts))


def test_the_first_of_the_next_is_queued_before_the_last_is_waited_for(thread, device, pool):
    calls = asked(pool, thread, device, texts_of([90] * 5, 1), texts_of([90] * 3, 2), texts_of([90], 3))
    assert all(call.result(PATIENCE) is not None for call in calls)
    assert device.noted == [
        *(("sent", 1), ("sent", 1), ("came", 1), ("sent", 1), ("came", 1)),
        *(("sent", 2), ("came", 1), ("sent", 2), ("came", 2)),
        *(("sent", 3), ("came", 2), ("came", 3)),
    ]


def test_what_does_not_fit_is_halved_and_the_neighbours_lose_nothing(thread, device, pool):
    device.most_tokens = 90
    several = [texts_of([40] * n) for n in (7, 1, 0, 9, 5)]
    calls = asked(pool, thread, device, *several)
    for texts, call in zip(several, calls, strict=True):
        np.testing.assert_array_equal(call.result(PATIENCE), alone(texts))
    assert thread.model.token_budget <= 90


@pytest.mark.parametrize("where", ["fails_to_send", "fails_to_come"])
@pytest.mark.parametrize("micro_batch", [0, 1, 3])
def test_an_error_reaches_its_own_call_and_no_other(thread, device, pool, where, micro_batch):
    getattr(device, where)[BAD_ID] = AssertionError("a fault of ours")
    ids, offsets = texts_of([100] * 8)
    ids[micro_batch * 200 + 50] = BAD_ID
    several = [texts_of([90] * 5), (ids, offsets), texts_of([80] * 5), texts_of([])]
    calls = asked(pool, thread, device, *several)
    with pytest.raises(AssertionError, match="a fault of ours"):
        calls.pop(1).result(PATIENCE)
    del several[1]
    for texts, call in zip(several, calls, strict=True):
        np.testing.assert_array_equal(call.result(PATIENCE), alone(texts))


def test_a_device_that_failed_ends_all_that_are_in_hand(thread, device, pool):
    device.fails_to_come[BAD_ID] = ReplicaBroken("the device failed")
    ids, offsets = texts_of([100] * 8)
    ids[-1] = BAD_ID  # its last micro-batch comes when the next call has one queued
    first, *rest = asked(pool, thread, device, texts_of([90] * 5), (ids, offsets), texts_of([80] * 5), texts_of([9]))
    np.testing.assert_array_equal(first.result(PATIENCE), alone(texts_of([90] * 5)))
    for call in rest:
        with pytest.raises(ReplicaBroken, match="the device failed"):
            call.result(PATIENCE)


def test_a_text_that_does_not_fit_alone_ends_the_replica(thread, device, pool):
    device.most_tokens = 90
    first, second = asked(pool, thread, device, texts_of([90] * 2), texts_of([91]))
    assert first.exception(PATIENCE) is None
    with pytest.raises(ReplicaBroken, match="not even a single text fits: full"):
        second.result(PATIENCE)


def test_what_the_model_refuses_is_raised_here():
    def load():
        raise ModelError("no such weights")

    with pytest.raises(ModelError, match="no such weights"):
        ModelThread(load)


def test_functions_have_their_turns_too(thread):
    assert thread.do(threading.get_ident) == thread.do(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        thread.do(lambda: 1 / 0)


def test_the_thread_ends_with_its_owner_and_takes_the_model_with_it():
    thread = ModelThread(lambda: Embedder(ModelSpec("fake")))
    thread.call(thread.model.request(*texts_of([3, 4])))
    before, model = threading.active_count(), weakref.ref(thread.model)
    del thread
    deadline = time.monotonic() + PATIENCE
    while (threading.active_count() >= before or model() is not None) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert threading.active_count() < before
    assert model() is None


# ---------------------------------------------------------------------- whose time it is


def slow(seconds):
    """A request whose only micro-batch takes so long to come."""
    return Request(
        plan=lambda: [np.arange(1)],
        send=lambda rows_n: None,
        receive=lambda rows_n, pending: time.sleep(seconds),
        too_large=lambda rows_n: None,
        result=lambda: seconds,
    )


def test_the_turns_of_calls_add_up_to_the_time_of_the_thread(thread, pool):
    turns = [[] for _ in range(6)]
    begun = time.perf_counter()
    list(pool.map(lambda mine: thread.call(slow(0.2), mine), turns))
    took = time.perf_counter() - begun
    worked = [mine[0].worked() for mine in turns]
    assert all(each >= 0.2 for each in worked)
    assert sum(worked) <= took
    waited = sorted(mine[0].waited() for mine in turns)
    assert waited[0] < 0.2
    assert waited[-1] >= 3 * 0.2
    assert all(worked_ + mine[0].waited() <= took for worked_, mine in zip(worked, turns, strict=True))
    time.sleep(0.05)
    assert [mine[0].worked() for mine in turns] == worked, "and stays so when it is over"


def test_only_who_waits_for_another_waits(thread, pool):
    """One hangs in the device, one behind it: their times while it lasts."""
    over = threading.Event()
    hangs, behind = [], []
    request = slow(0)
    request.receive = lambda rows_n, pending: over.wait(PATIENCE)
    pool.submit(thread.call, request, hangs)
    until_in_hand(hangs)
    second = pool.submit(thread.call, slow(0.01), behind)
    until_in_hand(behind)
    time.sleep(0.5)
    try:
        assert hangs[0].waited() == pytest.approx(0, abs=0.05)
        assert hangs[0].worked() >= 0.5
        assert behind[0].worked() == pytest.approx(0, abs=0.05)
        assert behind[0].waited() >= 0.4
    finally:
        over.set()
    assert second.result(PATIENCE) == 0.01
    after = hangs[0].waited(), behind[0].waited()
    thread.call(slow(0.1))
    assert (hangs[0].waited(), behind[0].waited()) == after, "what comes later is nothing to them"
