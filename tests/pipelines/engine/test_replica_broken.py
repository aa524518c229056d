"""A replica that can compute nothing more: its process is replaced, and no row is lost or doubled."""

import sys

import pyarrow as pa
import pytest
import ray

from actors.spec import ReplicaBroken
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.stage import Parcel, Stage, call
from pipelines.errors import VectormillError
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from tests.support.jobs import Said, ids, job, rows, run, write_parquet


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def breaking_embedder(spec, marker=None, poison=None):
    """The real replica, which breaks once (while `marker` is not there) or at each table with the id `poison`, and
    from then on does no more work in this process, as a CUDA device does that has failed."""
    work, broken = embedder(spec), []

    def embed(parcels):
        if broken and marker is not None:
            marker.write_text("asked again")
        if marker is not None and not marker.exists():
            marker.write_text("broke")
            broken.append("the device failed")
        if poison and any(poison in parcel.rows["id"].to_pylist() for parcel in parcels):
            broken.append("not even a single text fits")
        if broken:
            raise ReplicaBroken(broken[0])
        return work(parcels)

    return embed


def patched(monkeypatch, **how):
    monkeypatch.setattr(embed, "embedder", lambda spec: breaking_embedder(spec, **how))


def ray_job(tmp_path, rows_per_unit):
    return job(tmp_path, run={"engine": "ray", "rows_per_unit": rows_per_unit})


def test_on_ray_another_process_takes_over(tmp_path, executor, monkeypatch):
    write_parquet(tmp_path / "corpus")
    patched(monkeypatch, marker=tmp_path / "broke")
    config, said = ray_job(tmp_path, 16), Said()
    assert run(config, executor, said).adds_up
    assert (tmp_path / "broke").read_text() == "broke", "a process that broke got no more work"
    assert "failed" not in said.text
    assert "lost" not in said.text, "one more try was enough"
    monkeypatch.undo()
    plain = job(tmp_path, table={"name": "inline"})
    run(plain)
    assert rows(config) == rows(plain)


def test_inline_the_run_ends_with_why_and_the_next_goes_on(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_seconds": 60})
    patched(monkeypatch, poison="d90")
    with pytest.raises(VectormillError, match=r"not even a single text fits.*the same command goes on") as caught:
        run(config)
    assert caught.value.exit_code == 1
    done = ids(config)
    assert 0 < len(done) < 120, "what was written is committed"
    monkeypatch.undo()
    assert run(config).adds_up
    assert ids(config) == sorted({f"d{n}" for n in range(120)})


def test_other_errors_of_a_stage_stay_failures_of_their_parcels():
    def fails(parcels):
        raise ValueError("a bug")

    def breaks(parcels):
        raise ReplicaBroken("poisoned")

    stage, parcel = Stage("embed", lambda: fails), Parcel((), pa.table({}))
    assert call(stage, fails, [parcel])[0].why == "embed: ValueError: a bug"
    with pytest.raises(ReplicaBroken):
        call(stage, breaks, [parcel])


def test_a_replica_that_is_broken_from_the_start_stops_the_run(tmp_path, monkeypatch):
    """Another process would meet the same device: the run says so instead of restarting for ever."""

    def broken(spec):
        raise ReplicaBroken("cuda:0 failed on the weights")

    monkeypatch.setattr("actors.replica.embed.EmbedActor", broken)
    (failed,) = embed.embedder(None)([Parcel((), pa.table({}))])
    assert failed.fatal
    write_parquet(tmp_path / "corpus")
    with pytest.raises(ReplicaBroken, match=r"a replica refuses to work: cuda:0 failed"):
        run(job(tmp_path), InlineExecutor())
