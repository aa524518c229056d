"""The rerank stage, with the fake model: many calls at a time are as each alone."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from actors.replica.pairs import with_ids
from actors.replica.rerank import RerankActor
from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec, ReplicaBroken
from tests.support.spoilt import spoil

SPEC = ModelSpec("fake", token_budget=60)


def table_of(reranker, pairs, has_pair):
    """Rows, some of which carry a reason and no pair."""
    reasons = pa.array([None if has else "no_document" for has in has_pair], pa.string())
    table = pa.table({"_reason": reasons, "_detail": pa.nulls(len(has_pair), pa.string())})
    return with_ids(table, reranker.encode_pairs(pairs), has_pair)


def random_pairs(chance, count):
    words = [f"word{n}" for n in range(40)]
    queries = [" ".join(chance.choice(words, 4)) for _ in range(3)]
    return [(str(chance.choice(queries)), " ".join(chance.choice(words, chance.integers(1, 20)))) for _ in range(count)]


def test_many_calls_at_a_time_are_as_each_alone() -> None:
    actor, alone, chance = RerankActor(SPEC), Reranker(SPEC), np.random.default_rng(3)
    tables, wanted = [], []
    for size in [0, 1, *chance.integers(0, 30, 30)]:
        has_pair = chance.random(size) < 0.8
        pairs = random_pairs(chance, int(has_pair.sum()))
        tables.append(table_of(alone, pairs, has_pair))
        logits = np.full(size, np.nan, np.float32)
        logits[has_pair] = alone.score_pairs(pairs).logits
        wanted.append(logits)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(actor, tables))
    for out, logits in zip(found, wanted, strict=True):
        assert out.column_names == ["_reason", "_detail", "score", "logit"]
        given = out["logit"].to_numpy(zero_copy_only=False).astype(np.float32)
        np.testing.assert_array_equal(given, logits)


def test_a_replica_that_fails_on_a_known_pair_is_broken_and_blames_no_row(monkeypatch) -> None:
    actor = RerankActor(SPEC)
    table = table_of(Reranker(SPEC), random_pairs(np.random.default_rng(4), 5), np.ones(5, dtype=bool))
    spoil(monkeypatch, actor._reranker, lambda logits: logits.fill(np.nan))
    with pytest.raises(ReplicaBroken, match="5 of 5 logits are not finite, and neither is that of a known pair"):
        actor(table)
