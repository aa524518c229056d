"""Where the texts of hits come from."""

import lance
import pytest
import torch

from pipelines.errors import TableError
from pipelines.search.searcher import Searcher
from pipelines.table.schema import TEXT_MARK
from tests.support.jobs import address, job, run, write_jsonl
from tests.support.searching import texts_of

torch.set_num_threads(1)


def test_texts_are_made_again_from_carried_columns(tmp_path, tiny):
    records = [
        {"doc_id": "a", "title": "Gravity", "body": " ".join(f"alpha{n}" for n in range(30)), "n": 1},
        {"doc_id": "b", "title": None, "body": "量子计算 alpha 利用量子叠加", "n": 2},
        {"doc_id": "c", "title": "only", "body": None, "n": 3},
    ]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    corpus = {"text": "{doc_id}: {title}\n{body}", "columns": ["title", "body"]}
    made, kept = (
        job(
            tmp_path,
            corpus=corpus,
            chunking={"max_tokens": 8, "overlap_tokens": 2},
            table={"name": name, "text_column": column},
        )
        for name, column in [("made", None), ("kept", "passage")]
    )
    run(made)
    run(kept)
    found = texts_of(made)
    assert found == texts_of(kept)
    assert len(found) > 4
    assert found["a", 0].startswith("a: Gravity\nalpha0")
    assert None not in found.values()
    assert Searcher(address(made), tiny).search("alpha")[0].text in found.values()


def test_a_text_that_does_not_fit_its_span_is_none(tmp_path, tiny):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "x", "body": "alpha beta gamma", "n": 1}])
    config = job(tmp_path, corpus={"text": "body", "columns": ["body"]})
    run(config)
    assert texts_of(config) == {("x", 0): "alpha beta gamma"}
    lance.dataset(config.table.location).update({"body": "'alpha beta'"})
    assert texts_of(config) == {("x", 0): None}, "somebody changed the column since it was embedded"
    with pytest.raises(TableError, match="does not hold its texts, such as that of x"):
        Searcher(address(config), tiny).search("alpha")


def test_the_text_column_is_marked(mixed):
    assert lance.dataset(mixed.table.location).schema.field("text").metadata == TEXT_MARK
