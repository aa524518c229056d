"""The forecast, which `plan` prints: exact counts, and estimates that come true."""

import pytest

from pipelines.run.forecast import forecast
from tests.support.jobs import Said, dataset, job, run, stop_after, write_jsonl, write_parquet


def test_plan_before_during_and_after(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    before = forecast(config, Said()).to_dict()
    names = ("shards", "rows", "rows_to_embed", "units_to_embed", "stale_rows")
    assert [before[name] for name in names] == [3, 120, 120, 9, 0]
    written = [path.relative_to(tmp_path / "db").as_posix() for path in (tmp_path / "db").rglob("*") if path.is_file()]
    assert written == ["t.vectormill/shards.arrow"], "nothing but the count cache"
    stop_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    version = dataset(config).version
    assert [forecast(config, Said()).to_dict()[name] for name in names] == [3, 120, 80, 6, 0]
    assert dataset(config).version == version
    certificate = run(config)
    assert [forecast(config, Said()).to_dict()[name] for name in names] == [3, 120, 0, 0, 0]
    assert before["fingerprint"] == certificate.fingerprint
    assert before["tokens_estimate"] == pytest.approx(certificate.tokens, rel=0.2)
    assert before["vector_bytes_estimate"] == 120 * 64 * 4
    (tmp_path / "corpus" / "part-0.parquet").unlink()
    assert forecast(config, Said()).to_dict()["stale_rows"] == 40


def test_plan_estimates_passages_and_hours(tmp_path):
    long = " ".join(f"w{n}" for n in range(100))
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": str(n), "text": long, "n": n} for n in range(20)])
    chunking = {"max_tokens": 32, "overlap_tokens": 4}
    found = forecast(job(tmp_path, chunking=chunking, model={"weights": "bundled"}), Said())
    assert found.replica_hours >= 0
    fake = forecast(job(tmp_path, chunking=chunking), Said())
    certificate = run(job(tmp_path, chunking=chunking))
    assert fake.to_dict()["vectors_estimate"] == certificate.records == 80
    assert fake.replica_hours is None
