"""What most runs here read."""

import pytest

from tests.support.jobs import write_parquet


@pytest.fixture
def corpus(tmp_path):
    return write_parquet(tmp_path / "corpus")
