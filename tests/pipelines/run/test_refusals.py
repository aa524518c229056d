"""What a run refuses before it begins, naming the fields; and what may change from run to run."""

import lance
import pyarrow as pa
import pytest

from pipelines.errors import CorpusError, FingerprintMismatch, TableError, VectormillError
from pipelines.maintenance.verify import verify
from tests.support.jobs import Said, job, run, version, write_parquet


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("dimensions", {"model": {"dimensions": 32}}),
        ("prompt", {"model": {"prompt": "passage: "}}),
        ("max_tokens", {"model": {"max_tokens": 9}}),
        ("weights", {"model": {"weights": "bundled"}}),
        ("text", {"corpus": {"text": "{doc_id} {text}"}}),
        ("id", {"corpus": {"id": "n"}}),
        ("chunking", {"chunking": {"max_tokens": 16, "overlap_tokens": 2}}),
        ("vector_dtype", {"table": {"vector_dtype": "float16"}}),
    ],
)
def test_other_embedding_space_is_refused_with_the_fields(tmp_path, corpus, field, change):
    config = job(tmp_path)
    run(config)
    before = version(config)
    with pytest.raises(FingerprintMismatch) as bad:
        run(job(tmp_path, **change))
    assert field in bad.value.differences
    assert f"  {field}: table has" in str(bad.value)
    assert version(config) == before


def test_tuning_fields_are_free(tmp_path, corpus):
    run(job(tmp_path))
    other = {"rows_per_unit": 5, "token_budget": 7, "replicas": 3, "commit_every_seconds": 9, "commit_every_rows": 1}
    assert run(job(tmp_path, run=other)).adds_up


def test_other_columns_are_refused(tmp_path, corpus):
    run(job(tmp_path))
    with pytest.raises(TableError, match="other columns"):
        run(job(tmp_path, corpus={"columns": []}))


def test_columns_of_the_owner_are_let_through(tmp_path, corpus):
    """They stay, new rows have nulls there, and `verify` has no doubts."""
    config = job(tmp_path)
    run(config)
    lance.dataset(config.table.location).add_columns({"note": "concat('of ', id)", "seen": "cast(_row as double)"})
    assert run(config).adds_up
    write_parquet(tmp_path / "corpus", shards=1, first=1000)
    assert run(config).adds_up
    notes = lance.dataset(config.table.location).to_table(columns=["id", "note"]).to_pylist()
    assert [row["note"] for row in notes] == [f"of {row['id']}" for row in notes[:120]] + [None] * 40
    assert verify(config, Said(), sample=8, seed=1).ok


def test_a_column_of_the_owner_that_may_not_be_null_is_refused_with_what_helps(tmp_path, corpus):
    config = job(tmp_path)
    run(config)
    strict = pa.schema([pa.field("note", pa.string(), nullable=False)])
    made = lance.dataset(config.table.location)
    made.add_columns(
        lance.batch_udf(output_schema=strict)(
            lambda batch: pa.RecordBatch.from_arrays([pa.array(["x"] * batch.num_rows)], schema=strict)
        )
    )
    write_parquet(tmp_path / "corpus", shards=1, first=1000)
    with pytest.raises(TableError, match=r"note: string may not be null.*alter_columns"):
        run(config)
    lance.dataset(config.table.location).alter_columns({"path": "note", "nullable": True})
    assert run(config).adds_up


def test_chunks_longer_than_the_model_are_refused(tmp_path, corpus):
    with pytest.raises(VectormillError, match=r"chunking.max_tokens is 600 but the model takes"):
        run(job(tmp_path, chunking={"max_tokens": 600}))


def test_corpus_errors_come_before_any_work(tmp_path):
    (tmp_path / "corpus").mkdir()
    with pytest.raises(CorpusError):
        run(job(tmp_path))
    write_parquet(tmp_path / "corpus")
    with pytest.raises(CorpusError, match="doc_id"):
        run(job(tmp_path, corpus={"id": "docid"}))
    assert not (tmp_path / "db" / "t.lance").exists()
