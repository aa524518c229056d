"""Where a test's table is."""

import pytest

from pipelines.config import StorageConfig
from pipelines.table.files import TableAddress


@pytest.fixture
def address(tmp_path):
    return TableAddress(f"{tmp_path}/t.lance", StorageConfig())
