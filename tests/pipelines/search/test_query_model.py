"""The prompt of queries is put before each query, one, many or judged, by the table's own model."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from actors.embedder.embedder import Embedder
from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec
from pipelines.config import RunConfig
from pipelines.progress import Silent
from pipelines.search.bulk import BulkSearch, bulk_search
from pipelines.search.evaluation import evaluate as evaluation
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress
from tests.support.jobs import job, run, write_jsonl
from tests.support.rerank_peers import build_tiny

ANIMALS = {
    "cat": "A kitten sleeps on the warm window sill.",
    "car": "The mechanic changed the oil and the brake pads of the vehicle.",
    "moon": "Astronauts collected rocks from the lunar surface.",
}
QUERY = "a pet cat"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("prompted")
    write_jsonl(folder / "corpus" / "a.jsonl", [{"doc_id": id_, "text": text} for id_, text in ANIMALS.items()])
    model = {"weights": "bundled", "dtype": "float32", "prompt": "passage: ", "query_prompt": "query: "}
    found = job(folder, model=model, table={"text_column": "text"}, corpus={"columns": []})
    run(found)
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, float]:
    """The cosine of each text to the query, with their prompts."""
    embedder = Embedder(ModelSpec("bundled", dtype="float32"))
    vectors = embedder.embed_documents([f"query: {QUERY}", *(f"passage: {text}" for text in ANIMALS.values())])
    return dict(zip(ANIMALS, (vectors[1:] @ vectors[0]).tolist(), strict=True))


def address(config) -> TableAddress:
    return TableAddress(config.table.location, config.storage)


def test_one_query(config, expected) -> None:
    searcher = Searcher(address(config))
    found = {hit.id: hit.similarity for hit in searcher.search(QUERY, Query(limit=3))}
    assert found == pytest.approx(expected, abs=1e-5)
    bare = Embedder(ModelSpec("bundled", dtype="float32")).embed_documents([QUERY])
    np.testing.assert_allclose(searcher.embed_queries([QUERY], ""), bare, atol=1e-5)


def test_the_candidates_of_a_reranker_which_reads_the_query_alone(config, expected, tmp_path, monkeypatch) -> None:
    tiny = ModelSpec(str(build_tiny(tmp_path)), device="cpu", dtype="float32", threads=1)
    read, rank = [], Reranker.rank
    monkeypatch.setattr(Reranker, "rank", lambda self, query, *more: read.append(query) or rank(self, query, *more))
    hits = Searcher(address(config), tiny).search(QUERY, Query(limit=3))
    assert read == [QUERY]
    assert {hit.id: hit.similarity for hit in hits} == pytest.approx(expected, abs=1e-5)


def test_many_queries(config, expected, tmp_path: Path) -> None:
    queries = write_jsonl(tmp_path / "queries.jsonl", [{"id": "q", "text": QUERY}])
    asked = BulkSearch(address(config), str(queries), str(tmp_path / "out.parquet"), Query(limit=3), None)
    bulk_search(asked, RunConfig(engine="inline"), Silent())
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert {row["id"]: row["similarity"] for row in rows} == pytest.approx(expected, abs=1e-5)


def test_judged_queries(config, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tcat\t1\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}) + "\n")
    found, trial = [], evaluation.choices.Trial
    monkeypatch.setattr(evaluation.choices, "Trial", lambda given, *more: found.append(given) or trial(given, *more))
    evaluation.evaluate(config, evaluation.EvaluationRequest(tmp_path), Silent())
    wanted = Embedder(ModelSpec("bundled", dtype="float32")).embed_documents([f"query: {QUERY}"])
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
