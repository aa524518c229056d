"""Shards that went and came with the same rows are named before they are embedded again."""

import lance
import pyarrow as pa

from pipelines.run.exchange import Exchange
from pipelines.run.forecast import forecast
from tests.support.jobs import Said, job, run, text_of, write_jsonl, write_parquet


def test_a_compacted_lance_corpus(tmp_path):
    corpus = tmp_path / "corpus.lance"
    for first in range(0, 120, 40):
        numbers = list(range(first, first + 40))
        part = pa.table({"doc_id": [f"d{n}" for n in numbers], "text": [text_of(n) for n in numbers], "n": numbers})
        lance.write_dataset(part, str(corpus), mode="append" if first else "create")
    config = job(tmp_path, corpus={"uri": str(corpus)})
    assert run(config).exchange is None
    lance.dataset(str(corpus)).optimize.compact_files()
    found = Exchange(went=3, went_rows=120, came=1, came_rows=120, same_files=0)
    planned = forecast(config, Said())
    assert planned.exchange == found
    assert planned.to_dict()["exchange"]["went"] == 3
    said = Said()
    certificate = run(config, display=said)
    assert certificate.to_dict()["exchange"] == found.to_dict()
    assert "3 shard(s) with 120 rows went and 1 came with as many rows; so it is when a Lance dataset" in said.text
    assert run(config).exchange is None, "that is over"


def test_renamed_files_are_known_by_their_content(tmp_path):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    run(config)
    (tmp_path / "corpus" / "part-0.parquet").rename(tmp_path / "corpus" / "renamed.parquet")
    write_parquet(tmp_path / "corpus", shards=1, rows=7, first=500)
    planned = forecast(config, Said())
    assert planned.exchange == Exchange(went=1, went_rows=40, came=2, came_rows=47, same_files=1)
    assert "1 of them hold what one that went held, under another path" in str(planned.exchange)


def test_other_shards_in_place_of_old_ones_are_nothing_to_tell(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "a", "text": "alpha", "n": 1}])
    config = job(tmp_path)
    run(config)
    (tmp_path / "corpus" / "a.jsonl").unlink()
    write_jsonl(tmp_path / "corpus" / "b.jsonl", [{"doc_id": "b", "text": "beta", "n": 1}] * 2)
    assert forecast(config, Said()).exchange is None
    assert run(config).exchange is None
