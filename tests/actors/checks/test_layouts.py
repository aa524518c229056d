"""What is too far off is named, for an embedder and for a reranker."""

from dataclasses import replace

import pytest

from actors.checks.layouts import LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS, LOGIT_TOLERANCE, Comparison

OF_TEXTS = Comparison("packed", 1.0, 1.0, 0)
OF_PAIRS = replace(OF_TEXTS, logit_error=0.0, logit_error_to_alone=0.0)


@pytest.mark.parametrize("dtype", LEAST_COSINE)
def test_the_limits_themselves_are_near_enough(dtype: str) -> None:
    limits = replace(OF_TEXTS, cosine=LEAST_COSINE[dtype], cosine_to_alone=LEAST_COSINE_OF_LAYOUTS[dtype])
    most = LOGIT_TOLERANCE[dtype]
    assert limits.failure(dtype) is None
    assert replace(limits, logit_error=most, logit_error_to_alone=most).failure(dtype) is None


@pytest.mark.parametrize("dtype", LEAST_COSINE)
@pytest.mark.parametrize("name", ["cosine", "cosine_to_alone", "logit_error", "logit_error_to_alone"])
def test_what_is_off_or_no_number_is_named(name: str, dtype: str) -> None:
    for value in (0.9 if name.startswith("cosine") else 2.1, float("nan")):
        assert replace(OF_PAIRS, **{name: value}).failure(dtype) == name
        if name.startswith("cosine"):
            assert replace(OF_TEXTS, **{name: value}).failure(dtype) == name


def test_the_reference_comes_before_the_neighbours_and_logits_before_cosines() -> None:
    found = Comparison("packed", 0.0, 0.0, 0, 9.0, 9.0)
    named = []
    while name := found.failure("float32"):
        named.append(name)
        found = replace(found, **{name: getattr(OF_PAIRS, name)})
    assert named == ["logit_error", "cosine", "logit_error_to_alone", "cosine_to_alone"]
