"""What is large for an index."""

import pytest

from pipelines.table.index import columns, recall


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Tables of hundreds of rows are large here, and recall is measured with fewer queries."""
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 1000)
    monkeypatch.setattr(recall, "QUERIES", 64)
