"""`vectormill evaluate`: what it measures, against the plainest way to compute it, and each way in which it is asked
wrongly."""

import sys
from typing import ClassVar

import lance
import numpy as np
import pytest

from actors.reranker.reranker import Ranked
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, FingerprintMismatch, TableError
from pipelines.run.prepare import prepare
from pipelines.search.evaluation import measures
from pipelines.search.evaluation.beir import read_collection
from pipelines.search.evaluation.evaluate import EvaluationRequest, evaluate
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress
from pipelines.table.table import LanceTable
from tests.support.commands import call
from tests.support.evaluating import JUDGED, ndcg, stage, write_beir
from tests.support.jobs import Said, job, run, text_of, write_jsonl, write_parquet

# ---------------------------------------------------------------------- a whole evaluation


def test_the_exact_stage_is_the_stores_exact_search(built, found):
    config, beir = built
    searcher = Searcher(TableAddress(config.table.location, config.storage))
    collection = read_collection(beir, "test")
    vectors = searcher.embed_queries(list(collection.queries.values()))
    lists = [[hit.id for hit in searcher.nearest(vector, 100, exact=True)] for vector in vectors]
    plain = measures.per_query(collection.judged, lists).mean(axis=0)
    exact = stage(found, "exact")
    assert [exact[name]["mean"] for name in measures.MEASURES] == pytest.approx(plain, abs=1e-6)
    assert 0.3 < exact["nDCG@10"]["mean"] < 1
    assert exact["nDCG@10"]["low"] < exact["nDCG@10"]["mean"] < exact["nDCG@10"]["high"]
    assert [one["stage"] for one in found["stages"]] == ["exact"]
    assert found["index"] is None
    assert found["notes"] == []


def test_choices_are_measured_on_the_stored_vectors(built, found):
    """A line of the table equals the plain computation over vectors that are cut and rounded by hand."""
    config, beir = built
    rows = lance.dataset(config.table.location).to_table(columns=["id", "vector"])
    stored = np.array(rows["vector"].to_pylist(), np.float32)[:, :32].astype(np.float64)
    stored = (stored / np.linalg.norm(stored, axis=1, keepdims=True)).astype(np.float16).astype(np.float64)
    collection = read_collection(beir, "test")
    queries = Searcher(TableAddress(config.table.location, config.storage)).embed_queries(
        list(collection.queries.values())
    )[:, :32]
    ids = rows["id"].to_pylist()
    lists = [[ids[at] for at in np.argsort(-scores, kind="stable")] for scores in queries @ stored.T]
    plain = measures.per_query(collection.judged, lists)[:, 0].mean()
    line = next(one for one in found["choices"] if (one["dimensions"], one["form"]) == (32, "float16"))
    assert line["nDCG@10"]["mean"] == pytest.approx(plain, abs=2e-3)
    assert line["bytes_per_million_rows"] == 64_000_000
    assert [one["dimensions"] for one in found["choices"]] == [64] * 6 + [32] * 6
    assert found["choices"][0]["nDCG@10_change"] == {"mean": 0, "low": 0, "high": 0}
    assert sum(one["recommended"] for one in found["choices"]) == 1
    assert "promised nowhere" in found["cutting"]


def test_small_parts_change_nothing(built, found, monkeypatch):
    monkeypatch.setattr("pipelines.search.evaluation.evaluate.SCORES_AT_ONCE", 1)
    monkeypatch.setattr("pipelines.search.evaluation.evaluate.LEAST_ROWS", 17)
    again = evaluate(built[0], EvaluationRequest(built[1]), Said())
    assert [one["nDCG@10"] for one in again["choices"]] == [one["nDCG@10"] for one in found["choices"]]


def test_half_precision_tables_have_no_float32(tmp_path):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, table={"vector_dtype": "float16"})
    run(config)
    found = evaluate(config, EvaluationRequest(write_beir(tmp_path / "beir")), Said())
    assert found["choices"][0]["form"] == "float16"
    assert "float32" not in {one["form"] for one in found["choices"]}


