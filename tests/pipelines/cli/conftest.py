"""A job file for the commands."""

import pytest

from tests.support.commands import write_job
from tests.support.jobs import job, write_parquet


@pytest.fixture
def job_file(tmp_path):
    write_parquet(tmp_path / "corpus")
    return write_job(tmp_path / "job.yaml", job(tmp_path))
