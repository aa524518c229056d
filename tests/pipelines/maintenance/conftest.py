"""A job and its table, for tests to look at or to spoil."""

import shutil

import pytest

from tests.support.jobs import job, run, write_parquet


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    write_parquet(folder / "corpus")
    run(job(folder))
    return folder


@pytest.fixture
def config(tmp_path, built):
    """A job whose table of 120 rows is complete, for a test to spoil."""
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return job(tmp_path)
