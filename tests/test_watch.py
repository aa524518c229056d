"""How many replicas there are and for what is waited: rules that need no cluster."""

import pickle

import pytest
from jobs import job

from pipelines import prepare as prepare_module
from pipelines import watch
from pipelines.config import ReplicaRange
from pipelines.errors import ConfigError, VectormillError
from pipelines.watch import NO_ROOM_SECONDS, PATIENCE_SECONDS, ReplicasGone, Watch


class Clock:
    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(watch.time, "monotonic", lambda: self.now)

    def pass_by(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def watched(room, replicas=4):
    """A watch over a cluster whose room is the first of the list."""
    return Watch(replicas, lambda: room[0], look_seconds=1)


def step(found, clock, seconds):
    clock.pass_by(seconds)
    found.on_execution_step(None)


def test_an_execution_is_given_up_when_nothing_comes_and_there_is_less_room(clock):
    room = [4]
    found = watched(room)
    step(found, clock, 2)
    room[0] = 3
    step(found, clock, PATIENCE_SECONDS - 3)
    with pytest.raises(ReplicasGone):
        step(found, clock, 2)


def test_it_goes_on_as_long_as_something_comes(clock):
    room = [4]
    found = watched(room)
    step(found, clock, 2)
    room[0] = 3
    for _ in range(10):
        found.came()
        step(found, clock, PATIENCE_SECONDS - 1)


def test_slow_units_are_waited_for_longer(clock):
    """Three times the longest silence before; the first unit also waits for the model, and does not count."""
    room = [4]
    found = watched(room)
    step(found, clock, 500)
    found.came()
    step(found, clock, 100)
    found.came()
    room[0] = 3
    step(found, clock, 299)
    with pytest.raises(ReplicasGone):
        step(found, clock, 2)


@pytest.mark.parametrize("room", [[4], [8], [2]])
def test_silence_alone_means_nothing(clock, room):
    """A unit may take hours; and a pool that never found more room has lost nothing."""
    found = watched(room)
    for _ in range(3):
        step(found, clock, 10 * NO_ROOM_SECONDS)


def test_more_room_than_replicas_may_go(clock):
    room = [8]
    found = watched(room)
    step(found, clock, 2)
    room[0] = 4
    step(found, clock, 10 * PATIENCE_SECONDS)


def test_no_room_at_all_is_waited_for_but_not_for_ever(clock):
    room = [2]
    found = watched(room)
    step(found, clock, 2)
    room[0] = 0
    step(found, clock, NO_ROOM_SECONDS - 10)
    with pytest.raises(VectormillError, match="no node of the cluster could hold a replica"):
        step(found, clock, 20)


def test_it_does_nothing_in_a_worker():
    found = pickle.loads(pickle.dumps(watched([0])))
    found.on_execution_step(None)
    assert found() is found


# ---------------------------------------------------------------------- how many replicas


class Fixed:
    """An executor with so many GPUs; it has room for `most` replicas."""

    def __init__(self, gpus, most):
        self.gpus = gpus
        self._most = most

    def require(self, replicas):
        if replicas > self._most:
            raise ConfigError(f"{replicas} are too many")


def replicas(tmp_path, executor, **settings):
    found = prepare_module.replicas(job(tmp_path, run=settings), executor)
    return found.min, found.max


def test_replicas_as_asked(tmp_path):
    assert replicas(tmp_path, Fixed(4, 4)) == (4, 4)
    assert replicas(tmp_path, Fixed(0, 4)) == (1, 1)
    assert replicas(tmp_path, Fixed(4, 4), replicas=2) == (2, 2)
    assert replicas(tmp_path, Fixed(4, 4), replicas={"min": 2, "max": 9}) == (2, 9), "room for the least is enough"
    with pytest.raises(ConfigError, match="5 are too many"):
        replicas(tmp_path, Fixed(4, 4), replicas={"min": 5, "max": 9})
    asked = {"device": "cuda", "replicas": {"min": 5, "max": 9}}
    assert replicas(tmp_path, Fixed(0, 0), **asked) == (5, 9), "GPU nodes that come up on demand"
    with pytest.raises(ConfigError, match=r"set run\.replicas"):
        replicas(tmp_path, Fixed(0, 0), device="cuda")


def test_a_range_in_order():
    with pytest.raises(ValueError, match="less than min"):
        ReplicaRange(min=3, max=2)
