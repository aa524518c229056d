"""What is recommended, and what is not."""

from functools import partial

import numpy as np

from pipelines.search.evaluation import choices, forms
from pipelines.search.evaluation.choices import Choice
from pipelines.search.evaluation.measures import Estimate
from tests.support.evaluating import unit_vectors

unit = partial(unit_vectors, np.random.default_rng(7))


def choice(form, dimensions, mean, low, high=0.0, full=0.5):
    quality = {"nDCG@10": {"mean": full + mean, "low": 0.0, "high": 1.0}}
    form = next(one for one in forms.FORMS if one.name == form)
    return Choice(form, dimensions, quality, Estimate(mean, low, high), 1.0)


def test_no_choice_is_recommended_that_may_lose_more_than_allowed():
    marked = choices._marked(
        [
            choice("float32", 256, 0, 0),
            choice("float16", 256, -0.0001, -0.0005),
            choice("float16", 128, -0.004, -0.0099),
            choice("float16", 64, -0.002, -0.0101),  # its mean is better, but one cannot be sure
            choice("int8, per vector", 256, 0, 0),  # smaller than none here, but the store cannot search it
            choice("binary", 256, -0.009, -0.0099),
        ]
    )
    assert [one.recommended for one in marked] == [False, False, True, False, False, False]
    said = choices.advice(marked)
    assert "model.dimensions: 128, table.vector_dtype: float16: 4 times fewer bytes" in said
    assert "binary with 256 dimensions" in said
    assert "up to you" in said


def test_nothing_smaller_is_recommended_when_all_lose():
    marked = choices._marked([choice("float32", 64, 0, 0), choice("float16", 64, -0.02, -0.03)])
    assert marked[0].recommended
    assert choices.advice(marked).startswith("Keep the table as it is")


def test_efficient_is_what_nothing_smaller_beats():
    marked = choices._marked(
        [
            choice("float32", 256, 0, 0),
            choice("float16", 256, 0, 0),  # as good for fewer bytes
            choice("float32", 128, -0.1, -0.1),  # the same bytes, worse
            choice("float16", 128, -0.1, -0.1),
            choice("binary", 128, -0.3, -0.3),
        ]
    )
    assert [one.efficient for one in marked] == [False, True, False, True, True]


def test_sizes_are_below_the_tables_own():
    for dimensions, want in (1024, [1024, 768, 512, 256, 128, 64, 32]), (384, [384, 256, 128, 64, 32]), (32, [32]):
        trial = choices.Trial(unit(2, dimensions), "float32", unit(5, dimensions))
        assert list(dict.fromkeys(size for _, size in trial.ways)) == want
