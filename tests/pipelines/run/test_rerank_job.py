"""Bulk reranking: each pair scored once, whatever happens, and proven so. The fake reranker, real Lance, real files."""

import json
import re
from functools import partial
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from actors.replica.pairs import encoded_of
from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec
from pipelines.corpus.corpus import Corpus
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, CorpusError, FingerprintMismatch, TableError
from pipelines.job_file import parse_job
from pipelines.maintenance.verify import verify
from pipelines.run.certificate import differences
from pipelines.run.forecast import forecast
from pipelines.run.prepare import prepare
from pipelines.table.digests import with_digests
from pipelines.tasks.rerank import TokenisePairs, one_a_candidate
from tests.support.bulk_jobs import pairs, records_of, rerank_job, rewritten, vectormill_killed_at
from tests.support.commands import call, refused
from tests.support.jobs import Said, job, run, write_jsonl, write_parquet
from tests.support.spoilt import spoil

SAMPLE = "sample scored again"
TWICE, WRITTEN = "each record once", "records as they were written"
SCORES = "scores finite and those of their logits"
WRITTEN = "records as they were written"


@pytest.fixture
def corpus(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", pairs())
    return tmp_path / "corpus"


@pytest.fixture(scope="module")
def reranker():
    return Reranker(ModelSpec("fake"))


def doubts(config):
    result = verify(config, Said(), 1000)
    assert result.ok == all(check.ok for check in result.checks)
    return {check.name: check.found for check in result.checks if not check.ok}


# ---------------------------------------------------------------------- scores


def test_every_pair_once_with_its_score(tmp_path, corpus, reranker):
    config = rerank_job(tmp_path, table={"text_column": "passage"})
    certificate = run(config)
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows, certificate.records) == (120, 120, 120)
    table = records_of(config.table.location)
    assert [r["id"] for r in table] == [f"p{n}" for n in range(120)]
    want = reranker.score_pairs([(p["query"], p["document"]) for p in pairs()])
    assert [r["logit"] for r in table] == want.logits.tolist(), "bit for bit"
    assert [r["score"] for r in table] == want.scores.tolist()
    assert all(0 < r["score"] < 1 for r in table)
    assert [r["passage"] for r in table] == [p["document"] for p in pairs()]
    assert [r["n"] for r in table] == list(range(120))
    assert len({round(r["logit"], 3) for r in table}) > 50, "they tell pairs apart"
    assert certificate.tokens == sum(r["_tokens"] for r in table) > 0


def test_a_list_of_candidates_is_scored_as_its_pairs(tmp_path, corpus):
    """Parquet, a record a candidate, numbered."""
    alone = rerank_job(tmp_path)
    run(alone)
    several = [pairs()[at : at + 5] for at in range(0, 120, 5)]
    rows = [{"q": s[0]["query"], "passages": [p["document"] for p in s], "id": f"q{n}"} for n, s in enumerate(several)]
    (tmp_path / "lists").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists" / "a.parquet")
    lists = {"uri": str(tmp_path / "lists"), "id": "id", "columns": []}
    config = rerank_job(
        tmp_path, corpus={**lists, "query": "{q}", "document": None, "candidates": "passages"}, table={"name": "lists"}
    )
    certificate = run(config)
    assert (certificate.rows, certificate.records, certificate.adds_up) == (24, 120, True)
    found = records_of(config.table.location)
    assert [(r["id"], r["_chunk"]) for r in found] == [(f"q{n}", c) for n in range(24) for c in range(5)]
    assert [r["logit"] for r in found] == [r["logit"] for r in records_of(alone.table.location)]
    assert doubts(config) == {}


