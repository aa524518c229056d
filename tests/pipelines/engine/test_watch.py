"""For what is waited, and what is run again: rules that need no cluster."""

import pickle
from dataclasses import replace

import pytest

from pipelines.config import ReplicaRange
from pipelines.engine import ray as ray_executor
from pipelines.engine import watch
from pipelines.engine.in_hand import SUSPECTS_MOST, InHand
from pipelines.engine.stage import Receipt, Stage
from pipelines.engine.watch import NO_ROOM_SECONDS, PATIENCE_SECONDS, ReplicasGone, Watch
from pipelines.errors import EngineError, VectormillError
from pipelines.tasks.replica import Pool
from pipelines.units import Unit, left_of


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


class Execution:
    """Stands for Ray Data's, as far as it says how many calls were lost."""

    def __init__(self, lost):
        self._num_errored_blocks = lost


def test_it_is_time_to_look_for_those_to_blame_when_many_calls_were_lost(clock):
    found = Watch()
    found.on_execution_step(Execution(SUSPECTS_MOST - 1))
    assert not found.is_time_to_look(is_full=True)
    found.on_execution_step(Execution(SUSPECTS_MOST))
    assert found.is_time_to_look(is_full=False)


def test_a_few_lost_calls_may_be_all_that_is_in_hand(clock):
    """Then nothing more comes, and nothing more is handed out: waiting would be for ever."""
    found = Watch()
    found.on_execution_step(Execution(1))
    clock.pass_by(PATIENCE_SECONDS + 1)
    assert not found.is_time_to_look(is_full=False)
    assert found.is_time_to_look(is_full=True)
    found.came()
    assert not found.is_time_to_look(is_full=True)
    found.on_execution_step(Execution(0))
    clock.pass_by(10 * PATIENCE_SECONDS)
    assert not found.is_time_to_look(is_full=True), "a unit may take hours, and a model to load"


# ---------------------------------------------------------------------- what is run again after a node was lost


class Executions:
    """Stands for Ray Data: each execution gives the units that it is told to, and may lose a node."""

    def __init__(self, monkeypatch, *script):
        self.asked, self.jobs, self._script, self._dead = [], [], list(script), set()
        monkeypatch.setattr(ray_executor, "_dead_nodes", lambda: set(self._dead))
        monkeypatch.setattr(ray_executor, "_room", lambda stage: 2)
        self.executor = object.__new__(ray_executor.RayExecutor)
        self.executor._dead = None
        self.executor._stream = self._stream
        self.executor._as_a_new_job = lambda: self.jobs.append(len(self.asked))

    def _stream(self, read, stages, in_hand, watch):
        given, event, *drawn = self._script.pop(0)
        spans = in_hand.more(*drawn or [1000], 1000)
        self.asked.append(
            ([unit.start for span in spans for bundle in span for unit in bundle], stages[0].replicas.min)
        )
        for start in given:
            in_hand.answered(Receipt((row(start),), ()))
            yield Receipt((row(start),), ())
        if event in ("node lost", "gone"):
            self._dead.add(len(self.asked))
        if event == "gone":
            raise ReplicasGone
        return event != "feed lost"

    def run(self, *starts):
        stage = Stage("embed", lambda: None, num_gpus=1, replicas=ReplicaRange(min=4, max=8))
        spans = (((row(start),),) for start in starts)
        return [receipt.bundle[0].start for receipt in self.executor.run(None, [stage], spans)]


def row(start):
    return Unit(1, "a.parquet", start, start + 1, 10, "s")


def test_units_that_were_on_a_lost_node_are_run_again_at_once(monkeypatch):
    found = Executions(monkeypatch, ([1, 3], "node lost"), ([2, 4], None))
    assert found.run(1, 2, 3, 4) == [1, 3, 2, 4]
    assert found.asked == [([1, 2, 3, 4], 4), ([2, 4], 4)]
    assert found.jobs == [1], "what Ray keeps of the first execution goes with its job"


def test_units_that_the_feed_never_handed_out_are_no_row_s_fault(monkeypatch):
    found = Executions(monkeypatch, ([1], "feed lost", 3), ([2, 3, 4], None))
    assert found.run(1, 2, 3, 4) == [1, 2, 3, 4]
    assert found.asked == [([1, 2, 3], 4), ([2, 3, 4], 4)], "what was left first, then what was not drawn yet"


def test_units_lost_without_a_node_are_left_to_be_narrowed_down(monkeypatch):
    found = Executions(monkeypatch, ([1, 3], None))
    assert found.run(1, 2, 3) == [1, 3]
    assert found.jobs == []


def test_units_that_wait_for_replicas_that_are_gone_are_run_by_those_there_is_room_for(monkeypatch):
    found = Executions(monkeypatch, ([1], "gone"), ([2, 3], None))
    assert found.run(1, 2, 3) == [1, 2, 3]
    assert found.asked == [([1, 2, 3], 4), ([2, 3], 2)]
    assert found.jobs == [1]


