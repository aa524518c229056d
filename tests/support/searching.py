"""Small tables to search, and what was found in them."""

import lance

from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from tests.support.jobs import address, job, run, write_jsonl

ANIMALS = {
    "cat": "A kitten sleeps on the warm window sill.",
    "car": "The mechanic changed the oil and the brake pads of the vehicle.",
    "bread": "Knead the dough, let it rise for an hour and bake it.",
    "moon": "Astronauts collected rocks from the lunar surface.",
}
MIXED = {
    "beijing": "The capital of China is Beijing.",
    "gravity": "Gravity is a force that attracts two bodies towards each other.",
    "quantum": "量子计算利用量子叠加和纠缠来处理信息。",
    "weather": "Погода сегодня хорошая, и река спокойна.",
    "long": "capital of the word " * 40,
    "short": "rain",
}


def table_of(tmp_path, texts, **sections):
    """A table of these texts by id, with their place in the column n; and one row without a text."""
    records = [{"doc_id": k, "text": v, "n": n} for n, (k, v) in enumerate(texts.items())]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, {"doc_id": "nothing", "text": None, "n": len(records)}])
    config = job(tmp_path, **sections)
    run(config)
    return config


def with_words(config, column="text"):
    """Give the table a full-text index."""
    lance.dataset(config.table.location).create_scalar_index(
        column, "INVERTED", base_tokenizer="icu", stem=False, remove_stop_words=False
    )
    return config


def ids(hits):
    return [hit.id for hit in hits]


def texts_of(config):
    return {(hit.id, hit.chunk): hit.text for hit in Searcher(address(config)).search("alpha", Query(limit=100))}
