"""What counts as well, and that nothing that failed is left out."""

from actors.checks import goldens
from actors.checks.check import Check
from actors.checks.layouts import Comparison
from actors.checks.published import Golden
from actors.doctor.diagnosis import Diagnosis, LayoutCheck


def text_of(diagnosis: Diagnosis) -> str:
    return "\n".join(line for _, line in diagnosis.lines())


def test_layouts_are_judged_by_both_cosines() -> None:
    near, far = 1.0 - 1e-9, 0.99999
    for cosines, ok in (
        ((near, near), True),
        ((far, near), False),
        ((near, far), False),
        ((float("nan"), near), False),
    ):
        assert LayoutCheck.of(Comparison("packed", *cosines, 0), "float32").ok is ok


def test_nothing_that_failed_is_left_out_of_the_verdict() -> None:
    layout = LayoutCheck.of(Comparison("packed", 0.9, 0.9, 0), "float32")
    result = goldens.judge([Golden("cosine", "a", "b", 0.5, "a paper")], [0.1], "float32")[0]
    for part in ({"checks": [Check("runs", False, "no")]}, {"layouts": [layout]}, {"goldens": [result]}):
        found = Diagnosis("w", "embed", {}, {}, **part)
        assert (found.ok, found.failed, found.to_dict()["ok"]) == (False, 1, False)
        assert "NOT WELL: 1 failed" in text_of(found)


def test_a_layout_of_a_reranker_is_judged_by_its_logits_too() -> None:
    near = 1.0 - 1e-9
    for cosines, errors, ok in (
        ((near, near), (1e-5, 1e-5), True),
        ((0.9, near), (1e-5, 1e-5), False),
        ((near, 0.9), (1e-5, 1e-5), False),
        ((near, near), (0.1, 1e-5), False),
        ((near, near), (1e-5, 0.1), False),
        ((near, near), (1e-5, float("nan")), False),
    ):
        assert LayoutCheck.of(Comparison("packed", *cosines, 0, *errors), "float32").ok is ok
