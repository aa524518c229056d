"""A unit counts once, whatever an engine does twice; what it loses is known."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.in_hand import SUSPECTS_MOST, InHand
from pipelines.engine.stage import Failed, Receipt
from pipelines.errors import StorageError
from pipelines.units import Unit


def unit(number):
    return Unit(1, "a.parquet", number, number + 1, 10, "s")


def receipt(*numbers):
    return Receipt(tuple(map(unit, numbers)), ("f",))


def failed(*numbers, **how):
    return Failed(tuple(map(unit, numbers)), "why", **how)


def spans(*found):
    return [tuple(tuple(map(unit, bundle)) for bundle in span) for span in found]


def drawn(*found):
    in_hand = InHand(spans(*found))
    assert list(in_hand) == spans(*found)
    return in_hand


def test_the_first_receipt_wins():
    in_hand = drawn([[0, 1], [2]])
    first = receipt(0, 1)
    assert in_hand.answered(first) is first
    assert in_hand.answered(receipt(0)) is None
    assert in_hand.answered(receipt(1, 2)) is None, "half of it has a receipt, so none of it is taken"
    assert in_hand.lost == [unit(2)], "and what is left of it stays in hand"
    assert in_hand.answered(receipt(2)) == receipt(2)
    assert in_hand.units == 0


def test_rows_that_were_written_twice_into_one_fragment_are_not_taken():
    in_hand = drawn([[0], [1]])
    assert in_hand.answered(receipt(0, 1, 0)) is None
    assert in_hand.units == 2


def test_a_receipt_for_what_is_not_in_hand_is_not_taken():
    """Of a unit that failed and was cut, or that was never handed out."""
    in_hand = drawn([[0]])
    assert in_hand.answered(receipt(7)) is None
    assert in_hand.answered(failed(0, too_large=True)) is not None
    assert in_hand.answered(receipt(0)) is None


def test_a_failure_counts_for_what_has_no_answer():
    in_hand = drawn([[0, 1]])
    in_hand.answered(receipt(0))
    assert in_hand.answered(failed(0, 1)) == failed(1)
    assert in_hand.answered(failed(0, 1)) is None
    assert in_hand.answered(failed(0, fatal=StorageError)) is not None, "the run ends, whoever says it"


def test_a_unit_comes_in_hand_again_after_it_failed():
    in_hand = InHand(iter(spans([[0]], [[1]], [[0]])))
    next(in_hand)
    in_hand.answered(failed(0))
    assert list(in_hand) == spans([[1]], [[0]])
    assert in_hand.answered(receipt(0)) is not None
    assert in_hand.answered(receipt(0)) is None


def test_no_unit_is_in_hand_twice():
    with pytest.raises(AssertionError, match="in hand already"):
        list(InHand(spans([[0]], [[0]])))


def test_what_is_lost_is_known_with_its_spans():
    in_hand = drawn([[0, 1], [2]], [[3]], [[4], [5]])
    in_hand.answered(receipt(0, 2, 3))
    in_hand.answered(failed(4, hung=True))
    in_hand.answered(receipt(5))
    assert in_hand.lost == [unit(1)]
    assert in_hand.left() == spans([[1]])
    assert sorted(in_hand.suspects, key=str) == spans([[0, 1], [2]], [[4], [5]]), "as they were drawn"


def test_no_more_is_drawn_when_many_hung():
    in_hand = InHand(spans(*([[n]] for n in range(2 * SUSPECTS_MOST))))
    for number in range(SUSPECTS_MOST):
        next(in_hand)
        in_hand.answered(failed(number, hung=True))
    assert next(in_hand, None) is None
    assert in_hand.is_exhausted


@given(
    bundles=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    answers=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 20), min_size=1, max_size=4)), max_size=30),
)
def test_each_unit_is_taken_once_whatever_comes(bundles, answers):
    count = sum(bundles)
    edges = [sum(bundles[:n]) for n in range(len(bundles) + 1)]
    in_hand = drawn(*([list(range(a, b))] for a, b in pairwise(edges)))
    taken = []
    for is_receipt, numbers in answers:
        result = in_hand.answered((receipt if is_receipt else failed)(*numbers))
        taken += [] if result is None else [one.start for one in result.bundle]
    assert len(taken) == len(set(taken))
    assert sorted([*taken, *(one.start for one in in_hand.lost)]) == list(range(count))
