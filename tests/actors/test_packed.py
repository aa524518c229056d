"""Micro-batches: every sequence once, within the budget, and gathered as it was."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import packed

lengths = st.lists(st.integers(1, 300), max_size=60).map(lambda found: np.array(found, dtype=np.int64))


@settings(max_examples=200, deadline=None)
@given(lengths, st.integers(1, 500))
def test_plan(lengths_N: np.ndarray, budget: int) -> None:
    plan = packed.micro_batches(lengths_N, budget)
    assert sorted(i for rows in plan for i in rows.tolist()) == list(range(len(lengths_N)))
    for rows in plan:
        assert len(rows) == 1 or lengths_N[rows].sum() <= budget
    for rows, following in pairwise(plan):
        assert lengths_N[rows].sum() + lengths_N[following[0]] > budget, "the micro-batch had room"
    in_order = [int(n) for rows in plan for n in lengths_N[rows]]
    assert in_order == sorted(in_order, reverse=True)


@settings(max_examples=100, deadline=None)
@given(lengths, st.randoms())
def test_gather(lengths_N: np.ndarray, random) -> None:
    offsets = packed.offsets_of(lengths_N)
    ids = np.arange(offsets[-1], dtype=np.int32)
    rows = np.array(random.sample(range(len(lengths_N)), len(lengths_N) // 2), dtype=np.int64)
    found, found_lengths = packed.gather(ids, offsets, rows)
    wanted = [ids[offsets[i] : offsets[i + 1]] for i in rows]
    assert found_lengths.tolist() == [len(part) for part in wanted]
    assert found.tolist() == [i for part in wanted for i in part.tolist()]


def test_more_sequences_than_a_launch_can_number_are_several_micro_batches() -> None:
    plan = packed.micro_batches(np.ones(200_000, dtype=np.int64), 10**9)
    assert [len(rows) for rows in plan] == [65_535, 65_535, 65_535, 3_395]
    assert np.array_equal(np.sort(np.concatenate(plan)), np.arange(200_000))
