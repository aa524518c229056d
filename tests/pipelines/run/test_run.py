"""The main job in one process, with the fake model, real Lance and real files."""

import shutil
import threading

import lance
import numpy as np
import pyarrow as pa
import pytest

from actors.embedder.embedder import Embedder
from actors.spec import ModelError, ModelSpec
from actors.weights.locate import locate
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import Superseded, VectormillError
from pipelines.run import workload
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table import contents, sink
from pipelines.table.fence import Fence
from pipelines.table.files import TableAddress
from pipelines.table.table import LanceTable
from tests.support.engines import Unreliable
from tests.support.jobs import Said, ids, job, rows, run, stop_after, text_of, version, write_jsonl, write_parquet


def test_every_row_once_with_its_vector(tmp_path, corpus):
    config = job(tmp_path)
    certificate = run(config)
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows, certificate.bad_rows) == (120, 120, 0)
    table = rows(config)
    assert sorted(r["id"] for r in table) == sorted(f"d{n}" for n in range(120))
    want = Embedder(ModelSpec("fake")).embed_documents([text_of(r["n"]) for r in table])
    assert np.allclose(np.array([r["vector"] for r in table]), want, atol=2e-5)
    assert all(r["id"] == f"d{r['n']}" for r in table)
    assert certificate.tokens == sum(r["_tokens"] for r in table) > 0


def test_tiny_files_travel_in_bundles(tmp_path):
    """Several units in one parcel, one of them unreadable: only that one fails."""
    folder = write_parquet(tmp_path / "corpus", shards=50, rows=3)
    config = job(tmp_path)
    executor = InlineExecutor()
    prepared = prepare(config, executor)
    content = (folder / "part-30.parquet").read_bytes()
    (folder / "part-30.parquet").unlink()
    certificate = Run.open(prepared, executor, Said()).work()
    assert (certificate.embedded_rows, certificate.missing_rows, len(certificate.broken_files)) == (147, 3, 1)
    (folder / "part-30.parquet").write_bytes(content)
    assert run(config).adds_up
    assert len(rows(config)) == len({(r["_shard"], r["_row"]) for r in rows(config)}) == 150


