"""Faults of the model and of the processes around it: out of memory, vectors that are no numbers, hangs, kill -9.
The table is an undisturbed run's."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from actors.embedder.fake import FakeEmbedModel
from actors.spec import DeviceOutOfMemory
from pipelines.engine import feed
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import Incomplete, VectormillError
from pipelines.run import sizing, workload
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from tests.support.jobs import Said, ids, job, rows, run, write_parquet
from tests.system.chaos.faults import WORKERS
from tests.system.chaos.processes import descendants


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def faulty(monkeypatch, make, **how):
    monkeypatch.setattr(embed, "embedder", lambda spec: make(spec, **how))


def check(config, tmp_path, monkeypatch):
    """The table equals that of an undisturbed inline run."""
    monkeypatch.undo()
    plain = job(tmp_path, table={"name": "undisturbed"})
    run(plain)
    assert rows(config) == rows(plain)


# ---------------------------------------------------------------------- out of memory, no numbers


def short_of_memory(spec, refused):
    """A replica on a device that holds 40 tokens, once it has started."""
    work, honest = embedder(spec), FakeEmbedModel.encode

    def encode(self, ids_T, lengths_N):
        if len(ids_T) > 40:
            refused.append(len(ids_T))
            raise DeviceOutOfMemory("CUDA out of memory (simulated)")
        return honest(self, ids_T, lengths_N)

    FakeEmbedModel.encode = encode
    return work


def test_a_device_that_holds_little_gives_the_same_table(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    monkeypatch.setattr(FakeEmbedModel, "encode", FakeEmbedModel.encode)  # to be put back
    refused = []
    faulty(monkeypatch, short_of_memory, refused=refused)
    config = job(tmp_path)
    assert run(config).adds_up
    assert refused
    check(config, tmp_path, monkeypatch)


def without_numbers(spec, marker=None):
    """A replica all of whose vectors are NaN once it has started; with a marker only the first such replica."""
    work = embedder(spec)
    if marker is None or not marker.exists():
        FakeEmbedModel.to_host = lambda self, pending: np.full_like(pending.values, np.nan)
        if marker is not None:
            marker.touch()
    return work


def test_a_replica_whose_every_vector_is_nan_is_replaced(tmp_path, executor, monkeypatch):
    """It gives no finite vector for a known text either, so it may not blame the rows."""
    write_parquet(tmp_path / "corpus")
    faulty(monkeypatch, without_numbers, marker=tmp_path / "broke")
    config = job(tmp_path, run={"engine": "ray"})
    certificate = run(config, executor)
    assert certificate.adds_up
    assert (tmp_path / "broke").exists()
    assert certificate.reasons == {}
    check(config, tmp_path, monkeypatch)


def test_inline_a_replica_whose_every_vector_is_nan_ends_the_run(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    monkeypatch.setattr(FakeEmbedModel, "to_host", FakeEmbedModel.to_host)
    faulty(monkeypatch, without_numbers)
    with pytest.raises(VectormillError, match=r"16 of 16 vectors are not finite.*is broken.*same command goes on"):
        run(job(tmp_path))


def nan_for(spec, share):
    """A model that gives NaN for texts it does not like, and is right about a known text."""
    work, honest = embedder(spec), FakeEmbedModel.vectors

    def vectors(self, ids_T, lengths_N):
        vectors_ND = honest(self, ids_T, lengths_N)
        if len(lengths_N) > 1:
            vectors_ND[: int(share * len(lengths_N))] = np.nan
        return vectors_ND

    FakeEmbedModel.vectors = vectors
    return work


def test_rows_that_give_nan_are_recorded_and_too_many_stop_the_run(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    monkeypatch.setattr(FakeEmbedModel, "vectors", FakeEmbedModel.vectors)
    faulty(monkeypatch, nan_for, share=1)
    config = job(tmp_path, run={"max_bad_rows": 20})
    with pytest.raises(Incomplete, match=r"rows have no vector, more than run.max_bad_rows.*non_finite"):
        run(config)
    assert 20 < len(ids(config)) < 120


# ---------------------------------------------------------------------- hangs


def hanging(spec, poison, marker):
    """A replica that hangs at each table with the id `poison`, and once more wherever it is first asked."""
    work = embedder(spec)

    def embed(parcels):
        if not marker.exists():
            marker.touch()
            threading.Event().wait()
        if any(poison in parcel.rows["id"].to_pylist() for parcel in parcels):
            threading.Event().wait()
        return work(parcels)

    return embed


def test_a_row_that_hangs_its_replica_is_found_and_the_others_are_embedded(tmp_path, executor, monkeypatch):
    write_parquet(tmp_path / "corpus", shards=2, rows=4)
    faulty(monkeypatch, hanging, poison="d6", marker=tmp_path / "hung")
    settings = {"engine": "ray", "rows_per_unit": 2, "stage_timeout_seconds": 5}
    config, said = job(tmp_path, run=settings), Said()
    certificate = run(config, executor, said)
    assert certificate.adds_up
    assert (certificate.embedded_rows, certificate.reasons) == (7, {"hangs_worker": 1})
    assert "part-1.parquet rows 2 to 4, 2 row(s) in hand: embed: not done after 5 seconds" in said.text
    (bad,) = [row for row in rows(config) if row["_reason"]]
    assert bad["_detail"].startswith("part-1.parquet row 2: the process that worked on it hung")


# ---------------------------------------------------------------------- kill -9


def titles():
    """What each of this process's descendants calls itself."""
    found = {}
    for pid, _ in descendants(os.getpid()):
        try:
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
    return found


def kill_one_of_each(kinds, killed, over):
    """kill -9 of one process of each kind, as soon as it is seen at work."""
    left = set(kinds)
    while left and not over.is_set():
        for pid, title in titles().items():
            for kind in [kind for kind in left if title.startswith(kind)]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                left.discard(kind)
                killed.append(kind)
        time.sleep(0.01)


def slow(function):
    """So that a process can be seen at work."""

    def call(*arguments):
        time.sleep(0.3)
        return function(*arguments)

    return call


def test_killed_readers_tokenisers_replicas_and_writers_lose_nothing(tmp_path, executor, monkeypatch):
    monkeypatch.setattr(feed, "SPANS", 1)
    monkeypatch.setattr(sizing, "SPAN_BYTES", 1)
    write_parquet(tmp_path / "corpus", shards=6)
    real_reader, real_tokenise, real_write = workload.reader, embed.tokenise_stage, workload.Write
    monkeypatch.setattr(workload, "reader", lambda *how: slow(real_reader(*how)))
    monkeypatch.setattr(embed, "tokenise_stage", lambda work, *how: real_tokenise(slow(work), *how))
    monkeypatch.setattr(workload, "Write", lambda *how: slow(real_write(*how)))
    monkeypatch.setattr(embed, "embedder", lambda spec: slow(embedder(spec)))
    kinds = list(WORKERS.values())
    killed, over = [], threading.Event()
    killer = threading.Thread(target=kill_one_of_each, args=(kinds, killed, over))
    killer.start()
    config = job(tmp_path, run={"engine": "ray", "rows_per_unit": 8})
    try:
        assert run(config, executor).adds_up
    finally:
        over.set()
        killer.join()
    assert sorted(killed) == sorted(kinds)
    monkeypatch.undo()
    plain = job(tmp_path, table={"name": "undisturbed"}, run={"rows_per_unit": 8})
    assert run(plain, InlineExecutor()).adds_up
    assert rows(config) == rows(plain)
