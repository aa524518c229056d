"""The embed stage, with the fake model: rows in = rows out, whatever happens to a row."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from actors.embedder.embedder import Embedder
from actors.replica.embed import EmbedActor
from actors.spec import ModelSpec, ReplicaBroken
from actors.tokenizer.text import TextTokenizer

TEXTS = ["the cat sat", "the dog sat", "quantum field theory", "", "the cat sat on the mat " * 50]
FAKE = ModelSpec("fake")


def table_of(texts: list[str | None], spec: ModelSpec = FAKE, ids_type: pa.DataType | None = None) -> pa.Table:
    """Rows whose text is None carry the reason "undecodable"."""
    encoded = TextTokenizer(spec).encode([text or "" for text in texts])
    parts = np.split(encoded.ids, encoded.offsets[1:-1])
    ids = [None if text is None else part for part, text in zip(parts, texts, strict=False)]
    reasons = pa.array([None if text is not None else "undecodable" for text in texts], pa.string())
    return pa.table(
        {
            "id": pa.array([f"r{i}" for i in range(len(texts))]),
            "_ids": pa.array(ids, ids_type or pa.list_(pa.int32())),
            "_reason": reasons,
            "_detail": pa.nulls(len(texts), pa.string()),
        }
    ).replace_schema_metadata({"unit": "u1"})


@pytest.mark.parametrize("ids_type", [pa.list_(pa.int32()), pa.large_list(pa.int32())])
def test_rows_keep_their_place(ids_type: pa.DataType) -> None:
    given = table_of([TEXTS[0], None, TEXTS[1], None, TEXTS[2]], ids_type=ids_type)
    given = pa.concat_tables([given.slice(1, 2), given.slice(0, 1), given.slice(3)])
    out = EmbedActor(FAKE)(given)
    assert out.column_names == ["id", "_reason", "_detail", "vector"]
    assert out.schema.metadata == {b"unit": b"u1"}
    assert out["id"].to_pylist() == ["r1", "r2", "r0", "r3", "r4"]
    assert out.schema.field("vector").type == pa.list_(pa.float32(), 64)
    wanted = Embedder(FAKE).embed_documents([TEXTS[1], TEXTS[0], TEXTS[2]])
    found = out["vector"].to_pylist()
    assert [i for i, vector in enumerate(found) if vector is None] == [0, 3]
    np.testing.assert_array_equal(np.array([found[1], found[2], found[4]], dtype=np.float32), wanted)


@pytest.mark.parametrize("texts", [[], [None, None]])
def test_nothing_to_embed(texts: list[None]) -> None:
    out = EmbedActor(FAKE)(table_of(texts))
    assert out["vector"].null_count == len(out) == len(texts)
    assert out.schema.field("vector").type == pa.list_(pa.float32(), 64)


def test_vectors_that_cannot_be_used_get_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    actor = EmbedActor(FAKE)
    honest = actor._embedder.embed

    def faulty(ids, offsets):
        vectors = honest(ids, offsets)
        if len(vectors) == 4:  # the rows, not the known text
            vectors[0, 3], vectors[1], vectors[2, 0] = np.nan, 0, np.inf
        return vectors

    monkeypatch.setattr(actor._embedder, "embed", faulty)
    out = actor(table_of([None, "a", "b", "c", "d"]))
    assert out["_reason"].to_pylist() == ["undecodable", "non_finite", "non_finite", "non_finite", None]
    assert [vector is None for vector in out["vector"].to_pylist()] == [True, True, True, True, False]
    assert out["_detail"][0].as_py() is None
    assert "not finite" in out["_detail"][1].as_py()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_a_replica_that_fails_on_a_known_text_is_broken_and_blames_no_row(monkeypatch, value) -> None:
    actor = EmbedActor(FAKE)
    honest = actor._embedder.embed

    def broken(ids, offsets):
        vectors = honest(ids, offsets)
        vectors[:1] = value
        return vectors

    monkeypatch.setattr(actor._embedder, "embed", broken)
    with pytest.raises(ReplicaBroken, match="1 of 3 vectors are not finite or all zero, and so is that of a known"):
        actor(table_of(["a", "b", "c"]))


def test_a_row_with_neither_ids_nor_reason_is_our_fault() -> None:
    given = table_of(["a", None])
    given = given.set_column(2, "_reason", pa.nulls(2, pa.string()))
    with pytest.raises(AssertionError, match="neither ids nor a reason"):
        EmbedActor(FAKE)(given)


def test_a_real_model() -> None:
    spec = ModelSpec("bundled", device="cpu")
    out = EmbedActor(pickle.loads(pickle.dumps(spec)))(table_of(["Paris", None, "a river"], spec))
    found = np.array(out["vector"].combine_chunks().flatten()).reshape(2, 384)
    np.testing.assert_allclose(found, Embedder(spec).embed_documents(["Paris", "a river"]), atol=1e-5)


def test_model_is_built_and_called_in_one_thread():
    """Engines build a replica in one thread and call it from others; the model must not notice."""
    threads = set()

    class Noting(Embedder):
        def __init__(self, spec):
            threads.add(threading.get_ident())
            super().__init__(spec)

        def embed(self, ids, offsets):
            threads.add(threading.get_ident())
            return super().embed(ids, offsets)

    actor = EmbedActor(ModelSpec("fake"), Noting)
    table = pa.table(
        {
            "_ids": pa.array([[1, 2]], pa.list_(pa.int32())),
            "_reason": pa.array([None], pa.string()),
            "_detail": pa.array([None], pa.string()),
        }
    )
    with ThreadPoolExecutor() as pool:
        list(pool.map(actor, [table] * 4))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