def test_second_run_does_nothing(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    before = version(config)
    certificate = run(config)
    assert certificate.adds_up
    assert version(config) == before, "not even a fence"


def test_added_shard_is_the_only_work(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    old = {(r["_shard"], r["_unit"]) for r in rows(config)}
    write_parquet(corpus, shards=1, first=500)
    said = Said()
    assert run(config, display=said).rows == 160
    assert "9 of 12 units are in the table, 3 to go" in said.text
    assert old < {(r["_shard"], r["_unit"]) for r in rows(config)}
    assert len(ids(config)) == len(set(ids(config))) == 160


def test_changed_shard_is_a_new_shard_and_is_reported(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    (corpus / "part-0.parquet").unlink()
    write_parquet(corpus, shards=1, first=0, rows=44)
    said = Said()
    certificate = run(config, display=said)
    assert certificate.adds_up
    assert certificate.stale_rows == 40
    assert "1 shard(s) in the table are no longer in the corpus" in said.text
    certificate = run(job(tmp_path, run={"stale_rows": "delete"}))
    assert (certificate.stale_rows, certificate.embedded_rows) == (0, 124)
    assert len(rows(config)) == 124


def test_renamed_root_changes_nothing(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    before = version(config)
    corpus.rename(tmp_path / "elsewhere")
    assert run(job(tmp_path, corpus={"uri": str(tmp_path / "elsewhere")})).adds_up
    assert version(config) == before


def test_other_unit_size_resumes_exactly(tmp_path, corpus, monkeypatch):
    config = job(tmp_path)
    stop_after(monkeypatch, commits=2)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    done = len(rows(config))
    assert 0 < done < 120
    assert run(job(tmp_path, run={"rows_per_unit": 7})).adds_up
    assert len(ids(config)) == len(set(ids(config))) == 120


def test_ctrl_c_commits_what_is_written(tmp_path, corpus, monkeypatch):
    """Nothing is due yet when Ctrl-C comes; the receipts in hand are committed all the same."""
    config = job(tmp_path, run={"commit_every_seconds": 10})
    real = workload.with_ticks

    def interrupted(stream, due):
        for number, parcel in enumerate(real(stream, due)):
            if number == 4:
                raise KeyboardInterrupt
            yield parcel

    monkeypatch.setattr(workload, "with_ticks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    assert 0 < len(rows(config)) < 120
    assert run(config).adds_up


def test_stale_rows_stay_until_the_new_ones_are_in(tmp_path, corpus, monkeypatch):
    from pipelines.tasks.embed import Tokenise

    config = job(tmp_path, run={"stale_rows": "delete"})
    run(config)
    (corpus / "part-0.parquet").unlink()
    write_parquet(corpus, shards=1, first=0, rows=44)
    with monkeypatch.context() as broken:
        broken.setattr(Tokenise, "__call__", lambda self, table: 1 / 0)
        certificate = run(config)
    assert (certificate.adds_up, certificate.stale_rows) == (False, 40)
    assert (run(config).stale_rows, len(rows(config))) == (0, 124)


def test_chunks_template_dimensions_and_float16(tmp_path):
    long = " ".join(f"w{n}" for n in range(100))
    records = [{"doc_id": str(n), "title": f"T{n}", "text": long if n % 2 else "short", "n": n} for n in range(20)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, {"doc_id": "e", "title": None, "text": None, "n": 1}])
    config = job(
        tmp_path,
        corpus={"text": "{title}: {text}"},
        chunking={"max_tokens": 32, "overlap_tokens": 4},
        model={"dimensions": 16},
        table={"vector_dtype": "float16", "text_column": "passage"},
    )
    certificate = run(config)
    assert certificate.adds_up
    assert (certificate.rows, certificate.bad_rows, certificate.truncated) == (21, 1, 0)
    dataset = lance.dataset(config.table.location)
    assert dataset.schema.field("vector").type == pa.list_(pa.float16(), 16)
    table = rows(config)
    assert certificate.records == len(table) > 21
    for row in table:
        if row["_reason"]:
            continue
        full = f"T{row['id']}: " + (long if int(row["id"]) % 2 else "short")
        assert row["passage"] == full[row["_start"] : row["_end"]]
        assert row["_tokens"] <= 32
        assert abs(np.linalg.norm(row["vector"]) - 1) < 2e-3
    assert {r["_chunk"] for r in table if r["id"] == "1"} == {0, 1, 2, 3}


# ---------------------------------------------------------------------- what fails


def test_unreadable_shard_fails_the_run_and_keeps_the_rest(tmp_path, corpus, monkeypatch):
    """A shard that vanishes between plan and read: its units fail with the file's name, the others are in."""
    config = job(tmp_path)
    executor = InlineExecutor()
    prepared = prepare(config, executor)
    content = (corpus / "part-1.parquet").read_bytes()
    (corpus / "part-1.parquet").unlink()
    certificate = Run.open(prepared, executor, Said()).work()
    assert not certificate.adds_up
    assert (certificate.embedded_rows, certificate.missing_rows) == (80, 40)
    assert [(file.file, file.rows) for file in certificate.broken_files] == [(str(corpus / "part-1.parquet"), 40)]
    (corpus / "part-1.parquet").write_bytes(content)
    assert run(config).adds_up
    assert len(set(ids(config))) == len(ids(config)) == 120


def test_second_receipt_is_dropped(tmp_path, corpus):
    certificate = run(job(tmp_path), Unreliable(twice=True))
    assert certificate.adds_up
    assert len(rows(job(tmp_path))) == 120


def test_full_disk_stops_the_run_at_once_and_resumes(tmp_path, corpus, monkeypatch):
    config = job(tmp_path, run={"commit_every_seconds": 10})
    real, calls = sink.write_rows, []

    def write_rows(address, table, run):
        calls.append(1)
        if len(calls) > 2:
            raise OSError("LanceError(IO): No space left on device (os error 28), lance-file/src/writer.rs:254:9")
        return real(address, table, run)

    monkeypatch.setattr(sink, "write_rows", write_rows)
    with pytest.raises(VectormillError, match=r"cannot be written: .*the disk is full; make room"):
        run(config)
    assert len(calls) < 9, "neither tried again nor embedded on; the engine is at most two units ahead"
    assert len(rows(config)) == 32, "what was written is committed"
    monkeypatch.undo()
    assert run(config).adds_up
    assert len(set(ids(config))) == len(ids(config)) == 120


def test_store_that_fails_for_a_moment_is_tried_again(tmp_path, corpus, monkeypatch):
    real, calls = sink.write_rows, []

    def write_rows(address, table, run):
        calls.append(1)
        if len(calls) in (2, 3):
            raise OSError("503 Slow Down")
        return real(address, table, run)

    monkeypatch.setattr(sink, "write_rows", write_rows)
    monkeypatch.setattr("pipelines.storage.retry.time.sleep", lambda seconds: None)
    assert run(job(tmp_path)).adds_up
    assert len(calls) == 9 + 2


def test_rows_deleted_by_the_owner_are_not_embedded_again(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    dataset = lance.dataset(config.table.location)
    dataset.delete("n < 3 OR n = 20")
    certificate = run(config)
    assert (certificate.deleted_rows, certificate.missing_rows, certificate.adds_up) == (4, 0, True)
    assert len(rows(config)) == 116


def test_rows_deleted_at_the_edges_of_units_of_another_size(tmp_path, corpus):
    """Also where the file left the corpus and came back, and the job cuts its units otherwise."""
    config = job(tmp_path)
    run(config)
    kept = "_row > _first AND _row < _first + _rows - 1"
    lance.dataset(config.table.location).delete(f"NOT ({kept})")
    left = rows(config)
    assert 0 < len(left) < 120
    for size in (5, 7, 33):
        certificate = run(job(tmp_path, run={"rows_per_unit": size}))
        assert (certificate.adds_up, certificate.deleted_rows) == (True, 120 - len(left))
        assert rows(config) == left


# ---------------------------------------------------------------------- two drivers


def test_two_drivers_one_table(tmp_path, corpus):
    """The first is held in the middle of its work, the second takes over and finishes; the first adds nothing."""
    config = job(tmp_path)
    held, release = threading.Event(), threading.Event()

    class Paused(InlineExecutor):
        def run(self, read, stages, spans):
            for number, parcel in enumerate(super().run(read, stages, spans)):
                if number == 3:
                    held.set()
                    assert release.wait(60)
                yield parcel

    outcome = []

    def first():
        try:
            run(config, Paused())
        except Exception as bad:  # noqa: BLE001
            outcome.append(bad)

    thread = threading.Thread(target=first)
    thread.start()
    assert held.wait(60)
    assert run(config).adds_up
    release.set()
    thread.join(60)
    assert isinstance(outcome[0], Superseded)
    assert len(rows(config)) == len(set(ids(config))) == 120


def test_a_run_whose_file_the_newer_one_took_for_an_orphan_says_superseded(tmp_path, corpus, monkeypatch):
    """Not that its table cannot be written: the store is well."""
    config = job(tmp_path)
    real, newer = sink.write_rows, []

    def overtaken(address, rows, of_run):
        if newer:
            return real(address, rows, of_run)
        newer.append(None)
        newer.append(run(config))
        raise OSError("LanceError(IO): failed to persist temp file")

    monkeypatch.setattr(sink, "write_rows", overtaken)
    with pytest.raises(Superseded, match="superseded by run"):
        run(config)
    assert newer[1].adds_up
    assert len(rows(config)) == 120


def test_new_driver_keeps_what_the_old_one_committed(tmp_path, corpus, monkeypatch):
    config = job(tmp_path)
    stop_after(monkeypatch, commits=3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    kept = {(r["_unit"], r["id"]) for r in rows(config)}
    said = Said()
    assert run(config, display=said).adds_up
    assert kept < {(r["_unit"], r["id"]) for r in rows(config)}
    assert "of 9 units are in the table" in said.text


def test_readers_never_see_half_a_unit(tmp_path, corpus, monkeypatch):
    """After each commit every unit in the table is whole."""
    config = job(tmp_path)
    real, sizes = Fence.commit, []

    def commit(self, fragments, properties):
        real(self, fragments, properties)
        table = LanceTable.open(TableAddress(config.table.location, config.storage))
        sizes.extend(unit.rows for unit in contents.units(table, {}))

    monkeypatch.setattr(Fence, "commit", commit)
    run(config)
    assert set(sizes) == {8, 16}, "40 rows in row groups of 16"


# ---------------------------------------------------------------------- what changes between plan and work


def test_commit_of_an_older_run_before_the_fence_is_seen(tmp_path, corpus, monkeypatch):
    """The older run's last commit lands after this run's first look at the table and before its fence."""
    config = job(tmp_path)
    real = LanceTable.take_fence

    def late(self, *arguments):
        monkeypatch.undo()
        assert run(config).adds_up, "the older run finishes just now"
        return real(self, *arguments)

    monkeypatch.setattr(LanceTable, "take_fence", late)
    assert run(config).adds_up
    assert len(rows(config)) == len(set(ids(config))) == 120


def test_weights_that_change_after_the_plan_are_refused(tmp_path, corpus):
    """The folder holds other weights when the replica starts than when the fingerprint was taken."""
    weights = tmp_path / "weights"
    shutil.copytree(locate(ModelSpec("bundled")), weights)
    config = job(tmp_path, model={"weights": str(weights)})
    executor = InlineExecutor()
    prepared = prepare(config, executor)
    with (weights / "config.json").open("a") as file:
        file.write("\n")
    with pytest.raises(ModelError, match="a replica refuses to work"):
        Run.open(prepared, executor, Said()).work()
    assert rows(config) == []
