"""Ray gets spans as it gets on with them: how far ahead they are drawn, and what happens when the feed dies."""

import os
import signal
import sys
import threading
import time

import pytest
import ray

from pipelines.config import ReplicaRange
from pipelines.engine import feed
from pipelines.engine import ray as ray_executor
from pipelines.engine.feed import Feed
from pipelines.engine.in_hand import InHand
from pipelines.engine.stage import Receipt, Stage
from pipelines.engine.watch import Watch
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.units import Unit
from tests.support.jobs import Said, ids, job, write_parquet
from tests.system.chaos.processes import titled


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class List:
    """Stands for Ray's queue."""

    def __init__(self):
        self.batches = []

    def put_nowait_batch(self, items):
        self.batches.append(items)


def one_row(number):
    return ((Unit(1, "a.parquet", number, number + 1, 10, "s"),),)


def lazily(count, drawn):
    for number in range(count):
        drawn.append(number)
        yield one_row(number)


def test_what_fits_at_once_needs_no_queue():
    in_hand = InHand(map(one_row, range(5)))
    found = Feed(in_hand, [], List)
    assert (len(found.heads), found.queue, found.is_over) == (5, None, True)
    found.fill()


def test_a_hundred_thousand_units_are_drawn_as_they_are_answered():
    drawn, most = [], 0
    in_hand = InHand(lazily(100_000, drawn))
    found = Feed(in_hand, [], List)
    answered = 0
    while in_hand.units:
        in_hand.answered(Receipt(one_row(answered)[0], ()))
        answered += 1
        found.fill()
        most = max(most, len(drawn) - answered)
    assert answered == len(drawn) == 100_000
    assert most <= feed.SPANS + 2
    fed = len(found.heads) + sum(map(len, found.queue.batches))
    assert (fed, found.queue.batches[-1][-1]) == (100_001, None)
    assert len(found.queue.batches) < 1_000, "not a call for each"
    found.fill()
    assert fed == len(found.heads) + sum(map(len, found.queue.batches)), "nothing after the end"


def test_tiny_files_are_bounded_by_their_units(monkeypatch):
    monkeypatch.setattr(feed, "UNITS", 64)
    monkeypatch.setattr(feed, "UNITS_PER_REPLICA", 1)
    spans = ((tuple(unit for n in range(16) for unit in one_row(16 * span + n)[0]),) for span in range(1_000))
    in_hand = InHand(spans)
    Feed(in_hand, [], List)
    assert in_hand.units == 64


def test_many_replicas_and_large_fragments_have_more_in_hand():
    stages = [
        Stage("embed", lambda: None, replicas=ReplicaRange(min=1, max=512)),
        Stage("write", lambda: None, parcels_per_call=100),
    ]
    in_hand = InHand(map(one_row, range(100_000)))
    Feed(in_hand, stages, List)
    assert in_hand.units == 512 * feed.SPANS_PER_REPLICA + 200


def test_the_feed_can_be_ended():
    in_hand = InHand(map(one_row, range(100_000)))
    found = Feed(in_hand, [], List)
    found.fill(is_last=True)
    found.fill()
    assert found.queue.batches == [[None]]
    assert found.is_over


# ---------------------------------------------------------------------- in a run on Ray


@pytest.fixture
def small(monkeypatch):
    """So little in hand that a small corpus does not fit at once."""
    monkeypatch.setattr(feed, "SPANS", 6)


def a_run(tmp_path, executor, rows=96, shards=6):
    write_parquet(tmp_path / "corpus", shards=shards, rows=rows)
    config = job(tmp_path, run={"engine": "ray", "rows_per_unit": 8, "commit_every_seconds": 0.5})
    said = Said()
    return config, Run.open(prepare(config, executor), executor, said), said


def test_replicas_outlive_what_is_in_hand(tmp_path, executor, small, monkeypatch):
    """72 units, eight at a time: one execution, and every unit by the same process. What is not public of Ray Data is
    there, too: how many calls it lost, and the statistics that it would keep of every block."""
    kept, lost, real_step = [], [], Watch.on_execution_step

    def step(self, execution):
        real_step(self, execution)
        kept.append(sum(len(operator._output_blocks_stats) for operator in list(execution._topology)[1:]))
        lost.append(execution._num_errored_blocks)

    monkeypatch.setattr(Watch, "on_execution_step", step)
    executions, real = [], ray_executor.RayExecutor._stream
    monkeypatch.setattr(
        ray_executor.RayExecutor, "_stream", lambda *arguments: executions.append(1) or real(*arguments)
    )
    monkeypatch.setattr("pipelines.run.sizing.SPAN_BYTES", 1)
    config, run, _ = a_run(tmp_path, executor)
    assert run.work().adds_up
    assert (len(executions), sum(run.metrics.replicas_seen.values())) == (1, 1)
    assert len(set(ids(config))) == len(ids(config)) == 576
    assert (max(kept), max(lost)) == (0, 0)


def killed(title, when):
    """A thread that kills a process of this name once `when` is true, and the list of those killed."""
    found = []

    def kill():
        until = time.monotonic() + 60
        while not found and time.monotonic() < until:
            for pid, _ in titled(os.getpid(), title) if when() else ():
                os.kill(pid, signal.SIGKILL)
                found.append(pid)
                break
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    return thread, found


@pytest.mark.parametrize("title", ["ray::MapBatches(feed)", "ray::_QueueActor"])
def test_a_feed_that_dies_loses_nothing_and_blames_nobody(tmp_path, executor, small, monkeypatch, title):
    monkeypatch.setattr("pipelines.run.sizing.SPAN_BYTES", 1)
    config, run, said = a_run(tmp_path, executor)
    thread, victims = killed(title, lambda: run.metrics.rows_written)
    try:
        assert run.work().adds_up
    finally:
        thread.join()
    assert victims
    assert "narrowing down" not in said.text
    assert len(set(ids(config))) == len(ids(config)) == 576
