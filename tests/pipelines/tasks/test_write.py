"""What is written is what the table can hold, and in pieces of bounded size."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.storage.retry import Backoff
from pipelines.tasks import write
from tests.support.jobs import job, rows, run, write_parquet
from tests.support.spoilt import spoil


@pytest.mark.parametrize(("beyond", "stored"), [(65_519.0, True), (65_520.0, False), (-1e6, False), (1e30, False)])
def test_what_is_infinite_as_float16_has_a_reason(tmp_path, monkeypatch, beyond, stored):
    """A number that float32 holds may be beyond float16, which rounds from 65,520 on to infinity."""
    from actors.embedder.embedder import Embedder

    def hand(vectors):
        if len(vectors) > 5:  # not the self-check
            vectors[3, 2] = beyond

    spoil(monkeypatch, Embedder, hand)
    write_parquet(tmp_path / "corpus", shards=1, rows=16)
    config = job(tmp_path, table={"vector_dtype": "float16"}, run={"rows_per_unit": 16})
    certificate = run(config)
    assert certificate.adds_up
    assert certificate.reasons == ({} if stored else {"non_finite": 1})
    found = rows(config)
    assert all(np.isfinite(row["vector"]).all() for row in found if row["vector"])
    assert [row["_reason"] is None for row in found] == [row["vector"] is not None for row in found]
    lacking = [row for row in found if row["_reason"]]
    assert all(row["_passage"] is None and "float16" in row["_detail"] for row in lacking)


class Kept:
    """A sink that keeps what it is given, and fails at first after it took it."""

    def __init__(self, schema: pa.Schema, failures: int = 0):
        self.schema, self.location, self.batches, self._failures = schema, "memory", [], failures

    def write(self, given: pa.RecordBatchReader) -> tuple[str, ...]:
        taken = list(given)
        if self._failures:
            self._failures -= 1
            raise OSError("503 Slow Down")
        self.batches += taken
        return ("fragment",)


def stored(passages: int, carried_bytes: int) -> write.Stored:
    """A few rows that carry a long value, each cut into many passages."""
    schema = pa.schema([pa.field("n", pa.int64()), pa.field("big", pa.string())])
    big = pa.table({"big": [letter * carried_bytes for letter in "abc"]})
    at = np.repeat(np.arange(3), passages)
    return write.Stored(pa.table({"n": np.arange(3 * passages), "_at": at}), big, schema)


def test_what_a_row_carries_is_joined_slice_by_slice():
    one = stored(passages=100, carried_bytes=1 << 20)
    assert one.bytes >= 300 << 20
    before = pa.total_allocated_bytes()
    seen = []
    for batch in one.batches():
        assert pa.total_allocated_bytes() - before < 3 * write.BATCH_BYTES, "300 MiB in all"
        seen += [(n, value[0], len(value)) for n, value in zip(*(column.to_pylist() for column in batch), strict=True)]
    assert seen == [(n, "abc"[n // 100], 1 << 20) for n in range(300)]


def test_a_write_that_is_tried_again_begins_at_the_first_row(monkeypatch):
    monkeypatch.setattr("pipelines.storage.retry.time.sleep", lambda seconds: None)
    one = stored(passages=10, carried_bytes=1 << 20)
    sink = Kept(one.schema, failures=2)
    backoff = Backoff("writing", "memory")
    assert backoff.run(lambda: sink.write(pa.RecordBatchReader.from_batches(sink.schema, one.batches()))) == (
        "fragment",
    )
    assert pa.Table.from_batches(sink.batches)["n"].to_pylist() == list(range(30))
