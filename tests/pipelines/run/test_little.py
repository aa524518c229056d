"""A night with little to do needs no cluster, and a row that kills its process does not end every such night."""

import json
import os
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

from pipelines.engine import open as engines
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, EngineError
from pipelines.maintenance.verify import verify
from pipelines.run import job as jobs
from pipelines.run import little
from pipelines.run.forecast import forecast
from pipelines.run.job import embed as embed_job
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from tests.support.buckets import Bucket
from tests.support.devices import plug_in, plug_in_unusable
from tests.support.jobs import Said, ids, job, rows, run, write_parquet


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def no_ray(monkeypatch):
    def start(job):
        raise AssertionError("an engine was asked for")

    monkeypatch.setattr(engines, "_ray", start)


class Elsewhere(InlineExecutor):
    """Stands for Ray."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    in_process = False

    def run(self, *work):
        self.runs += 1
        return super().run(*work)

    def describe(self):
        return {"engine": "ray"}


@pytest.fixture
def elsewhere(monkeypatch):
    engine = Elsewhere()
    monkeypatch.setattr(engines, "_ray", lambda job: engine)
    return engine


def night(tmp_path, **sections):
    """A job of the default engine whose table has the rows of three files, and a fourth file of 30 rows."""
    write_parquet(tmp_path / "corpus")
    run(job(tmp_path))
    write_parquet(tmp_path / "corpus", shards=1, rows=30, first=1_000)
    return job(tmp_path, **{**sections, "run": {"engine": "auto", **sections.get("run", {})}})


def records(config):
    """The run records, newest last."""
    found = [json.loads(file.read_text()) for file in Path(config.table.side_folder, "runs").iterdir()]
    return sorted(found, key=lambda record: record["finished"])


def marker(config):
    return Path(config.table.side_folder, little.MARKER)


def test_little_is_done_here_and_said(tmp_path, no_ray, monkeypatch):
    config, said = night(tmp_path, run={"address": "nowhere:6379", "replicas": 64}), Said()
    real, there = embed.embedder, []
    monkeypatch.setattr(embed, "embedder", lambda spec: there.append(marker(config).exists()) or real(spec))
    certificate = embed_job(config, said)
    assert certificate.adds_up
    assert certificate.embedded_rows == 150
    assert "30 rows to do: in this process, without Ray (run.engine: ray)" in said.lines
    assert there == [True]
    assert not marker(config).exists()
    (record,) = records(config)
    assert record["engine"] == {"engine": "inline", "why": "30 rows to do"}
    assert record["metrics"]["replicas"] == 1


@pytest.mark.parametrize("engine", ["auto", "ray"])
def test_nothing_to_do_plan_and_verify_need_no_engine(tmp_path, no_ray, engine):
    config = night(tmp_path, run={"engine": engine, "address": "nowhere:6379"})
    assert forecast(config, Said()).rows_to_do == 30
    run(job(tmp_path))
    assert embed_job(config, Said()).adds_up
    assert records(config)[-1]["engine"] == {"engine": "inline", "why": "nothing to do"}
    assert verify(config, Said()).ok
    assert not marker(config).exists()


def test_a_new_table_and_run_engine_ray_go_through_ray(tmp_path, elsewhere):
    write_parquet(tmp_path / "corpus")
    for number, engine in enumerate(("auto", "ray"), 1):
        config = job(tmp_path, run={"engine": engine}, table={"name": engine})
        assert embed_job(config, Said()).adds_up
        assert elsewhere.runs == number
    write_parquet(tmp_path / "corpus", shards=1, rows=30, first=1_000)
    assert embed_job(config, Said()).adds_up
    assert elsewhere.runs == 3
    assert records(config)[-1]["engine"] == {"engine": "ray"}


@pytest.mark.parametrize("bound", ["ROW_SECONDS", "BYTES_MOST", "LITTLE_SECONDS", "speed"])
def test_much_goes_through_ray(tmp_path, elsewhere, monkeypatch, bound):
    weights = "fake:200" if bound == "speed" else "fake"  # 30 rows of 7 tokens take it a second
    config = night(tmp_path, model={"weights": weights})
    values = {"ROW_SECONDS": 1.0, "BYTES_MOST": 100, "LITTLE_SECONDS": 0.001, "speed": 0.5}
    monkeypatch.setattr(little, "LITTLE_SECONDS" if bound == "speed" else bound, values[bound])
    assert embed_job(config, Said()).adds_up
    assert elsewhere.runs == 1


@pytest.mark.parametrize(
    ("device", "here", "address", "dtype", "fits"),
    [
        ("auto", "cpu", None, "float32", "cpu"),
        ("auto", "cpu", None, "bfloat16", "cpu"),  # as Ray, started here, would do it
        ("cpu", "cuda", None, "float32", "cpu"),
        ("auto", "cuda", None, "bfloat16", "cuda"),
        ("cuda", "cpu", None, "float32", None),
        ("auto", "cpu", "head:6379", "float32", "cpu"),
        ("auto", "cuda", "head:6379", "float32", "cuda"),
        ("cuda", "cpu", "head:6379", "float32", None),
        ("auto", "cpu", "head:6379", "bfloat16", None),
        ("auto", "cpu", "head:6379", "float16", None),
        ("cpu", "cuda", "head:6379", "bfloat16", None),
        ("auto", "cuda", "head:6379", "bfloat16", "cuda"),
        ("auto", "cuda", "head:6379", "float8", None),  # of an A100
    ],
)
def test_only_where_this_process_has_device_and_dtype(tmp_path, monkeypatch, device, here, address, dtype, fits):
    if here == "cuda":
        plug_in(monkeypatch, tmp_path, "NVIDIA A100", (8, 0))
    where = {"engine": "auto", "device": device, "address": address}
    assert little.device_here(job(tmp_path, run=where, model={"weights": "some/model"}), dtype) == fits


def test_a_gpu_that_torch_cannot_use_stops_it(tmp_path, monkeypatch):
    plug_in_unusable(monkeypatch, tmp_path)
    with pytest.raises(ConfigError, match="too old"):
        little.device_here(job(tmp_path, run={"engine": "auto"}, model={"weights": "some/model"}), "bfloat16")


# ---------------------------------------------------------------------- a row that kills or hangs its process


def deadly(how, poison="d1003"):
    """An embedder that a row kills, or hangs, in whatever process."""
    real = embedder

    def make(spec):
        work = real(spec)

        def embed(parcels):
            if any(poison in parcel.rows["id"].to_pylist() for parcel in parcels):
                how()
            return work(parcels)

        return embed

    return make


def die():
    os._exit(9)


def hang():
    threading.Event().wait()


@contextmanager
def kept_open(executor):
    """The session's Ray, as the engine of one job."""
    close, executor.close = executor.close, lambda: None
    try:
        yield executor
    finally:
        executor.close = close


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("how", "reason"), [(die, "crashes_worker"), (hang, "hangs_worker")])
def test_the_night_after_goes_through_ray_and_the_row_is_found(tmp_path, executor, monkeypatch, how, reason):
    config, said = night(tmp_path, run={"rows_per_unit": 4, "stage_timeout_seconds": 5}), Said()
    monkeypatch.setattr(embed, "embedder", deadly(how))
    if how is die:
        command = f"from tests.pipelines.run.test_little import *; die_in({str(tmp_path)!r})"
        assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", command) == 9
    else:
        with pytest.raises(EngineError, match="not done after 5 seconds"):
            embed_job(config, said)
    assert marker(config).exists()
    with kept_open(executor):
        monkeypatch.setattr(engines, "_ray", lambda job: executor)
        certificate = embed_job(config, said)
    assert f"did not come to its end ({marker(config)})" in said.text
    assert (certificate.embedded_rows, certificate.reasons) == (149, {reason: 1})
    assert not marker(config).exists()
    (bad,) = [row for row in rows(config) if row["_reason"]]
    assert bad["_detail"].startswith("part-1000.parquet row 3:")
    assert len(ids(config)) == 150