def test_texts_may_be_templates_and_come_from_csv(tmp_path, reranker):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.csv").write_text(
        "pair_id,q,lang,title,body\n1,alpha,en,Beta,gamma alpha\n2,b,de,Eta,iota\n"
    )
    texts = {"query": "{q} ({lang})", "document": "{title}\n{body}", "columns": ["title"]}
    config = rerank_job(tmp_path, corpus=texts)
    assert run(config).adds_up
    want = reranker.score_pairs([("alpha (en)", "Beta\ngamma alpha"), ("b (de)", "Eta\niota")])
    assert [r["logit"] for r in records_of(config.table.location)] == want.logits.tolist()


def test_an_instruction_and_a_length_change_the_scores_and_the_fingerprint(tmp_path, corpus, reranker):
    config = rerank_job(tmp_path, model={"instruction": "find what mentions alpha", "max_tokens": 16})
    certificate = run(config)
    table = records_of(config.table.location)
    own = Reranker(ModelSpec("fake", max_tokens=16))
    texts = [(p["query"], p["document"]) for p in pairs()]
    assert [r["logit"] for r in table] == own.score_pairs(texts, "find what mentions alpha").logits.tolist()
    assert [r["logit"] for r in table] != reranker.score_pairs(texts).logits.tolist()
    assert certificate.truncated == sum(r["_truncated"] for r in table) > 0
    for field, other in {"instruction": {"instruction": "x"}, "max_tokens": {"max_tokens": 17}}.items():
        changed = rerank_job(tmp_path, model={"instruction": "find what mentions alpha", "max_tokens": 16, **other})
        with pytest.raises(FingerprintMismatch, match=rf"other scores(?s:.*)\n  {field}: table has"):
            run(changed)
    with pytest.raises(FingerprintMismatch, match=r"document: table has 'document', this job has '\{document\}'"):
        run(rerank_job(tmp_path, corpus={"document": "{document}"}, model=config.model.model_dump()))


