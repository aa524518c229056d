"""The measures against the text books, and their intervals."""

import numpy as np
import pytest

from pipelines.search.evaluation import measures
from pipelines.search.evaluation.measures import Bootstrap

RNG = np.random.default_rng(7)


def test_the_measures_are_the_text_books():
    judged = {"a": {"x": 3, "y": 1}, "b": {"z": 1}, "c": {"x": 1}}
    lists = [["u", "x", "v", "y"], [f"n{i}" for i in range(10)] + ["z"], []]
    values = measures.per_query(judged, lists)
    ideal = 3 + 1 / np.log2(3)
    assert values[0] == pytest.approx([(3 / np.log2(3) + 1 / np.log2(5)) / ideal, 1, 1 / 2])
    assert values[1] == pytest.approx([0, 1, 0]), "rank 11 counts for recall@100, not for MRR@10"
    assert values[2] == pytest.approx([0, 0, 0])


def test_the_order_of_a_list_is_judged_as_it_is():
    """trec_eval would order equal scores by id."""
    for order, want in (["a", "b"], 1), (["b", "a"], 0.5):
        assert measures.per_query({"q": {"a": 1}}, [order])[0, 2] == want


def test_bootstrap_intervals_are_those_of_the_mean():
    values = RNG.normal(0.4, 0.3, 400)
    found = Bootstrap(400, resamples=20_000).estimate(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert (found.mean - found.low, found.high - found.mean) == (pytest.approx(half, rel=0.05),) * 2
    assert Bootstrap(400).estimate(values) == Bootstrap(400).estimate(values), "seeded"


def test_differences_are_paired():
    """Two ways that differ by a constant differ surely, however much the queries do."""
    values = RNG.normal(0.4, 0.3, 50)
    found = Bootstrap(50).estimate((values + 0.02) - values)
    assert (found.low, found.high) == (pytest.approx(0.02), pytest.approx(0.02))
