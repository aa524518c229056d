"""`vectormill evaluate`: what it measures, against the plainest way to compute it, and each way in which it is asked
wrongly."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import ClassVar

import lance
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from actors.reranker.reranker import Ranked
from pipelines.cli import app as cli
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, FingerprintMismatch, TableError
from pipelines.run.prepare import prepare
from pipelines.search.evaluation import choices, forms, measures, svg
from pipelines.search.evaluation.beir import read_collection
from pipelines.search.evaluation.choices import Choice
from pipelines.search.evaluation.evaluate import EvaluationRequest, evaluate
from pipelines.search.evaluation.measures import Bootstrap, Estimate
from pipelines.search.evaluation.nearest import Best
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress
from pipelines.table.table import LanceTable
from tests.support.jobs import Said, job, run, text_of, write_jsonl, write_parquet

RNG = np.random.default_rng(7)
JUDGED = {f"q{n}": {f"d{n}": 2, f"d{n + 1}": 1, f"d{n + 60}": 1} for n in range(0, 60, 3)}


def unit(count, dimensions, rng=RNG):
    return forms.cut(rng.normal(size=(count, dimensions)), dimensions)


def write_beir(folder, judged=JUDGED, texts=None, split="test"):
    """Query qN asks with the text of document dN."""
    texts = texts or {query: text_of(int(query[1:])) for query in judged}
    write_jsonl(folder / "queries.jsonl", [{"_id": query, "text": text} for query, text in texts.items()])
    (folder / "qrels").mkdir(exist_ok=True)
    lines = [f"{query}\t{document}\t{grade}" for query, grades in judged.items() for document, grade in grades.items()]
    (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return folder


def stage(found, name):
    return next(one for one in found["stages"] if one["stage"] == name)


def ndcg(found, name):
    return stage(found, name)["nDCG@10"]["mean"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The job of a table of 120 rows, and a collection for it."""
    folder = tmp_path_factory.mktemp("built")
    write_parquet(folder / "corpus")
    config = job(folder)
    run(config)
    return config, write_beir(folder / "beir")


@pytest.fixture(scope="module")
def found(built):
    return evaluate(built[0], EvaluationRequest(built[1]), Said())


# ---------------------------------------------------------------------- measures


def test_the_measures_are_the_text_books():
    judged = {"a": {"x": 3, "y": 1}, "b": {"z": 1}, "c": {"x": 1}}
    lists = [["u", "x", "v", "y"], [f"n{i}" for i in range(10)] + ["z"], []]
    values = measures.per_query(judged, lists)
    ideal = 3 + 1 / np.log2(3)
    assert values[0] == pytest.approx([(3 / np.log2(3) + 1 / np.log2(5)) / ideal, 1, 1 / 2])
    assert values[1] == pytest.approx([0, 1, 0]), "rank 11 counts for recall@100, not for MRR@10"
    assert values[2] == pytest.approx([0, 0, 0])


def test_the_order_of_a_list_is_judged_as_it_is():
    """trec_eval would order equal scores by id."""
    for order, want in (["a", "b"], 1), (["b", "a"], 0.5):
        assert measures.per_query({"q": {"a": 1}}, [order])[0, 2] == want


def test_bootstrap_intervals_are_those_of_the_mean():
    values = RNG.normal(0.4, 0.3, 400)
    found = Bootstrap(400, resamples=20_000).estimate(values)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found.mean == pytest.approx(values.mean())
    assert (found.mean - found.low, found.high - found.mean) == (pytest.approx(half, rel=0.05),) * 2
    assert Bootstrap(400).estimate(values) == Bootstrap(400).estimate(values), "seeded"


def test_differences_are_paired():
    """Two ways that differ by a constant differ surely, however much the queries do."""
    values = RNG.normal(0.4, 0.3, 50)
    found = Bootstrap(50).estimate((values + 0.02) - values)
    assert (found.low, found.high) == (pytest.approx(0.02), pytest.approx(0.02))


# ---------------------------------------------------------------------- forms


