"""optimize: fragments compacted, an index kept, old versions removed, while runs write or not."""

from datetime import timedelta
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest

from pipelines.config import StorageConfig
from pipelines.errors import TableError
from pipelines.maintenance import optimize as maintain
from pipelines.maintenance.status import status
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table import compaction
from pipelines.table.files import TableAddress
from pipelines.table.index import columns
from tests.support.jobs import (
    Said,
    address,
    between_commits,
    dataset,
    ids,
    job,
    rows,
    run,
    stop_after,
    text_of,
    write_jsonl,
    write_parquet,
)
from tests.support.verifying import doubts


def optimize(config):
    return maintain.optimize(address(config), Said())


def test_compaction_keeps_every_row_and_its_provenance(config):
    before = rows(config)
    result = optimize(config).to_dict()
    assert (result["fragments_before"], result["fragments_after"], result["fragments_removed"]) == (9, 1, 9)
    assert result["index"]["action"] == "none"
    assert rows(config) == before
    assert doubts(config) == {}
    assert run(config).adds_up
    assert dataset(config).version == result["version"], "the checkpoint survived: nothing was left to do"
    assert optimize(config).to_dict()["fragments_removed"] == 0


def test_run_goes_on_after_an_optimize(tmp_path, built, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    done = len(rows(config))
    assert optimize(config).to_dict()["fragments_after"] == 1
    said = Said()
    assert run(config, display=said).adds_up
    assert f"({120 - done} of 120 rows)" in said.text
    assert rows(config) == rows(job(built))


@pytest.mark.parametrize("commits", [1, 4])
def test_optimize_during_a_run_does_not_hurt_it(tmp_path, built, monkeypatch, commits):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    seen = []

    def now_and_then():
        seen.append(1)
        if len(seen) % commits == 0:
            optimize(config)

    between_commits(monkeypatch, now_and_then)
    assert run(config).adds_up
    monkeypatch.undo()
    assert rows(config) == rows(job(built))
    assert doubts(config) == {}


def test_run_during_an_optimize_does_not_hurt_it(tmp_path, built, monkeypatch):
    """The other way round: the run commits between what optimize reads and what it commits."""
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    real = maintain.open_table

    def late(where):
        table = real(where)
        run(config)
        return table

    monkeypatch.setattr(maintain, "open_table", late)
    optimize(config)
    assert rows(config) == rows(job(built))
    assert doubts(config) == {}


def test_index_is_built_from_some_size_on_and_refreshed(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 300)
    write_parquet(tmp_path / "corpus", shards=2, rows=250)
    config = job(tmp_path, run={"rows_per_unit": 100})
    run(config)
    queries = [text_of(n) for n in (3, 77, 250, 499)]
    exact = [Searcher(address(config)).search(q, Query(limit=1))[0] for q in queries]
    result = optimize(config).to_dict()["index"]
    assert (result["action"], result["type"]) == ("built", "IVF_SQ")
    assert status(address(config)).to_dict()["indices"] == ["id_idx", result["name"]]
    found = [Searcher(address(config)).search(q, Query(limit=1))[0] for q in queries]
    assert [hit.id for hit in found] == [hit.id for hit in exact]
    assert np.allclose([hit.score for hit in found], [hit.score for hit in exact], atol=1e-5), "re-ranked exactly"
    write_parquet(tmp_path / "corpus", shards=1, rows=50, first=5000)
    run(config)
    assert Searcher(address(config)).search(text_of(5007), Query(limit=1))[0].id == "d5007", "and rows outside it"
    result = optimize(config).to_dict()["index"]
    assert (result["action"], result["unindexed_rows"]) == ("updated", 0)
    assert Searcher(address(config)).search(text_of(5007), Query(limit=1))[0].id == "d5007"
    assert doubts(config) == {}
    assert len(ids(config)) == 550


def test_optimize_with_rows_that_have_no_vector(tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 300)
    records = [{"doc_id": f"d{n}", "text": text_of(n) if n % 4 else None, "n": n} for n in range(500)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path)
    run(config)
    assert optimize(config).to_dict()["index"]["action"] == "built"
    assert Searcher(address(config)).search(text_of(77), Query(limit=1))[0].id == "d77"
    assert doubts(config) == {}


def test_versions_since_the_oldest_tag_stay(config, monkeypatch):
    """Or every later run would refuse: a stale commit could land unseen."""
    monkeypatch.setattr(compaction, "KEEP_VERSIONS_FOR", timedelta(0))
    made = lance.dataset(config.table.location)
    made.tags.create("good", made.version - 2)
    made.tags.create("later", made.version - 1)
    assert optimize(config).to_dict()["versions_removed"] == made.version - 3
    kept = sorted(v["version"] for v in lance.dataset(config.table.location).versions())
    assert kept[0] == made.version - 2
    assert kept == list(range(kept[0], kept[-1] + 1))
    write_parquet(Path(config.corpus.uri), shards=1, first=1000)
    assert run(config).adds_up


def test_old_versions_are_removed_and_data_stays(config, monkeypatch):
    assert optimize(config).to_dict()["versions_removed"] == 0, "all are younger than an hour"
    before, versions = rows(config), status(address(config)).to_dict()["versions_kept"]
    monkeypatch.setattr(compaction, "KEEP_VERSIONS_FOR", timedelta(0))
    result = optimize(config).to_dict()
    assert result["versions_removed"] == versions - 1
    assert result["bytes_removed"] > 0
    assert status(address(config)).to_dict()["versions_kept"] == 1
    assert rows(config) == before
    assert doubts(config) == {}
    write_parquet(Path(config.corpus.uri), shards=1, first=1000)
    assert run(config).adds_up
    assert len(rows(config)) == 160


@pytest.mark.parametrize("folder", ["data", "_indices"])
def test_files_that_vanish_while_it_works_are_not_reported_as_done(config, monkeypatch, folder):
    """Another program's clean-up takes for rubbish what is about to be committed."""
    real = maintain.clean_up
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 10)

    def clean_up(address):
        dataset = address.open()
        names = [file.path for fragment in dataset.get_fragments() for file in fragment.metadata.files]
        if folder == "_indices":
            names = [segment.uuid for index in dataset.describe_indices() for segment in index.segments]
        path = next(path for path in (Path(address.uri) / folder / names[0],))
        for file in [path] if path.is_file() else list(path.iterdir()):
            file.unlink()
        return real(address)

    monkeypatch.setattr(maintain, "clean_up", clean_up)
    with pytest.raises(TableError, match=rf"needs are gone, {folder}/.* among them: another program") as caught:
        optimize(config)
    assert caught.value.exit_code == 2


def test_optimize_of_what_is_not_ours(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/foreign.lance")
    for name in ("foreign", "missing"):
        with pytest.raises(TableError):
            maintain.optimize(TableAddress(f"{tmp_path}/{name}.lance", StorageConfig()), Said())
    assert lance.dataset(f"{tmp_path}/foreign.lance").version == 1
