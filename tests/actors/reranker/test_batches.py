"""How pairs are laid out: what each of them sees is its own head and tail, whatever is shared."""

from itertools import pairwise

import numpy as np
import pytest

from actors import packed
from actors.reranker.batches import KEYS_PER_TOKEN, PairBatches
from actors.reranker.prompt import RerankEncoded


def encoded_of(heads: list[list[int]], tails: list[list[int]], query_of: list[int]) -> RerankEncoded:
    def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        lengths = np.array([0, *map(len, rows)], dtype=np.int64)
        return np.array([i for row in rows for i in row], dtype=np.int32), np.cumsum(lengths)

    return RerankEncoded(*flat(heads), *flat(tails), np.array(query_of, dtype=np.int64), np.zeros(len(tails), bool))


def random_pairs(seed: int) -> tuple[RerankEncoded, list[list[int]]]:
    """Pairs of up to 6 queries in mixed order, and the ids of each of them whole."""
    rng = np.random.default_rng(seed)
    queries, pairs = int(rng.integers(1, 7)), int(rng.integers(1, 40))
    begin = rng.integers(0, 1000, rng.integers(1, 9)).tolist()
    heads = [begin + rng.integers(0, 1000, rng.integers(1, 9)).tolist() for _ in range(queries)]
    tails = [rng.integers(0, 1000, rng.integers(1, 30)).tolist() for _ in range(pairs)]
    query_of = rng.integers(0, queries, pairs).tolist()
    return encoded_of(heads, tails, query_of), [heads[q] + tail for q, tail in zip(query_of, tails, strict=True)]


def seen(batches: PairBatches, rows: np.ndarray) -> list[list[tuple[int, int]]]:
    """(id, position) of all that the last token of each pair sees, in order; checks all other sequences too."""
    batch = batches.batch(rows)
    ends, key_ends = np.cumsum(batch.queries_n), np.cumsum(batch.keys_n)
    assert ends[-1] == len(batch.ids_T) == len(batch.positions_T) == batches.tokens(rows)
    assert batch.queries_n.min() >= 1
    keys = np.arange(ends[-1]) if batch.key_rows_K is None else batch.key_rows_K
    assert len(keys) == key_ends[-1]
    found = []
    for i, (end, key_end) in enumerate(zip(ends, key_ends, strict=True)):
        own = np.arange(end - batch.queries_n[i], end)
        visible = keys[key_end - batch.keys_n[i] : key_end]
        assert visible[-len(own) :].tolist() == own.tolist()  # the own tokens are the last ones, as the packing says
        assert batch.positions_T[visible].tolist() == list(range(len(visible)))
        found.append(list(zip(batch.ids_T[visible].tolist(), batch.positions_T[visible].tolist(), strict=True)))
    return found[-batch.pairs :]


@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_every_pair_sees_its_own_tokens_and_no_others(reuse_prefix: bool) -> None:
    for seed in range(60):
        encoded, whole = random_pairs(seed)
        batches = PairBatches(encoded, reuse_prefix)
        for rows in [np.random.default_rng(seed).permutation(len(whole)), *batches.plan(40)]:
            for row, ids in zip(rows, seen(batches, rows), strict=True):
                assert [number for number, _ in ids] == whole[row]


def test_what_is_shared_is_computed_once() -> None:
    heads = [[1, 2, 3, 10, 11], [1, 2, 3, 20], [1, 2, 3, 30, 31, 32]]
    tails = [[7] * 4, [8] * 5, [7] * 4, [9] * 2]
    batches = PairBatches(encoded_of(heads, tails, [0, 0, 1, 2]), reuse_prefix=True)
    batch = batches.batch(np.arange(4))
    common, head, alone = 3, 2, [1 + 4, 3 + 2]
    assert batch.queries_n.tolist() == [common, head, 4, 5, *alone]
    assert batch.keys_n.tolist() == [3, 5, 9, 10, 8, 8]
    one_query = batches.batch(np.array([1, 0]))
    assert one_query.queries_n.tolist() == [5, 5, 4]
    single = batches.batch(np.array([3]))
    assert (single.queries_n.tolist(), single.key_rows_K) == ([8], None)


def test_two_queries_of_the_same_tokens() -> None:
    encoded = encoded_of([[1, 2, 3], [1, 2, 3], [1, 2, 3]], [[5], [6], [7, 8], [9]], [0, 1, 1, 2])
    batches = PairBatches(encoded, reuse_prefix=True)
    assert [[number for number, _ in row] for row in seen(batches, np.arange(4))] == [
        [1, 2, 3, 5],
        [1, 2, 3, 6],
        [1, 2, 3, 7, 8],
        [1, 2, 3, 9],
    ]


@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_plan(reuse_prefix: bool) -> None:
    for seed in range(60):
        encoded, whole = random_pairs(seed)
        batches = PairBatches(encoded, reuse_prefix)
        for budget in (1, 30, 100, 10_000):
            plan = batches.plan(budget)
            assert sorted(np.concatenate(plan).tolist()) == list(range(len(whole)))
            for rows in plan:
                assert len(rows) == 1 or batches.tokens(rows) <= budget
                keys = sum(len(whole[row]) for row in rows)
                assert len(rows) == 1 or not reuse_prefix or keys <= KEYS_PER_TOKEN * budget
            for rows, following in pairwise(plan):  # nothing more would have gone in
                more = np.append(rows, following[0])
                keys = sum(len(whole[row]) for row in more)
                assert batches.tokens(more) > budget or (reuse_prefix and keys > KEYS_PER_TOKEN * budget)


def test_the_documents_of_a_query_stand_together_by_length() -> None:
    tails = [[1] * n for n in (3, 5, 3, 5, 2, 5)]
    encoded = encoded_of([[1, 2], [1, 3]], tails, [0, 1, 0, 0, 1, 0])
    assert [rows.tolist() for rows in PairBatches(encoded, reuse_prefix=True).plan(1000)] == [[3, 5, 0, 2, 1, 4]]


def test_a_long_query_with_short_documents_is_bounded_by_its_keys() -> None:
    encoded = encoded_of([[1] * 500], [[2]] * 1000, [0] * 1000)
    plan = PairBatches(encoded, reuse_prefix=True).plan(1000)
    assert {len(rows) for rows in plan[:-1]} == {KEYS_PER_TOKEN * 1000 // 501}


def test_no_pairs() -> None:
    assert PairBatches(encoded_of([], [], []), reuse_prefix=True).plan(100) == []
    assert PairBatches(encoded_of([], [], []), reuse_prefix=False).plan(100) == []


@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_more_sequences_than_a_launch_can_number_are_several_micro_batches(reuse_prefix: bool) -> None:
    """Two documents a query: the most heads that so many pairs can have."""
    pairs = 100_000
    encoded = encoded_of([[1, n] for n in range(pairs // 2)], [[2]] * pairs, [n // 2 for n in range(pairs)])
    batches = PairBatches(encoded, reuse_prefix)
    plan = batches.plan(10**9)
    assert np.array_equal(np.sort(np.concatenate(plan)), np.arange(pairs))
    most = [len(batches.batch(rows).queries_n) for rows in plan]
    assert max(most) <= packed.MOST_SEQUENCES
    assert max(most) > 65_530, "and no fewer than can be"
