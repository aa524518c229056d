"""Tables that an older commit wrote are read, proved, searched and gone on with (tests/data/made_by_3ad37bb)."""

import json
import tarfile
from datetime import timedelta
from pathlib import Path

import boto3
import lance
import pyarrow.parquet as pq
import pytest

from pipelines.config import RunConfig, StorageConfig
from pipelines.errors import TableError
from pipelines.job_file import load_job
from pipelines.maintenance.optimize import optimize
from pipelines.maintenance.status import status
from pipelines.maintenance.verify import verify
from pipelines.progress import Silent
from pipelines.run.certificate import differences
from pipelines.run.job import run_job
from pipelines.search.bulk import BulkSearch, bulk_search
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress
from pipelines.table.identity import heal
from pipelines.table.schema import TableMetadata

MADE = Path(__file__).parents[1] / "data" / "made_by_3ad37bb"
JOBS = ("plain", "passages", "times", "rerank")
BUCKET = "made-by-3ad37bb"


def unpacked(name, tmp_path, monkeypatch):
    """The folder of a case, as the current one: its job names its corpus and tables by relative paths."""
    with tarfile.open(MADE / f"{name}.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path / name)
    return tmp_path / name


def certificate_then(folder, table="whole"):
    return json.loads((folder / f"tables/{table}.vectormill/certificate.json").read_text())


def records(job):
    """All that a table holds, in the order of the corpus."""
    found = lance.dataset(job.table.location).to_table()
    assert TableMetadata.from_schema(found.schema).format == 3
    return sorted(map(repr, found.select(sorted(found.column_names)).to_pylist()))


@pytest.mark.parametrize("name", JOBS)
def test_a_finished_table_is_proved_and_has_nothing_to_do(name, tmp_path, monkeypatch):
    folder = unpacked(name, tmp_path, monkeypatch)
    job, then = load_job("job.yaml"), certificate_then(folder)
    verdict = verify(job, Silent(), sample=16, seed=1)
    assert [check for check in verdict.checks if not check.ok] == []
    assert list(differences(verdict.certificate.to_dict(), then)) == []
    assert list(differences(run_job(job, Silent()).to_dict(), then)) == []
    version = lance.dataset(job.table.location).version
    assert list(differences(run_job(job, Silent()).to_dict(), then)) == []
    assert lance.dataset(job.table.location).version == version, "it was brought over, and nothing is left to do"
    fresh = load_job("job.yaml", ["table.name=fresh"])
    run_job(fresh, Silent())
    assert records(job) == records(fresh), "as if this release had made it"
    assert verify(job, Silent(), sample=16, seed=1).ok


@pytest.mark.parametrize("name", JOBS)
def test_a_run_that_was_stopped_is_gone_on_with(name, tmp_path, monkeypatch):
    folder = unpacked(name, tmp_path, monkeypatch)
    job, then = load_job("job.yaml", ["table.name=half"]), certificate_then(folder)
    before = lance.dataset(job.table.location)
    kept = {fragment.fragment_id for fragment in before.get_fragments()}
    assert 0 < before.count_rows() < then["records"]
    found = status(TableAddress(job.table.location, StorageConfig()))
    assert (found.units, found.records, found.corpus_rows) == (2, before.count_rows(), then["rows"])
    certificate = run_job(job, Silent())
    assert list(differences(certificate.to_dict(), then)) == []
    assert kept < {fragment.fragment_id for fragment in lance.dataset(job.table.location).get_fragments()}
    assert verify(job, Silent(), sample=16, seed=1).ok


@pytest.mark.parametrize("name", ["plain", "passages", "times"])
def test_an_older_table_is_searched_and_optimized(name, tmp_path, monkeypatch):
    folder = unpacked(name, tmp_path, monkeypatch)
    address = TableAddress("tables/whole.lance", StorageConfig())
    before = [(hit.id, hit.score) for hit in Searcher(address).search("gamma theta n3", Query(limit=5))]
    assert len(before) == 5
    optimized = optimize(address, Silent())
    assert optimized.fragments_after == 1
    assert [(hit.id, hit.score) for hit in Searcher(address).search("gamma theta n3", Query(limit=5))] == before
    verdict = verify(load_job("job.yaml"), Silent(), sample=4, seed=1)
    assert verdict.ok
    assert list(differences(verdict.certificate.to_dict(), certificate_then(folder))) == []


def test_results_of_a_search_are_gone_on_with(tmp_path, monkeypatch, s3_endpoint):
    """Their table names the searched one by its address, so both lie in a bucket."""
    folder = unpacked("hits", tmp_path, monkeypatch)
    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    s3.create_bucket(Bucket=BUCKET)
    for file in sorted((folder / "bucket").rglob("*")):
        if file.is_file():
            s3.upload_file(str(file), BUCKET, file.relative_to(folder / "bucket").as_posix())
    storage = StorageConfig(endpoint_url=s3_endpoint)
    searched = TableAddress(f"s3://{BUCKET}/tables/searched.lance", storage)
    run = RunConfig(engine="inline", rows_per_unit=8, commit_every_seconds=1e-6)
    for name in ("whole", "half"):
        out = f"s3://{BUCKET}/results/{name}.parquet"
        found = bulk_search(
            BulkSearch(searched, "queries.jsonl", out, Query(limit=3, where="lang = 'de'")), run, Silent()
        )
        assert (found.certificate.rows, found.certificate.adds_up, found.searched_version) == (40, True, 6)
        s3.download_file(BUCKET, f"results/{name}.parquet", f"{name}.parquet")
    assert pq.read_table("half.parquet").equals(pq.read_table(folder / "bucket" / "results" / "whole.parquet"))
    assert pq.read_table("whole.parquet").equals(pq.read_table("half.parquet"))


def test_a_table_whose_times_may_have_been_written_otherwise_is_refused(tmp_path, monkeypatch):
    """One time beyond Python's years made numbers of all that were read with it."""
    folder = unpacked("times", tmp_path, monkeypatch)
    job = load_job("job.yaml", ["table.name=half"])
    before = lance.dataset(job.table.location).version
    monkeypatch.setattr("pipelines.run.upgrade.first_beyond_python", lambda column: 3)
    with pytest.raises(
        TableError, match=r"row 3 of \S+ has a time in '\w+' that is beyond Python's years.*new table.name"
    ):
        run_job(job, Silent())
    assert lance.dataset(job.table.location).version == before + 1, "the fence, and nothing else"
    assert TableMetadata.from_schema(lance.dataset(job.table.location).schema).format == 2
    assert folder.is_dir()


def test_versions_of_format_2_that_a_tag_keeps_are_no_other_table(tmp_path, monkeypatch):
    """Below the newest version there may be one from before the table had a number of its own."""
    unpacked("plain", tmp_path, monkeypatch)
    job = load_job("job.yaml", ["table.name=half"])
    lance.dataset(job.table.location).tags.create("then", lance.dataset(job.table.location).version)
    run_job(job, Silent())
    before = records(job)
    lance.dataset(job.table.location).cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    assert len(lance.dataset(job.table.location).versions()) == 2
    assert heal(TableAddress(job.table.location, StorageConfig())) == []
    assert records(job) == before
