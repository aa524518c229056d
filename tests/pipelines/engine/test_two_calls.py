"""Two calls of one replica at a time: what one waited for the other is not its own time, the guilty one is found, and
a process that ends with two calls in hand loses none."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from actors.embedder.fake import FakeEmbedModel
from actors.spec import ModelSpec
from pipelines.config import ReplicaRange
from pipelines.engine import deadline
from pipelines.engine.stage import Failed, Parcel, call
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from pipelines.tasks.replica import CALLS_AT_ONCE, Pool
from tests.support.jobs import Said, job, rows, run, write_parquet

BAD_ID = 4_711
PATIENCE = 60
ONE = ReplicaRange(min=1, max=1)


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def parcel(first_id, tokens=10):
    columns = {
        "_ids": pa.array([[first_id] * tokens], pa.list_(pa.int32())),
        "_reason": pa.nulls(1, pa.string()),
        "_detail": pa.nulls(1, pa.string()),
    }
    return Parcel((), pa.table(columns))


def stage_of(work, seconds):
    return Pool(ONE, 1, 0, isolated=False, timeout_seconds=seconds).stage("embed", lambda: work, CALLS_AT_ONCE)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


# ---------------------------------------------------------------------- time


def test_time_that_is_not_its_own_does_not_count():
    def waits_and_works(waited, works):
        deadline.not_counting(lambda: waited)
        time.sleep(works)
        return "done"

    assert deadline.call(0.5, lambda: waits_and_works(PATIENCE, 1.0)) == "done"
    with pytest.raises(deadline.Hung, match=r"not done after 0.2 seconds"):
        deadline.call(0.2, lambda: waits_and_works(0.1, 2.0))
    assert deadline.call(None, lambda: waits_and_works(0, 0)) == "done"


def test_a_call_that_waits_for_the_one_before_it_is_not_taken_for_hung(threads):
    """Each takes 2.5 of its 4 seconds; the second is done after 5. And their seconds are not counted twice."""
    work = embedder(ModelSpec("fake:400"))
    stage = stage_of(work, 4.0)
    begun = time.monotonic()
    done = list(threads.map(lambda first_id: call(stage, work, [parcel(first_id, 1000)]), (1, 2)))
    took = time.monotonic() - begun
    assert took > stage.timeout_seconds
    assert [type(item) for (item,) in done] == [Parcel, Parcel], done
    seconds = [item.tally.seconds["embed"] for (item,) in done]
    assert 5 - 0.1 <= sum(seconds) <= took


@pytest.mark.parametrize("hangs_first", [True, False])
def test_the_one_that_hangs_in_the_model_is_found_and_not_the_one_beside_it(threads, monkeypatch, hangs_first):
    over, honest = threading.Event(), FakeEmbedModel.to_host

    def to_host(self, pending):
        if np.array_equal(pending.values[0], bad):
            over.wait(PATIENCE)
        return honest(self, pending)

    bad = FakeEmbedModel(64).vectors(np.full(10, BAD_ID), np.array([10]))[0]
    work = embedder(ModelSpec("fake"))
    monkeypatch.setattr(FakeEmbedModel, "to_host", to_host)
    stage = stage_of(work, 2.0)
    order = [BAD_ID, 1] if hangs_first else [1, BAD_ID]
    calls = {}
    for first_id in order:
        calls[first_id] = threads.submit(call, stage, work, [parcel(first_id)])
        time.sleep(0.8)
    (guilty,) = calls[BAD_ID].result(PATIENCE)
    assert isinstance(guilty, Failed)
    assert guilty.hung
    assert calls[1].done() != hangs_first
    if hangs_first:
        time.sleep(1.0)
        assert not calls[1].done(), "in a worker it ends with the process, and is made again elsewhere"
    over.set()
    (innocent,) = calls[1].result(PATIENCE)
    assert isinstance(innocent, Parcel)


def test_the_watchdog_watches_two_blocks():
    """One that ends neither ends the watch over the other nor starts it anew for ever."""
    script = """
        import re, threading, time
        from pipelines.engine import deadline
        deadline.GRACE_SECONDS = 0.5
        with deadline.watchdog(0.5), deadline.watchdog(0.5):
            time.sleep(1.2)  # two may take turns
        time.sleep(1.2)
        print("lives", flush=True)
        with deadline.watchdog(0.5):
            with deadline.watchdog(0.5):
                pass
            re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter's lock
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "lives\n"), done.stderr
    assert "Timeout" in done.stderr


# ---------------------------------------------------------------------- narrowing down


def test_while_narrowing_down_there_is_one_call_at_a_time():
    for at_once in (1, CALLS_AT_ONCE):
        stage = Pool(ONE, 1, 0, isolated=True, timeout_seconds=None).stage("embed", list, at_once)
        assert (stage.in_flight, stage.at_once) == (1, 1)


# ---------------------------------------------------------------------- on Ray


def dying_with_company(spec, marker):
    """A replica that dies once, when it has two calls in hand; what they were is noted."""
    work, inside, lock = embedder(spec), [], threading.Lock()

    def embed_(parcels):
        if marker.exists():
            return work(parcels)
        with lock:
            inside.append(str(parcels[0].bundle[0]))
            if len(inside) == 2:
                marker.write_text("\n".join(inside))
                os.kill(os.getpid(), signal.SIGKILL)
        threading.Event().wait(PATIENCE)  # for the second
        return work(parcels)

    return embed_


def test_a_replica_killed_with_two_calls_in_hand_loses_neither(tmp_path, executor, monkeypatch):
    write_parquet(tmp_path / "corpus")
    marker = tmp_path / "died"
    monkeypatch.setattr(embed, "embedder", lambda spec: dying_with_company(spec, marker))
    config, said = job(tmp_path, run={"engine": "ray"}), Said()
    assert run(config, executor, said).adds_up
    assert len(set(marker.read_text().splitlines())) == 2
    assert "lost" not in said.text, "one more try was enough"
    monkeypatch.undo()
    plain = job(tmp_path, table={"name": "undisturbed"})
    run(plain)
    assert rows(config) == rows(plain)


def hanging_in_the_model(spec, text):
    """A replica whose device hangs at a micro-batch with this text."""
    from actors.tokenizer.text import TextTokenizer

    work, honest = embedder(spec), FakeEmbedModel.encode
    bad_ids = TextTokenizer(spec).encode([text]).ids.tolist()

    def encode(self, ids_T, lengths_n):
        texts = np.split(ids_T, np.cumsum(lengths_n)[:-1])
        if bad_ids in [ids.tolist() for ids in texts]:
            threading.Event().wait()
        return honest(self, ids_T, lengths_n)

    FakeEmbedModel.encode = encode
    return work


def test_a_row_that_hangs_the_model_is_found_and_no_neighbour_is_suspected(tmp_path, executor, monkeypatch):
    write_parquet(tmp_path / "corpus", shards=2, rows=8)
    text = pq.read_table(tmp_path / "corpus" / "part-1.parquet")["text"][5].as_py()
    monkeypatch.setattr(embed, "embedder", lambda spec: hanging_in_the_model(spec, text))
    settings = {"engine": "ray", "rows_per_unit": 2, "stage_timeout_seconds": 4}
    config, said = job(tmp_path, run=settings), Said()
    certificate = run(config, executor, said)
    assert certificate.adds_up
    assert (certificate.embedded_rows, certificate.reasons) == (15, {"hangs_worker": 1})
    hung = {line.split(",")[0] for line in said.lines if "embed: not done after" in line}
    assert hung == {"part-1.parquet rows 4 to 6", "part-1.parquet rows 5 to 6"}