def test_the_head_of_a_query_travels_once_for_all_its_pairs(tmp_path, corpus):
    config = rerank_job(tmp_path)
    prepared = prepare(config, InlineExecutor())
    unit = next(iter(prepared.corpus.read([next(iter(units_of(prepared)))], prepared.carried)))
    rows, tokens, _ = TokenisePairs(prepared.spec, None, None)(unit)
    assert (len(rows), rows["_head"].null_count) == (15, 12), "15 pairs of 3 queries"
    assert {"_query", "_document"}.isdisjoint(rows.column_names), "ids travel, not texts"
    encoded = encoded_of(rows, np.ones(15, bool))
    assert encoded.query_of.tolist() == [n // 5 for n in range(15)]
    whole = np.diff(encoded.heads_offsets)[encoded.query_of] + np.diff(encoded.tails_offsets)
    assert tokens == whole.sum()


def units_of(prepared):
    from pipelines.units import cut

    return cut(prepared.shards[0], 16)


# ---------------------------------------------------------------------- bad rows

BAD = [
    ({"pair_id": "q", "query": None, "document": "d", "n": 1}, "no_query"),
    ({"pair_id": "blank", "query": " \n", "document": "d", "n": 2}, "no_query"),
    ({"pair_id": "d", "query": "q", "document": None, "n": 3}, "no_document"),
    ({"pair_id": "empty", "query": "q", "document": "", "n": 4}, "no_document"),
    ({"pair_id": "both", "query": "", "document": None, "n": 5}, "no_query"),
    ({"pair_id": "number", "query": 7, "document": "d", "n": 6}, "not_a_string"),
    ({"pair_id": None, "query": "q", "document": "d", "n": 7}, "no_id"),
    ({"pair_id": "q", "query": "q", "document": "d", "n": 8}, None),
    (b"{broken\n", "undecodable"),
    ({"pair_id": "column", "query": "q", "document": "d", "n": "ten"}, "bad_column"),
    ({"pair_id": "good", "query": "alpha", "document": "alpha", "n": 11}, None),
]


def test_each_kind_of_bad_row_keeps_its_place_with_a_reason(tmp_path):
    write_jsonl(tmp_path / "corpus" / "0.jsonl", [{"pair_id": "x", "query": "q", "document": "d", "n": 0}] * 2)
    write_jsonl(tmp_path / "corpus" / "bad.jsonl", [row for row, _ in BAD])
    config = rerank_job(tmp_path, run={"max_bad_rows": 100})
    certificate = run(config)
    assert certificate.adds_up
    assert certificate.bad_rows == 9
    found = [r for r in records_of(config.table.location) if r["id"] != "x" and not r["id"].startswith("0.jsonl")]
    assert [r["_reason"] for r in found] == [reason for _, reason in BAD]
    for r in found:
        assert (r["logit"] is None) == (r["score"] is None) == (r["_reason"] is not None)
        assert (r["_detail"] or "").startswith("bad.jsonl row " if r["_reason"] else "")
    assert doubts(config) == {}


CANDIDATES = [
    (["a b", "c"], [None, None]),
    ([], ["no_document"]),
    (None, ["no_document"]),
    (["a", "", None, " "], [None, "no_document", "no_document", "no_document"]),
    (["a", 5], ["not_a_string"]),
    ("a", ["not_a_string"]),
]


def test_bad_candidates_keep_their_numbers(tmp_path):
    rows = [{"pair_id": f"p{n}", "query": "a", "passages": list_, "n": n} for n, (list_, _) in enumerate(CANDIDATES)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    config = rerank_job(tmp_path, corpus={"document": None, "candidates": "passages"})
    certificate = run(config)
    found = records_of(config.table.location)
    assert [(r["_row"], r["_chunk"], r["_reason"]) for r in found] == [
        (row, number, reason) for row, (_, reasons) in enumerate(CANDIDATES) for number, reason in enumerate(reasons)
    ]
    assert (certificate.rows, certificate.bad_rows, certificate.reasons) == (
        6,
        5,
        {"no_document": 5, "not_a_string": 2},
    )
    assert certificate.adds_up
    assert "p3 candidate 2: the document is null" in [r["_detail"] for r in found if r["id"] == "p3"][2]
    assert doubts(config) == {}
    with pytest.raises(Exception, match=r"5 rows have no score, more than run.max_bad_rows \(0.5\)"):
        run(rerank_job(tmp_path, corpus={"document": None, "candidates": "passages"}, run={"max_bad_rows": 0.5}))


def test_one_a_candidate_of_rows_without_any():
    rows = pa.table(
        {
            "id": ["a"],
            "_query": pa.nulls(1, pa.string()),
            "_document": pa.nulls(1, pa.list_(pa.string())),
            "_reason": ["no_query"],
            "_detail": ["a row 0: no"],
        }
    )
    assert one_a_candidate(rows)["_chunk"].to_pylist() == [0]
    assert one_a_candidate(rows.slice(0, 0)).num_rows == 0


def test_a_logit_that_is_not_finite_is_recorded(tmp_path, corpus, monkeypatch):
    def hand(logits):
        if len(logits) > 1:  # not the known pair
            logits[0] = np.nan

    spoil(monkeypatch, Reranker, hand)
    certificate = run(rerank_job(tmp_path))
    assert (certificate.adds_up, certificate.reasons) == (True, {"non_finite": 8}), "one in each of eight units"


def test_a_replica_that_gives_no_number_at_all_is_broken(tmp_path, corpus, monkeypatch):
    spoil(monkeypatch, Reranker, lambda logits: logits.fill(np.nan))
    with pytest.raises(Exception, match="neither is that of a known pair: this replica's device or memory is broken"):
        run(rerank_job(tmp_path))


# ---------------------------------------------------------------------- exactly once


def test_a_second_run_does_nothing_and_new_rows_are_the_only_work(tmp_path, corpus):
    config = rerank_job(tmp_path)
    run(config)
    before = lance.dataset(config.table.location).version
    assert run(config).adds_up
    assert lance.dataset(config.table.location).version == before, "not even a fence"
    write_jsonl(corpus / "b.jsonl", [{**pair, "pair_id": f"b{n}"} for n, pair in enumerate(pairs(10))])
    said = Said()
    assert run(config, display=said).rows == 130
    assert "8 of 9 units are in the table, 1 to go" in said.text


@pytest.mark.parametrize(("seam", "nth"), [("after write", 4), ("after commit", 3)])
def test_killed_at(seam, nth, tmp_path, corpus):
    undisturbed = rerank_job(tmp_path, table={"name": "undisturbed"})
    document = run(undisturbed).to_dict()
    config = rerank_job(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    killed = vectormill_killed_at(seam, nth, tmp_path, "rerank", tmp_path / "job.yaml", "--quiet")
    assert killed.returncode == -9, killed.stderr
    said = Said()
    certificate = run(config, display=said)
    assert certificate.adds_up
    assert "of 8 units are in the table" in said.text, "what was committed is not scored again"
    assert records_of(config.table.location) == records_of(undisturbed.table.location)
    assert list(differences(certificate.to_dict(), document)) == [], "every count, id and bit of a score"


def test_ray_gives_the_same_table(tmp_path, corpus, executor):
    inline = rerank_job(tmp_path, table={"name": "inline"})
    document = run(inline).to_dict()
    config = rerank_job(tmp_path, run={"engine": "ray"})
    certificate = run(config, executor)
    assert list(differences(certificate.to_dict(), document)) == []
    assert records_of(config.table.location) == records_of(inline.table.location)


# ---------------------------------------------------------------------- verify


def swap(records):
    records[3]["logit"], records[4]["logit"] = records[4]["logit"], records[3]["logit"]
    records[3]["score"], records[4]["score"] = records[4]["score"], records[3]["score"]


def lose_last(records):
    del records[4]


def set_score(records):
    records[5]["score"] = 0.5


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (swap, {SAMPLE: "2 are not the scores of their pairs"}),
        (set_score, {SCORES: "1 wrong"}),
        (lose_last, {TWICE: "1 rows lack a passage", SAMPLE: "4 are of rows with more or fewer candidates"}),
        (
            lambda records: records[0].update(n=5),
            {WRITTEN: "1 records hold another", SAMPLE: "1 have another id or other columns"},
        ),
        (lambda records: records[0].update(logit=None), {SCORES: "1 wrong", SAMPLE: "1 are not the scores"}),
        (
            lambda records: records[0].update(logit=None, score=None, _reason="no_document"),
            {"bad rows are bad": "1 have none in the corpus"},
        ),
    ],
)
def test_verify_finds_what_was_changed(change, found, tmp_path):
    """With digests that agree: each is found without them."""
    rows = [
        {
            "pair_id": f"p{n}",
            "query": pairs()[n * 5]["query"],
            "passages": [p["document"] for p in pairs()[n * 5 :][:5]],
            "n": n,
        }
        for n in range(4)
    ]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    config = rerank_job(tmp_path, corpus={"document": None, "candidates": "passages"})
    run(config)
    assert doubts(config) == {}
    rewritten(config.table.location, change, partial(with_digests, results=("score", "logit")))
    seen = doubts(config)
    assert set(seen) == set(found)
    assert all(words in seen[name] for name, words in found.items()), seen


def test_the_digests_cover_the_scores(tmp_path, corpus):
    config = rerank_job(tmp_path)
    certificate = run(config)

    def nudge(records):
        records[7]["logit"] = float(np.nextafter(np.float32(records[7]["logit"]), np.float32(9)))

    rewritten(config.table.location, nudge)
    result = verify(config, Said(), 10)
    assert "1 records hold another id" in next(check.found for check in result.checks if check.name == WRITTEN)
    assert result.certificate.pair_digest != certificate.pair_digest
    rows = {"id": ["a"], "_chunk": pa.array([0], pa.int32()), "_reason": pa.nulls(1, pa.string())}
    scores = [{"score": 0.5, "logit": 0.0}, {"score": 0.25, "logit": 0.0}, {"score": 0.5, "logit": 1.0}]
    tables = [pa.table({**rows, **{k: pa.array([v], pa.float32()) for k, v in s.items()}}) for s in scores]
    assert len({with_digests(t, ("score", "logit"))["_digest"][0].as_py() for t in tables}) == 3


def test_the_real_model_scores_as_the_plain_reference(tmp_path, qwen_tokenizers):
    from actors.reranker.reference import RerankReference
    from tests.support.rerank_peers import build  # transformers: seconds that no other test here needs

    weights = build(tmp_path / "weights", qwen_tokenizers["reranker"], num_hidden_layers=2, hidden_size=32)
    texts = [
        ("What is the capital of China?", "The capital of China is Beijing."),
        ("What is the capital of China?", "Gravity is a force that attracts two bodies towards each other."),
        ("什么是量子计算?", "量子计算利用量子叠加和纠缠来处理信息。"),
        ("什么是量子计算?", "<|im_end|> rain"),  # which the model card's code would take for the prompt's own
        ("gravity " * 200, "Погода сегодня хорошая"),  # of which it would read no document
    ]
    rows = [{"pair_id": f"{n}", "query": q, "document": d, "n": n} for n, (q, d) in enumerate(texts)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    model = {"weights": str(weights), "dtype": "float32", "max_tokens": 256}
    config = rerank_job(tmp_path, model=model, run={"device": "cpu"})
    assert run(config).embedded_rows == 5
    found = records_of(config.table.location)
    assert [r["_truncated"] for r in found] == [False] * 4 + [True]
    reference = RerankReference(ModelSpec(str(weights), dtype="float32", max_tokens=256, device="cpu"))
    logits = reference.logits(texts)
    assert np.ptp(logits) > 0.1, "the weights tell pairs apart"
    np.testing.assert_allclose([r["logit"] for r in found], logits, atol=1e-4)
    np.testing.assert_allclose([r["score"] for r in found], 1 / (1 + np.exp(-logits)), atol=1e-4)


# ---------------------------------------------------------------------- the commands, and what is refused


def write_job(path, config, **changes):
    data = config.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump({**data, **changes}))
    return str(path)


def test_the_commands(tmp_path, corpus):
    file = write_job(tmp_path / "job.yaml", rerank_job(tmp_path))
    planned = json.loads(call("plan", file, "--json").stdout)
    assert (planned["task"], planned["scores_estimate"], planned["rows_to_embed"]) == ("rerank", 120, 120)
    assert "about 120 (960 bytes)" in call("plan", file).stdout
    done = call("rerank", file, "--json")
    assert (done.exit_code, json.loads(done.stdout)["embedded_rows"]) == (0, 120)
    status = json.loads(call("status", file, "--json").stdout)
    assert (status["task"], status["records"], status["model"]["weights_name"]) == ("rerank", 120, "fake")
    assert "scores" in call("status", file).stdout
    shown = call("verify", file)
    assert shown.exit_code == 0
    assert re.search(r"= scored +120", shown.stdout)
    assert re.search(r"scores +120", call("rerank", file).stdout)
    assert call("optimize", file).exit_code == 0
    message = refused(2, "run it with `vectormill rerank`", "embed", file)
    assert "this job has task: rerank" in message
    refused(2, "holds the results of task: rerank; this needs a table of task: embed", "search", file, "text")


def test_the_job_on_the_page_is_valid():
    page = (Path(__file__).parents[3] / "docs" / "bulk.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert parse_job(yaml.safe_load(block)).task == "rerank"


def test_an_embed_job_is_refused_and_so_is_its_table(tmp_path, corpus):
    write_parquet(tmp_path / "texts", shards=1)
    embedded = job(tmp_path, corpus={"uri": str(tmp_path / "texts")}, table={"name": "scores"})
    run(embedded)
    refused(2, "run it with `vectormill embed`", "rerank", write_job(tmp_path / "embed.yaml", embedded))
    with pytest.raises(TableError, match="holds the results of task: embed, and this job has task: rerank"):
        run(rerank_job(tmp_path))
    with pytest.raises(TableError, match="holds the results of task: embed, and this job has task: rerank"):
        forecast(rerank_job(tmp_path), Said())


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"corpus": {"candidates": "passages"}}, "corpus.document is one document a row, corpus.candidates a list"),
        ({"corpus": {"document": None}}, "needs corpus.document (a column or a template), or corpus.candidates"),
        ({"corpus": {"query": None}}, "needs corpus.query"),
        ({"corpus": {"query": "{a!r}"}}, "plain column names"),
        ({"corpus": {"text": "body"}}, "corpus.text is for task: embed"),
        ({"chunking": {"max_tokens": 128}}, "chunking is for task: embed"),
        ({"model": {"dimensions": 64}}, "model.dimensions is for task: embed"),
        ({"model": {"query_instruction": "x"}}, "model.query_instruction is for task: embed"),
        ({"table": {"vector_dtype": "float16"}}, "table.vector_dtype is for task: embed"),
        ({"corpus": {"columns": ["score"]}}, "cannot name ['score']: these are the table's own"),
        ({"table": {"text_column": "logit"}}, "cannot name ['logit']"),
        ({"task": "embed"}, "corpus.document, corpus.query is for task: rerank; this job has task: embed"),
        ({"task": "sort"}, "task: Input should be 'embed' or 'rerank'"),
    ],
)
def test_jobs_that_do_not_fit_their_task(sections, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        rerank_job(tmp_path, **sections)
    assert words in str(caught.value)


def test_an_instruction_is_for_rerankers(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.instruction is for task: rerank"):
        job(tmp_path, model={"instruction": "x"})


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_candidates_that_are_no_lists(kind, tmp_path):
    (tmp_path / "corpus").mkdir()
    rows = [{"pair_id": "a", "query": "q", "passages": "one text", "n": 1}]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "corpus" / "a.parquet")
    elif kind == "jsonl":
        write_jsonl(tmp_path / "corpus" / "a.jsonl", rows)
    else:
        (tmp_path / "corpus" / "a.csv").write_text("pair_id,query,passages,n\na,q,one text,1\n")
    with pytest.raises(CorpusError, match=r"the candidates column 'passages' .*give corpus.document"):
        run(rerank_job(tmp_path, corpus={"document": None, "candidates": "passages"}))


def test_columns_that_are_not_there(tmp_path, corpus):
    for field in ("query", "document", "candidates"):
        names = {"document": None, "candidates": "docs"} if field == "candidates" else {field: "docs"}
        with pytest.raises(CorpusError, match=rf"has no column 'docs' \(the {field} column\)"):
            run(rerank_job(tmp_path, corpus=names))


def test_weights_of_an_embedder(tmp_path, corpus):
    file = write_job(tmp_path / "job.yaml", rerank_job(tmp_path, model={"weights": "bundled"}))
    refused(2, "as a reranker only Qwen3-Reranker is supported", "rerank", file)


def test_lists_of_every_arrow_kind(tmp_path):
    (tmp_path / "corpus").mkdir()
    kinds = [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.string_view()),
    ]
    for n, kind in enumerate(kinds):
        table = pa.table({"pair_id": [f"p{n}"], "query": ["a"], "passages": pa.array([["a", "b"]], kind), "n": [n]})
        with pa.ipc.new_file(tmp_path / "corpus" / f"{n}.arrow", table.schema) as writer:
            writer.write_table(table)
    config = rerank_job(tmp_path, corpus={"document": None, "candidates": "passages"})
    corpus = Corpus(config.corpus, config.storage)
    assert len(corpus.list()) == 4
    assert run(config).records == 8
