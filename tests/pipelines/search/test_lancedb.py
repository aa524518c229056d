"""Our reranker and the table's own model through plain `lancedb`."""

import subprocess
import sys

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch

from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from pipelines.errors import VectormillError
from pipelines.search import lancedb as lancedb_plugins
from pipelines.search.lancedb import Qwen3Reranker, embed_queries_in_lancedb, forget_in_lancedb
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from tests.support.commands import call
from tests.support.jobs import address, run, write_jsonl
from tests.support.models import build as build_embedder
from tests.support.rerank_peers import build_tiny
from tests.support.searching import ANIMALS, MIXED, ids, table_of

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = build_tiny(tmp_path_factory.mktemp("tiny"))
    return Reranker(ModelSpec(str(folder), device="cpu", dtype="float32", threads=1))


def opened(config):
    return lancedb.connect(config.table.uri).open_table(config.table.name)


def test_the_reranker_orders_every_kind_of_search(mixed, model):
    table, searcher = opened(mixed), Searcher(address(mixed))
    query = "capital of China"
    vector = searcher.embed_queries([query])[0]
    scores = dict(zip(MIXED, model.score_pairs([(query, text) for text in MIXED.values()]).scores, strict=True))
    reranker = Qwen3Reranker(model)
    by_vector = table.search(vector).distance_type("cosine").limit(6)
    by_words = table.search(query, query_type="fts").limit(6)
    by_both = table.search(query_type="hybrid").vector(vector).text(query).limit(6)
    for search, options in [(by_vector, {"query_string": query}), (by_words, {}), (by_both, {})]:
        found = search.rerank(reranker, **options).to_arrow()
        names = found["id"].to_pylist()
        assert len(names) >= 2
        assert names == sorted(names, key=lambda name: -scores[name])
        np.testing.assert_allclose(found["_relevance_score"].to_pylist(), [scores[name] for name in names], atol=1e-6)
        assert found.schema.field("_relevance_score").type == pa.float32()
        assert not {"_distance", "_score"} & set(found.column_names)
    kept = by_both.rerank(Qwen3Reranker(model, return_score="all")).to_arrow()
    assert {"_distance", "_score", "_relevance_score"} <= set(kept.column_names)
    assert kept["id"].to_pylist() == names
    nothing = table.search(query, query_type="fts").where("n > 1000").rerank(reranker).to_arrow()
    assert nothing.num_rows == 0


def test_the_reranker_with_an_instruction_null_texts_and_other_columns(model):
    reranker = Qwen3Reranker(model, column="body", instruction="Find what refutes it")
    rows = pa.table({"body": ["rain", None, "The capital of China is Beijing."], "_distance": [0.1, 0.2, 0.3]})
    found = reranker.rerank_vector("capital", rows)
    pairs = [("capital", text) for text in rows["body"].to_pylist() if text is not None]
    expected = sorted(model.score_pairs(pairs, "Find what refutes it").scores.tolist(), reverse=True)
    assert found["_relevance_score"].to_pylist() == [*expected, None], "what has no text comes last"
    assert found["body"].to_pylist()[-1] is None
    with pytest.raises(VectormillError, match="no column 'text' to rerank by, only body, _distance: select it"):
        Qwen3Reranker(model).rerank_vector("capital", rows)
    with pytest.raises(ModelError, match="there is no such folder"):
        Qwen3Reranker(ModelSpec("./nowhere"))


def test_scores_that_are_equal_in_float32_keep_the_order_of_their_logits():
    class Certain:
        def score_pairs(self, pairs, instruction):
            logits = np.array([20.0, 30.0, 25.0, np.nan], np.float32)
            return type("Scores", (), {"logits": logits, "scores": np.where(np.isnan(logits), np.nan, 1.0)})

    rows = pa.table({"text": list("abcd")})
    assert Qwen3Reranker(Certain()).rerank_fts("q", rows)["text"].to_pylist() == list("bcad")


def test_lancedb_embeds_with_the_tables_own_model(tmp_path):
    qwen = str(build_embedder(tmp_path / "qwen3", "qwen3"))
    config = table_of(tmp_path, ANIMALS, model={"weights": qwen, "query_instruction": "Find animals"})
    embed_queries_in_lancedb(address(config))
    table, searcher = opened(config), Searcher(address(config))
    for text in ("a pet cat", "repairing an automobile"):
        found = table.search(text).distance_type("cosine").limit(3).to_list()
        hits = searcher.search(text, Query(limit=3))
        assert [row["id"] for row in found] == ids(hits)
        np.testing.assert_allclose([1 - row["_distance"] for row in found], [hit.similarity for hit in hits], atol=1e-6)
    function = table.embedding_functions["vector"].function
    assert function.ndims() == 64
    stored = searcher.table.handle.dataset.to_table(columns=["vector"], filter="id = 'cat'")["vector"].to_pylist()
    np.testing.assert_allclose(function.compute_source_embeddings([ANIMALS["cat"]]), stored, atol=1e-6)
    # vectormill's own commands go on as before
    write_jsonl(tmp_path / "corpus" / "b.jsonl", [{"doc_id": "dog", "text": "A puppy barks.", "n": 7}])
    assert run(config).adds_up
    assert call("optimize", config.table.location, "--quiet").exit_code == 0
    assert "dog" in [row["id"] for row in opened(config).search("a young dog").limit(9).to_list()]
    forget_in_lancedb(address(config))
    assert opened(config).embedding_functions == {}


def test_a_program_without_the_plugin_can_still_read_but_not_search_by_text(mixed):
    program = (
        "import lancedb, sys\n"
        "table = lancedb.connect(sys.argv[1]).open_table(sys.argv[2])\n"
        "row = table.search().limit(1).to_list()[0]\n"
        "assert table.search(row['vector']).limit(1).to_list()[0]['id'] == row['id']\n"
        "assert table.search('Beijing', query_type='fts').to_list()\n"
        "try: table.search('Beijing', query_type='vector').to_list()\n"
        "except KeyError as bad: print(bad)\n"
    )
    embed_queries_in_lancedb(address(mixed))
    arguments = [sys.executable, "-c", program, mixed.table.uri, mixed.table.name]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    finally:
        forget_in_lancedb(address(mixed))
    assert done.stdout == f"'{lancedb_plugins.REGISTERED_AS}'\n", "that is why it is opt-in"