def test_a_documents_score_is_its_best_passages(tmp_path):
    """The needle is in the last passage of a long document; short documents of other words are many."""
    fillers = [" ".join(f"w{n}x{word}" for word in range(60)) for n in range(5)]
    needles = {f"q{n}": f"needle{n} haystack{n} thread{n}" for n in range(5)}
    records = [{"doc_id": f"long{n}", "text": f"{fillers[n]} {needles[f'q{n}']}", "n": n} for n in range(5)]
    records += [{"doc_id": f"short{n}", "text": f"w{n} w{n + 1} pin{n}", "n": n} for n in range(30)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path, chunking={"max_tokens": 16, "overlap_tokens": 2}, table={"text_column": "text"})
    run(config)
    beir = write_beir(tmp_path / "beir", {query: {f"long{query[1:]}": 1} for query in needles}, needles)
    found = evaluate(config, EvaluationRequest(beir), Said())
    assert found["vectors"] > 35
    assert ndcg(found, "exact") == 1
    assert stage(found, "exact")["recall@100"]["mean"] == 1
    lance.dataset(config.table.location).create_index(
        "vector", "IVF_FLAT", num_partitions=1, metric="cosine"
    )  # all of it is looked at
    found = evaluate(config, EvaluationRequest(beir), Said())
    assert ndcg(found, "index") == 1
    assert stage(found, "index")["recall@10_of_exact"] >= 0.9


def test_an_index_that_misses_shows(tmp_path, monkeypatch):
    """Here it misses the best of each query: nothing else may take its place in the numbers."""
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    run(config)
    lance.dataset(config.table.location).create_index("vector", "IVF_FLAT", num_partitions=4, metric="cosine")
    nearest = Searcher.nearest

    def without_the_best(self, vector, limit, where=None, exact=False):
        return nearest(self, vector, limit, where, exact)[0 if exact else 1 :]

    monkeypatch.setattr(Searcher, "nearest", without_the_best)
    found = evaluate(config, EvaluationRequest(write_beir(tmp_path / "beir")), Said())
    assert found["index"] == {"name": "vector_idx", "type": "IVF_FLAT", "rows": 120}
    assert stage(found, "exact")["recall@10_of_exact"] == 1
    assert stage(found, "index")["recall@10_of_exact"] == pytest.approx(0.9)
    assert (stage(found, "exact")["MRR@10"]["mean"], ndcg(found, "exact") - ndcg(found, "index") > 0.1) == (1, True)


class Backwards:
    """A reranker to which the last is the best; notes what it is asked."""

    asked: ClassVar[list] = []

    def __init__(self, spec):
        assert spec.weights == "some/weights"

    def rank(self, query, documents, instruction=None, top=None):
        self.asked.append((query, len(documents), instruction))
        return [Ranked(at, at / 100, float(at)) for at in range(len(documents))[::-1]][:top]


def test_rerank_orders_the_candidates_and_leaves_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr("actors.reranker.reranker.Reranker", Backwards)
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, table={"text_column": "text"})
    run(config)
    said = Said()
    request = EvaluationRequest(
        write_beir(tmp_path / "beir"), rerank="some/weights", candidates=5, out=tmp_path / "out"
    )
    found = evaluate(config, request, said)
    assert [one["stage"] for one in found["stages"]] == ["exact", "exact + rerank"]
    assert Backwards.asked == [(text_of(int(query[1:])), 5, None) for query in JUDGED]
    plain, reranked = stage(found, "exact"), stage(found, "exact + rerank")
    assert plain["MRR@10"]["mean"] == 1, "a document is nearest to its own text"
    assert 0.2 <= reranked["MRR@10"]["mean"] < 1, "it is fifth now"
    assert reranked["recall@100"] == plain["recall@100"]
    assert reranked["recall@10_of_exact"] == 1
    assert "reranking 20 x 5 passages" in said.text
    assert "Reranker: some/weights" in (tmp_path / "out" / "evaluation.html").read_text()


