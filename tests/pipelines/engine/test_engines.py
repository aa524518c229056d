"""Ray gives the same table as the inline loop, whatever dies."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import yaml

from pipelines.engine import ray as ray_executor
from pipelines.engine.stage import Parcel, Receipt, Stage, Tally
from pipelines.errors import VectormillError
from pipelines.run.certificate import differences
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.run.sizing import bundles, spans
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from pipelines.units import Shard, cut
from tests.support.jobs import Said, ids, job, rows, run, text_of, write_jsonl, write_parquet

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def _pickle_this_module():
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


def ray_job(tmp_path, **sections):
    return job(tmp_path, run={"engine": "ray", "rows_per_unit": 16, **sections.pop("run", {})}, **sections)


def inline_rows(tmp_path, **sections):
    config = job(tmp_path, table={"name": "inline"}, **sections)
    run(config)
    return rows(config)


def test_both_engines_give_the_same_table(tmp_path, executor):
    write_parquet(tmp_path / "corpus", shards=4)
    config = ray_job(tmp_path, run={"replicas": 2})
    certificate = run(config, executor)
    assert certificate.adds_up
    assert rows(config) == inline_rows(tmp_path)
    inline = run(job(tmp_path, table={"name": "inline"}))
    assert list(differences(certificate.to_dict(), inline.to_dict())) == [], "every bit of each vector, too"
    assert run(config, executor).adds_up
    assert len(ids(config)) == 160


def test_both_engines_with_the_real_model_and_chunks(tmp_path, executor):
    records = [{"doc_id": str(n), "text": text_of(n) * (1 + 8 * (n % 3)), "n": n} for n in range(30)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl.gz", [])
    (tmp_path / "corpus" / "a.jsonl.gz").unlink()
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, b"broken\n"])
    settings = {"model": {"weights": "bundled"}, "chunking": {"max_tokens": 64, "overlap_tokens": 8}}
    config = ray_job(tmp_path, **settings)
    assert run(config, executor).adds_up
    mine, reference = rows(config), inline_rows(tmp_path, **settings)
    assert len(mine) == len(reference) > 31
    for a, b in zip(mine, reference, strict=True):
        va, vb = a.pop("vector"), b.pop("vector")
        assert a == b
        assert (va is None) == (vb is None)
        assert va is None or max(abs(x - y) for x, y in zip(va, vb, strict=True)) < 2e-5


def test_files_that_cannot_be_counted_come_back_by_name(tmp_path, executor):
    write_parquet(tmp_path / "corpus")
    (tmp_path / "corpus" / "broken.parquet").write_bytes(b"PAR1 not really")
    (broken,) = prepare(ray_job(tmp_path), executor).broken
    assert broken.file == str(tmp_path / "corpus" / "broken.parquet")
    certificate = run(ray_job(tmp_path), executor)
    assert certificate.broken_files == (broken,)
    assert certificate.embedded_rows == certificate.rows == 120
    assert not certificate.adds_up


def test_a_file_that_vanishes_before_it_is_read_is_named_once(tmp_path, executor):
    write_parquet(tmp_path / "corpus")
    prepared = prepare(ray_job(tmp_path), executor)
    path = tmp_path / "corpus" / "part-1.parquet"
    path.unlink()
    certificate = Run.open(prepared, executor, Said()).work()
    assert [(file.file, file.rows) for file in certificate.broken_files] == [(str(path), 40)]
    assert certificate.embedded_rows == 80


def label_with_task(parcels):
    task = Tally(retries=Counter([ray.get_runtime_context().get_task_id()]))
    return [Receipt(parcel.bundle, (), task) for parcel in parcels]


def test_bundles_of_one_span_are_worked_on_by_different_tasks(tmp_path, executor):
    """A compressed giant is read by one task, but tokenised by many."""
    shard = Shard("a", 1, "s", "v", "jsonl", 60, seekable=False)
    (span,) = spans(bundles(cut(shard, 10), 10))
    assert len(span) == 6

    def read(span):
        return (Parcel(bundle, pa.table({"a": [1]})) for bundle in span)

    receipts = list(executor.run(read, [Stage("label", lambda: label_with_task, num_cpus=0.5)], [span]))
    assert len({task for receipt in receipts for task in receipt.tally.retries}) == 6


# ---------------------------------------------------------------------- processes that die


def dying_embedder(spec, marker=None, poison=None):
    """The real replica, which dies once (while `marker` is not there) or at each table with the id `poison`."""
    work = embedder(spec)

    def embed(parcels):
        if marker and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        if poison and any(poison in p.rows["id"].to_pylist() for p in parcels):
            os.kill(os.getpid(), signal.SIGKILL)
        return work(parcels)

    return embed


def test_a_stage_may_be_silent_for_longer_than_ray_has_patience(tmp_path, executor, monkeypatch):
    monkeypatch.setattr(ray.data.DataContext.get_current(), "execution_no_progress_timeout_s", 2.0)
    write_parquet(tmp_path / "corpus", shards=1, rows=16)

    def silent(spec):
        work = embedder(spec)

        def slow(parcels):
            time.sleep(8)
            return work(parcels)

        return slow

    monkeypatch.setattr(embed, "embedder", silent)
    assert run(ray_job(tmp_path), executor).adds_up


def test_killed_replica_is_replaced(tmp_path, executor, monkeypatch):
    write_parquet(tmp_path / "corpus")
    marker = str(tmp_path / "died")
    monkeypatch.setattr(embed, "embedder", lambda spec: dying_embedder(spec, marker=marker))
    config = ray_job(tmp_path)
    assert run(config, executor).adds_up
    assert os.path.exists(marker)
    assert rows(config) == inline_rows_unpatched(tmp_path, monkeypatch)


def inline_rows_unpatched(tmp_path, monkeypatch):
    monkeypatch.undo()
    return inline_rows(tmp_path)


def test_row_that_kills_its_replica_is_recorded(tmp_path, executor, monkeypatch):
    """Tried three times, then halved until the row is found; all others are embedded in the same run."""
    write_parquet(tmp_path / "corpus", shards=2, rows=16)
    monkeypatch.setattr(embed, "embedder", lambda spec: dying_embedder(spec, poison="d5"))
    config = ray_job(tmp_path, run={"rows_per_unit": 4})
    said = Said()
    certificate = Run.open(prepare(config, executor), executor, said).work()
    assert certificate.adds_up
    assert (certificate.embedded_rows, certificate.reasons) == (31, {"crashes_worker": 1})
    (bad,) = [r for r in rows(config) if r["_reason"]]
    assert bad["_detail"].startswith("part-0.parquet row 5:")


# ---------------------------------------------------------------------- the driver


def start(config, tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "vectormill", "embed", str(path), "--json"]
    # Pipes would stay open as long as a process of Ray's lives.
    with (tmp_path / "stdout").open("w") as out, (tmp_path / "stderr").open("w") as errors:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=errors)


def wait_for_more_rows(config, process, seconds=120):
    deadline = time.monotonic() + seconds
    before = seen(config)
    while time.monotonic() < deadline:
        assert process.poll() is None, "the driver ended before it was stopped"
        if seen(config) > before:
            return
        time.sleep(0.2)
    raise AssertionError("no row was added to the table")


def seen(config):
    return len(rows(config)) if (Path(config.table.location) / "_versions").exists() else 0


@pytest.mark.timeout(600)
def test_driver_that_is_stopped_and_then_killed_goes_on_and_prints_one_object(tmp_path):
    """By the command each time, with a Ray of its own. Ray prints where it likes: stdout holds the certificate and
    nothing else, stderr our lines only. (SIGTERM: test_exit_code.py.)"""
    write_parquet(tmp_path / "corpus", shards=6, rows=64)
    slow = ray_job(tmp_path, model={"weights": "fake:250"}, run={"commit_every_seconds": 0.5})
    for how, code in ((signal.SIGINT, 128 + signal.SIGINT), (signal.SIGKILL, -signal.SIGKILL)):
        process = start(slow, tmp_path)
        wait_for_more_rows(slow, process)
        process.send_signal(how)
        assert process.wait(timeout=60) == code
        assert seen(slow) < 384
        said = (tmp_path / "stderr").read_text()
        assert "Traceback" not in said
        assert ("the same command goes on from there" in said) == (how == signal.SIGINT)
    assert start(slow, tmp_path).wait(timeout=500) == 0
    assert json.loads((tmp_path / "stdout").read_text())["embedded_rows"] == 384
    assert len(ids(slow)) == len(set(ids(slow))) == 384
    said = (tmp_path / "stderr").read_text().splitlines()
    assert "units are in the table" in " ".join(said)
    assert all(line[2] == line[5] == ":" and line[:2].isdigit() for line in said), said


def test_ray_that_does_not_start_is_one_message(monkeypatch):
    """Ray gives a node 30 seconds, then raises a plain Exception; seen on a machine with a load of 40."""

    def too_slow(**_):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray_executor.ray, "init", too_slow)
    with pytest.raises(VectormillError, match=r"cannot start or reach Ray.*timed out.*too busy"):
        ray_executor.RayExecutor(None)