@pytest.mark.parametrize("dimensions", [32, 100])
def test_coarse_forms_find_what_their_definition_says(dimensions):
    documents, queries = unit(700, dimensions), unit(3, dimensions)
    signs = np.where(documents > 0, 1.0, -1.0)
    binary, beside = (form for form in forms.FORMS if form.coarse)
    for form, exact in (binary, queries @ signs.T), (beside, queries @ documents.astype(np.float16).T):
        best = Best(queries, 20, coarse=True)
        best.add(form.encode(documents, np.abs(documents).max(axis=0)), np.arange(700))
        hamming = ((queries[:, None, :] > 0) != (documents[None] > 0)).sum(axis=2)
        for query, found in enumerate(best.documents()):
            candidates = np.partition(hamming[query], 79)[79]
            assert all(hamming[query, one] <= candidates for one in found)
            nearer = np.flatnonzero(hamming[query] < candidates)
            right = sorted({*found, *nearer.tolist()}, key=lambda one: -exact[query, one])[:20]
            assert exact[query, found] == pytest.approx(exact[query, right], abs=1e-3)
    assert [form.bytes(dimensions) for form in (binary, beside)] == [
        -(-dimensions // 8),
        -(-dimensions // 8) + 2 * dimensions,
    ]


@pytest.mark.parametrize("name", ["int8, per dimension", "int8, per vector", "float16"])
def test_rounded_forms_are_near(name):
    documents, queries = unit(200, 64), unit(5, 64)
    form = next(form for form in forms.FORMS if form.name == name)
    codes = form.encode(documents, np.abs(documents).max(axis=0))
    found = codes.scores(queries)
    assert 0 < np.abs(found - queries @ documents.T).max() < 0.01
    assert form.bytes(64) == {"int8, per dimension": 64, "int8, per vector": 68, "float16": 128}[name]


def test_cutting_gives_unit_vectors_and_keeps_zeros():
    vectors = np.vstack([unit(4, 64), np.zeros((1, 64))])
    short = forms.cut(vectors, 16)
    assert np.linalg.norm(short, axis=1) == pytest.approx([1, 1, 1, 1, 0])
    assert short[0] == pytest.approx(vectors[0, :16] / np.linalg.norm(vectors[0, :16]))


# ---------------------------------------------------------------------- the best of many parts


@pytest.mark.parametrize("passages_each", [1, 3])
def test_parts_give_what_the_whole_gives(passages_each, monkeypatch):
    """Passages of a document lie in one part or in several; its score is the best one's."""
    monkeypatch.setattr("pipelines.search.evaluation.nearest.QUERIES_AT_ONCE", 3)
    passages, queries = unit(300, 24), unit(7, 24)
    documents = RNG.permutation(np.repeat(np.arange(300 // passages_each) * 7, passages_each))
    best = Best(queries, 10, coarse=False)
    for at in range(0, 300, 47):
        best.add(forms.Floats(passages[at : at + 47]), documents[at : at + 47])
    for query, found in enumerate(best.documents()):
        scores = {}
        for document, score in zip(documents.tolist(), queries[query] @ passages.T, strict=True):
            scores[document] = max(score, scores.get(document, -2))
        assert found == sorted(scores, key=scores.get, reverse=True)[:10]


def test_fewer_documents_than_asked_for():
    best = Best(unit(2, 8), 10, coarse=False)
    best.add(forms.Floats(unit(6, 8)), np.array([1, 1, 2, 2, 3, 3]))
    assert [sorted(found) for found in best.documents()] == [[1, 2, 3]] * 2


# ---------------------------------------------------------------------- choices


def choice(form, dimensions, mean, low, high=0.0, full=0.5):
    quality = {"nDCG@10": {"mean": full + mean, "low": 0.0, "high": 1.0}}
    form = next(one for one in forms.FORMS if one.name == form)
    return Choice(form, dimensions, quality, Estimate(mean, low, high), 1.0)


def test_no_choice_is_recommended_that_may_lose_more_than_allowed():
    marked = choices._marked(
        [
            choice("float32", 256, 0, 0),
            choice("float16", 256, -0.0001, -0.0005),
            choice("float16", 128, -0.004, -0.0099),
            choice("float16", 64, -0.002, -0.0101),  # its mean is better, but one cannot be sure
            choice("int8, per vector", 256, 0, 0),  # smaller than none here, but the store cannot search it
            choice("binary", 256, -0.009, -0.0099),
        ]
    )
    assert [one.recommended for one in marked] == [False, False, True, False, False, False]
    said = choices.advice(marked)
    assert "model.dimensions: 128, table.vector_dtype: float16: 4 times fewer bytes" in said
    assert "binary with 256 dimensions" in said
    assert "up to you" in said


def test_nothing_smaller_is_recommended_when_all_lose():
    marked = choices._marked([choice("float32", 64, 0, 0), choice("float16", 64, -0.02, -0.03)])
    assert marked[0].recommended
    assert choices.advice(marked).startswith("Keep the table as it is")


def test_efficient_is_what_nothing_smaller_beats():
    marked = choices._marked(
        [
            choice("float32", 256, 0, 0),
            choice("float16", 256, 0, 0),  # as good for fewer bytes
            choice("float32", 128, -0.1, -0.1),  # the same bytes, worse
            choice("float16", 128, -0.1, -0.1),
            choice("binary", 128, -0.3, -0.3),
        ]
    )
    assert [one.efficient for one in marked] == [False, True, False, True, True]


def test_sizes_are_below_the_tables_own():
    for dimensions, want in (1024, [1024, 768, 512, 256, 128, 64, 32]), (384, [384, 256, 128, 64, 32]), (32, [32]):
        trial = choices.Trial(unit(2, dimensions), "float32", unit(5, dimensions))
        assert list(dict.fromkeys(size for _, size in trial.ways)) == want


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


@pytest.fixture(scope="module")
def job_file(built):
    config, beir = built
    path = beir.parent / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return path


def call(*arguments):
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    return result


class Page(HTMLParser):
    """Notes tags that are not closed, and what would be loaded."""

    EMPTY = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_command_writes_the_page_and_the_numbers(job_file, built, tmp_path):
    out = tmp_path / "new" / "out"
    done = call("evaluate", job_file, "--beir", built[1], "--out", out, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((out / "evaluation.json").read_text())
    text = (out / "evaluation.html").read_text()
    page = Page(text)
    assert (page.open, page.loaded) == ([], [])
    assert "script" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("polyline") == 2
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(drawing)
        assert "nan" not in drawing


def test_the_terminal_shows_stages_choices_and_the_advice(job_file, built):
    done = call("evaluate", job_file, "--beir", built[1], "--quiet")
    assert done.exit_code == 0, done.output
    words = " ".join(done.stdout.split())
    assert "…" not in words, "80 columns are enough"
    for part in ("20 queries, 60 judgments; 120 vectors of 64", "exact", "no vector index", "recommended:", "rule:"):
        assert part in words


def test_names_cannot_break_the_page(built, found):
    from pipelines.search.evaluation import page

    bad = {**found, "table": "<b>&x", "notes": ["<script>alert(1)</script>"]}
    assert "script" not in Page(page.render(bad)).tags
    assert "&lt;b&gt;&amp;x" in page.render(bad)


def test_axes_have_round_numbers():
    assert svg.steps(0.213, 0.398) == pytest.approx([0.2, 0.25, 0.3, 0.35, 0.4])
    assert svg.steps(0.4, 0.4)[0] <= 0.4 < svg.steps(0.4, 0.4)[-1]
    assert svg.decades(3e6, 2e9) == pytest.approx([1e7, 1e8, 1e9]) or len(svg.decades(3e6, 2e9)) >= 4


# ---------------------------------------------------------------------- asked wrongly

QUERY = '{"_id": "q0", "text": "alpha"}'
HEADER = "query-id\tcorpus-id\tscore\n"
WRONG = {
    "no folder": ({}, "there is no folder"),
    "no files": ({"x": ""}, "lacks queries.jsonl and qrels/test.tsv"),
    "no queries": ({"qrels/test.tsv": HEADER}, "lacks queries.jsonl; a folder in BEIR layout"),
    "other split": (
        {"queries.jsonl": QUERY, "qrels/dev.tsv": HEADER},
        "lacks qrels/test.tsv; a folder in BEIR layout has queries.jsonl and qrels/SPLIT.tsv. The splits there are: "
        "dev (--split).",
    ),
    "two fields": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\t1\nq0 d1 1\n"}, "test.tsv, line 3: "),
    "no number": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\tyes\n"}, "test.tsv, line 2: "),
    "no id": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\t\t1\n"}, "test.tsv, line 2: "),
    "two grades": (
        {"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\t1\nq0\td0\t2\n"},
        "line 3: document 'd0' has grade 2 for query 'q0', and an earlier line gives it 1",
    ),
    "nothing judged": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER}, "holds no judgment"),
    "broken query": ({"queries.jsonl": QUERY + "\n{x", "qrels/test.tsv": "q0\td0\t1\n"}, "queries.jsonl, line 2: not"),
    "no text": ({"queries.jsonl": '{"_id": "q0"}', "qrels/test.tsv": "q0\td0\t1\n"}, "queries.jsonl, line 1: not"),
    "empty text": ({"queries.jsonl": '{"_id": "q0", "text": " "}', "qrels/test.tsv": "q0\td0\t1\n"}, "line 1: not"),
    "two texts": (
        {"queries.jsonl": QUERY + "\n" + QUERY.replace("alpha", "beta"), "qrels/test.tsv": "q0\td0\t1\n"},
        "line 2: query 'q0' is there twice",
    ),
    "other queries": (
        {"queries.jsonl": QUERY, "qrels/test.tsv": "q5\td0\t1\n"},
        "queries.jsonl has none of the 1 queries",
    ),
    "not UTF-8": ({"queries.jsonl": QUERY, "qrels/test.tsv": b"q0\t\xff\t1\n"}, "is not UTF-8 text"),
}


@pytest.mark.parametrize(("files", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_collection_is_refused_by_file_and_line(job_file, tmp_path, files, words):
    folder = tmp_path / "beir"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = call("evaluate", job_file, "--beir", folder)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert words in " ".join(done.stderr.split())


def test_a_collection_may_have_a_header_and_windows_lines(tmp_path):
    folder = write_beir(tmp_path / "beir", {"q1": {"d1": 1}})
    plain = read_collection(folder, "test")
    path = folder / "qrels" / "test.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_collection(folder, "test") == plain
    path.write_text("q1\td1\t1\n")
    assert read_collection(folder, "test") == plain


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
