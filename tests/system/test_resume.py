"""kill -9 of the driver at each seam, then the same command: the same table as an undisturbed run's."""

import subprocess
import sys

import lance
import pytest
import yaml

from pipelines.run.certificate import differences
from tests.support.jobs import Said, job, rows, run, write_parquet
from tests.system.chaos.drivers import ROOT, environment
from tests.system.chaos.seams import ONCE, SEAMS


def write_job(config, path):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


A_FILE = ("in mid-read", "after read")


def embed_until(seam, nth, job_file):
    """A run that kills its own process there."""
    command = [sys.executable, "-m", "tests.system.chaos.seams", seam, str(nth), "kill", str(job_file), "--quiet"]
    return subprocess.run(
        command, cwd=ROOT, env=environment(job_file.parent), capture_output=True, text=True, timeout=120
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_parquet(folder / "corpus")
    config = job(folder)
    certificate = run(config)
    return rows(config), certificate.to_dict()


@pytest.mark.parametrize("nth", [1, 3, 4])
@pytest.mark.parametrize("seam", SEAMS)
def test_killed_at(seam, nth, tmp_path, undisturbed):
    if seam in ONCE and nth > 1:
        pytest.skip("a run takes the fence once")
    if seam in A_FILE and nth > 3:
        pytest.skip("there are three files, and each is read in one pass")
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    job_file = write_job(config, tmp_path / "job.yaml")
    killed = embed_until(seam, nth, job_file)
    assert killed.returncode == -9, killed.stderr
    said = Said()
    certificate = run(config, display=said)
    assert certificate.adds_up
    table, document = undisturbed
    assert rows(config) == table
    assert list(differences(certificate.to_dict(), document)) == [], "every count, id and bit of a vector"
    if nth == 4 and "commit" in seam:
        assert "of 9 units are in the table" in said.text, "what was committed is not embedded again"


def committed_files(config):
    return {file.path for part in lance.dataset(config.table.location).get_fragments() for file in part.data_files()}


def test_orphans_of_a_killed_run_are_removed(tmp_path, undisturbed):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    job_file = write_job(config, tmp_path / "job.yaml")
    embed_until("after write", 3, job_file)
    files = tmp_path / "db" / "t.lance" / "data"
    orphans = {path.name for path in files.iterdir()} - committed_files(config)
    assert orphans
    said = Said()
    run(config, display=said)
    assert f"removed {len(orphans)} orphan file(s)" in said.text
    assert {path.name for path in files.iterdir()} == committed_files(config)
    assert rows(config) == undisturbed[0]
