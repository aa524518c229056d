"""Proof that the judge of simple corpora can find fault."""

import lance
import pyarrow as pa
import pytest

from tests.support import simple_judge
from tests.support.jobs import job, run

ROWS = 200


@pytest.fixture
def table(tmp_path):
    """A finished table over the kill test's corpus, and where it is."""
    simple_judge.write_corpus(tmp_path / "corpus", ROWS)
    config = job(tmp_path, corpus={"columns": []})
    assert run(config).adds_up
    return config.table.location


def judge(table):
    return simple_judge.judge(table, simple_judge.expected_vectors(ROWS))


def test_judge_finds_nothing_wrong_with_a_good_table(table):
    assert judge(table) == {"rows": ROWS, "lost": 0, "doubled": 0, "unknown": 0, "wrong": 0}


def test_judge_finds_a_lost_row(table):
    lance.dataset(table).delete("id = 'd7'")
    assert judge(table) == {"rows": ROWS - 1, "lost": 1, "doubled": 0, "unknown": 0, "wrong": 0}


def test_judge_finds_a_doubled_row(table):
    dataset = lance.dataset(table)
    lance.write_dataset(dataset.to_table(filter="id = 'd7'"), table, mode="append")
    assert judge(table) == {"rows": ROWS + 1, "lost": 0, "doubled": 1, "unknown": 0, "wrong": 0}


def test_judge_finds_a_row_that_is_not_in_the_corpus(table):
    dataset = lance.dataset(table)
    dataset.update({"id": "'stranger'"}, where="id = 'd7'")
    assert judge(table) == {"rows": ROWS, "lost": 1, "doubled": 0, "unknown": 1, "wrong": 0}


@pytest.mark.parametrize("value", ["null", "another row's"])
def test_judge_finds_a_wrong_vector(table, value):
    dataset = lance.dataset(table)
    row = dataset.to_table(filter="id = 'd7'")
    other = dataset.to_table(filter="id = 'd8'")["vector"]
    vector = pa.nulls(1, other.type) if value == "null" else other
    dataset.delete("id = 'd7'")
    lance.write_dataset(row.set_column(row.column_names.index("vector"), "vector", vector), table, mode="append")
    assert judge(table) == {"rows": ROWS, "lost": 0, "doubled": 0, "unknown": 0, "wrong": 1}
