"""What a run refuses before it begins, naming the fields; and what may change from run to run."""

import pytest

from pipelines.errors import CorpusError, FingerprintMismatch, TableError, VectormillError
from tests.support.jobs import job, run, version, write_parquet


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