def test_the_next_list_too_is_free_of_the_replicas_of_an_execution_that_lost_a_node(monkeypatch):
    """Ray may have run all of its units again by itself, and keep its replicas all the same."""
    found = Executions(monkeypatch, ([1, 2], "node lost"), ([3], None), ([4], None))
    assert [found.run(1, 2), found.run(3), found.run(4)] == [[1, 2], [3], [4]]
    assert found.jobs == [1]


class Abandoned:
    """Stands for a dataset whose execution is given up."""

    def map_batches(self, *_, **__):
        return self

    def iter_batches(self, **_):
        raise ReplicasGone
        yield


def test_an_execution_that_is_given_up_is_over(monkeypatch):
    """Else what is left would not be run as a new job."""
    executor = object.__new__(ray_executor.RayExecutor)
    executor._unfinished, executor._head = 0, "127.0.0.1:1"
    monkeypatch.setattr(ray_executor, "_set_context", lambda watch: None)
    monkeypatch.setattr(ray_executor.ray.data, "from_items", lambda *_, **__: Abandoned())
    with pytest.raises(ReplicasGone):
        list(executor._stream(None, [], InHand([((row(1),),)]), Watch()))
    assert executor._unfinished == 0


def test_a_head_that_is_lost_before_the_new_job_ends_the_run_with_one_message(monkeypatch):
    executor = object.__new__(ray_executor.RayExecutor)
    executor._own, executor._unfinished, executor._head = False, 0, "10.0.0.1:6379"
    monkeypatch.setattr(ray_executor.ray, "shutdown", lambda: None)

    def connect():
        raise EngineError("nobody there")

    executor._connect = connect
    with pytest.raises(VectormillError, match=r"head node at 10\.0\.0\.1:6379 does not answer any more.*committed"):
        executor._as_a_new_job()
    assert executor.describe() == {"engine": "ray", "ray": ray_executor.ray.__version__}


def test_running_again_is_bounded(monkeypatch):
    found = Executions(monkeypatch, *[([], "node lost")] * ray_executor.MOST_EXECUTIONS)
    assert found.run(1) == []


def test_running_again_is_not_bounded_while_something_comes(monkeypatch):
    """Months of a cluster whose nodes come and go."""
    count = 2 * ray_executor.MOST_EXECUTIONS
    found = Executions(monkeypatch, *[([start], "node lost") for start in range(count)])
    assert found.run(*range(count)) == list(range(count))


def test_what_is_left_of_a_span():
    span = ((row(1), row(2)), (row(3),), (row(4),))
    assert left_of(span, {row(2).id, row(4).id}) == ((row(2),), (row(4),))
    assert left_of(span, set()) == ()


def test_a_node_that_ray_takes_for_alive_although_it_is_dead_is_waited_for(monkeypatch):
    def nodes(alive):
        facts = {"NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1}
        return [{"NodeID": "a", "Alive": alive, **facts}, {"NodeID": "b", "Alive": True, **facts, "NodeManagerPort": 2}]

    answers = {"127.0.0.1:1": False, "127.0.0.1:2": True}
    seen = [nodes(True), nodes(True), nodes(False)]
    monkeypatch.setattr(ray_executor, "answers", answers.__getitem__)
    monkeypatch.setattr(ray_executor.ray, "nodes", lambda: seen.pop(0))
    monkeypatch.setattr(ray_executor.time, "sleep", lambda seconds: None)
    assert ray_executor._dead_nodes() == {"a"}


def test_room_is_where_all_that_a_replica_holds_is_free(monkeypatch):
    def up(**resources):
        return {"Alive": True, "Resources": resources}

    nodes = [up(CPU=8.0, GPU=4.0, memory=50.0), up(CPU=1.0, GPU=4.0), up(CPU=64.0, memory=20.0)]
    monkeypatch.setattr(ray_executor.ray, "nodes", lambda: nodes)
    pool = Pool(ReplicaRange(min=1, max=1), 1, 1, isolated=False, timeout_seconds=None)
    for holds, room in (({}, 5), ({"num_cpus": 0.25}, 8), ({"num_gpus": 0, "num_cpus": 1.5, "memory": 10}, 7)):
        assert ray_executor._room(replace(pool, **holds).stage("embed", lambda: None)) == room


def test_a_replica_holds_its_cores_and_its_memory():
    class Stream:
        def map_batches(self, replica, **how):
            return how

    pool = Pool(ReplicaRange(min=1, max=2), 1.5, 0, isolated=False, timeout_seconds=None, memory=7)
    how = ray_executor._apply(Stream(), pool.stage("embed", lambda: None))
    assert (how["num_cpus"], how["memory"], "num_gpus" in how) == (1.5, 7, False)
    how = ray_executor._apply(Stream(), replace(pool, num_gpus=1, memory=0).stage("embed", lambda: None))
    assert (how["num_cpus"], how["num_gpus"], "memory" in how) == (1.5, 1, False)
