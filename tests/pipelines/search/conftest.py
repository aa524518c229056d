"""Tables to search, and a small reranker."""

import pytest

from actors.spec import ModelSpec
from tests.support.jobs import job, run, write_parquet
from tests.support.searching import MIXED, table_of, with_words


@pytest.fixture
def config(tmp_path):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    run(config)
    return config


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A table with texts of several scripts and a full-text index; the fake model finds shared words."""
    return with_words(table_of(tmp_path_factory.mktemp("mixed"), MIXED, table={"text_column": "text"}))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Weights of a random reranker with a small vocabulary."""
    from tests.support.rerank_peers import build_tiny  # transformers: seconds that other files here do not need

    return ModelSpec(str(build_tiny(tmp_path_factory.mktemp("tiny"))), device="cpu", dtype="float32", threads=1)