def test_a_table_without_texts_is_not_reranked(built):
    with pytest.raises(TableError, match="text"):
        evaluate(built[0], EvaluationRequest(built[1], rerank="some/weights"), Said())


def test_what_is_not_there_is_counted_and_said(tmp_path):
    records = [{"doc_id": f"d{n}", "text": text_of(n) if n != 4 else " ", "n": n} for n in range(40)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    config = job(tmp_path)
    run(config)
    judged = {"q1": {"d1": 1, "gone": 1}, "q4": {"d4": 1}, "q7": {"d7": 1}, "q9": {"d9": 1}}
    texts = {query: text_of(int(query[1:])) for query in ("q1", "q4", "q7")}
    found = evaluate(config, EvaluationRequest(write_beir(tmp_path / "beir", judged, texts)), Said())
    missing, bad, without = found["notes"]
    assert missing.startswith("1 of 4 judged documents are not in the table (such as 'gone')")
    assert bad.startswith("1 of 4 judged documents are in the table without a vector (such as 'd4')")
    assert without.startswith("1 judged queries have no text in queries.jsonl (such as 'q9')")
    assert found["queries"] == 3
    assert stage(found, "exact")["recall@100"]["mean"] == pytest.approx((0.5 + 0 + 1) / 3), "they count as not found"


# ---------------------------------------------------------------------- the command


def test_the_terminal_shows_stages_choices_and_the_advice(job_file, built):
    done = call("evaluate", job_file, "--beir", built[1], "--quiet")
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "…" not in words, "80 columns are enough"
    for part in ("20 queries, 60 judgments; 120 vectors of 64", "exact", "no vector index", "recommended:", "rule:"):
        assert part in words


# ---------------------------------------------------------------------- asked wrongly


def test_another_collection_is_refused(built, tmp_path):
    beir = write_beir(tmp_path / "beir", {"q1": {"x1": 1, "x2": 0}})
    with pytest.raises(TableError, match=r"none of the 2 judged documents \('x1', 'x2', \.\.\.\) has a vector"):
        evaluate(built[0], EvaluationRequest(beir), Said())


def test_a_table_of_another_model_is_refused(built, tmp_path):
    config, beir = built
    other = config.model_copy(update={"model": config.model.model_copy(update={"dimensions": 16})})
    with pytest.raises(FingerprintMismatch, match="dimensions: table has 64, this job has 16"):
        evaluate(other, EvaluationRequest(beir), Said())
    other = config.model_copy(update={"corpus": config.corpus.model_copy(update={"text": "{text} {n}"})})
    with pytest.raises(FingerprintMismatch, match="text: table has"):
        evaluate(other, EvaluationRequest(beir), Said())


def test_a_table_that_is_missing_or_empty_is_refused(built, tmp_path):
    config, beir = built
    missing = config.model_copy(update={"table": config.table.model_copy(update={"name": "nope"})})
    with pytest.raises(TableError, match="there is no table at"):
        evaluate(missing, EvaluationRequest(beir), Said())
    empty = config.model_copy(update={"table": config.table.model_copy(update={"name": "empty"})})
    prepared = prepare(empty, InlineExecutor())
    LanceTable.open_or_create(prepared.address, prepared.schema)
    with pytest.raises(TableError, match="is empty"):
        evaluate(empty, EvaluationRequest(beir), Said())


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(built, tmp_path):
    (tmp_path / "file").write_text("")
    said = Said()
    with pytest.raises(ConfigError, match="--out: cannot make the folder"):
        evaluate(built[0], EvaluationRequest(built[1], out=tmp_path / "file" / "out"), said)
    assert said.lines == []


def test_without_pytrec_eval_the_message_says_how_to_get_it(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    with pytest.raises(ConfigError, match=r"pip install 'vectormill\[evaluate\]'"):
        evaluate(built[0], EvaluationRequest(built[1]), Said())
