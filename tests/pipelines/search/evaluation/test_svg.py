"""The axes of drawings."""

import pytest

from pipelines.search.evaluation import svg


def test_axes_have_round_numbers():
    assert svg.steps(0.213, 0.398) == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])
    assert svg.steps(0.4, 0.4)[0] <= 0.4 < svg.steps(0.4, 0.4)[-1]
    assert svg.decades(3e6, 2e9) == pytest.approx([1e7, 1e8, 1e9]) or len(svg.decades(3e6, 2e9)) >= 4