def die_in(folder):
    """The first night, in a process of its own."""
    config = job(Path(folder), run={"engine": "auto", "rows_per_unit": 4, "stage_timeout_seconds": 5})
    embed.embedder = deadly(die)
    embed_job(config, Said())


def stopped():
    raise KeyboardInterrupt


def spoilt():
    raise OSError("no room")


@pytest.mark.parametrize(("happens", "stays"), [(stopped, True), (spoilt, False)])
def test_the_marker_stays_where_the_run_may_have_hung(tmp_path, no_ray, monkeypatch, happens, stays):
    config = night(tmp_path)
    monkeypatch.setattr(jobs.Run, "work", lambda self: happens())
    with pytest.raises((KeyboardInterrupt, OSError)):
        embed_job(config, Said())
    assert marker(config).exists() == stays


def test_the_marker_in_a_bucket(tmp_path, s3_endpoint):
    bucket = Bucket(s3_endpoint)
    storage = bucket.storage.model_dump()
    config = job(tmp_path, table={"uri": f"{bucket.uri}/db"}, storage=storage, run={"engine": "auto"})
    assert little._marker_if_there(config) is None
    with pytest.raises(KeyboardInterrupt), little.marked(config, InlineExecutor(), 1, "run"):
        stopped()
    assert little._marker_if_there(config) == f"{config.table.side_folder}/inline.json"
    with little.marked(config, Elsewhere(), 1, "run"):
        pass
    assert little._marker_if_there(config) is None
