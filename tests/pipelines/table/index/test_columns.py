"""Indexes of other columns: full text in several languages, and ids."""

import pytest

from pipelines.errors import TableError
from pipelines.maintenance.optimize import optimize
from pipelines.maintenance.status import status
from pipelines.table.files import TableAddress
from pipelines.table.index.vector import IndexWanted
from tests.support.indexes import add, clustered
from tests.support.jobs import Said, job, run, write_jsonl

TEXTS = {
    "zh": ("什么是量子计算？量子计算机使用量子比特。", "量子计算"),
    "zh 2": ("今天天气不错，适合出门散步。", "天气"),
    "ja": ("東京タワーは高さ333メートルの電波塔です。", "東京"),
    "ko": ("김치는 한국의 전통 음식 가운데 하나이다.", "음식"),
    "en": ("The capital of France is Paris.", "paris CAPITAL"),
    "de": ("Die Größe der Bäume überraschte Herrn Müller.", "größe"),
    "de 2": ("Straßen und Gässchen führen zum Fluss.", "STRASSEN"),
}


def said_with(address, text, column="text"):
    query = {"query": text, "columns": [column]}
    return address.open().to_table(columns=[column, "_score"], full_text_query=query)[column].to_pylist()


def test_full_text_in_several_languages(address):
    texts = [text for text, _ in TEXTS.values()]
    add(address, clustered(len(texts)), texts=texts)
    result = optimize(address, Said(), IndexWanted(full_text="auto")).to_dict()
    assert result["other_indexes"] == {"text": "built"}
    for language, (text, query) in TEXTS.items():
        assert said_with(address, query) == [text], language
    assert said_with(address, "muller") == said_with(address, "Müller") == [TEXTS["de"][0]]
    assert optimize(address, Said(), IndexWanted(full_text="text")).other_indexes == {"text": "kept"}
    add(address, clustered(1, seed=3), texts=["量子纠缠是一种现象"])
    assert optimize(address, Said()).other_indexes == {"text": "updated"}, "also without being asked again"
    assert said_with(address, "量子纠缠")[0] == "量子纠缠是一种现象"


def test_full_text_of_another_tokenizer_is_replaced(address):
    add(address, clustered(2), texts=["今天天气不错", "other"])
    address.open().create_scalar_index("text", "INVERTED", base_tokenizer="simple")
    assert said_with(address, "天气") == []
    assert optimize(address, Said(), IndexWanted(full_text="text")).other_indexes == {"text": "built"}
    assert said_with(address, "天气") == ["今天天气不错"]
    assert len(address.open().describe_indices()) == 1


def test_full_text_on_a_carried_column(tmp_path):
    rows = [{"doc_id": f"d{n}", "text": "x", "title": f"Title number {n}", "n": n} for n in range(5)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    config = job(tmp_path, corpus={"columns": ["title", "n"]})
    run(config)
    address = TableAddress(config.table.location, config.storage)
    built = optimize(address, Said(), IndexWanted(full_text="title"), config)
    assert built.other_indexes == {"title": "built"}
    assert said_with(address, "NUMBER 3", "title")[0] == "Title number 3"
    kept = optimize(address, Said(), IndexWanted(full_text="auto"))
    assert kept.other_indexes == {"title": "kept"}, "the only text"
    for column, words in [
        ("nosuch", "there is no column 'nosuch'; columns of text that it has: title"),
        ("n", "column 'n' is int64, not text that can be searched"),
        ("_reason", "column '_reason' is string, not text that can"),
    ]:
        with pytest.raises(TableError, match=words):
            optimize(address, Said(), IndexWanted(full_text=column))


def test_auto_takes_the_stored_text_whatever_its_name(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "a", "text": "a birch", "title": "Trees", "n": 1}])
    config = job(tmp_path, corpus={"columns": ["title"]}, table={"text_column": "passage"})
    run(config)
    address = TableAddress(config.table.location, config.storage)
    assert optimize(address, Said(), IndexWanted(full_text="auto")).other_indexes == {"passage": "built"}
    assert said_with(address, "birch", "passage") == ["a birch"]


def test_full_text_of_a_table_without_text(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": "a", "text": "x", "n": 1}])
    config = job(tmp_path)
    run(config)
    with pytest.raises(TableError, match=r"it has no column of text\. .*table\.text_column"):
        optimize(TableAddress(config.table.location, config.storage), Said(), IndexWanted(full_text="auto"), config)


def test_ids_of_a_large_table_are_indexed(address):
    add(address, clustered(1200))
    assert optimize(address, Said()).other_indexes == {"id": "built"}
    assert "id_idx" in status(address).to_dict()["indices"]
    plan = address.open().scanner(filter="id = '3-7'").explain_plan()
    assert "ScalarIndexQuery" in plan
    add(address, clustered(10))
    assert optimize(address, Said()).other_indexes == {"id": "updated"}
    assert optimize(address, Said()).other_indexes == {}
