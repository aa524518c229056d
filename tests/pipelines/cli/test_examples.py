"""The worked examples of the announcement, with the models at hand."""

import re
from dataclasses import replace

import pytest
import torch

from actors.checks.published import Golden, Published
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.qwen_ids import DOCUMENTS, QUERIES
from pipelines.cli import examples
from pipelines.search.searcher import Searcher
from tests.support.rerank_peers import build_tiny

torch.set_num_threads(1)
BUNDLED = ModelSpec("bundled")


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    """Over the table of the examples, by the bundled model and a random reranker."""
    folder = build_tiny(tmp_path_factory.mktemp("reranker"))
    table = examples.make_table(tmp_path_factory.mktemp("table"), BUNDLED)
    return Searcher(table, ModelSpec(str(folder), device="cpu", dtype="float32", threads=1))


@pytest.fixture
def quick(searcher, monkeypatch):
    """The command with what is loaded already."""
    monkeypatch.setattr(examples, "make_table", lambda folder, spec: None)
    monkeypatch.setattr(examples, "Searcher", lambda table, judge: searcher)


def test_the_bundled_model_answers_in_english(searcher):
    for query, document in zip(QUERIES, DOCUMENTS, strict=True):
        first, second = searcher.nearest(searcher.embed_queries([query])[0], 2, "example = 'instructed'")
        assert [first.text, second.text] == sorted(DOCUMENTS, key=lambda text: text != document)
        assert first.similarity > second.similarity + 0.3


def test_what_the_bundled_model_makes_of_chinese(searcher):
    """It was trained on English: it tells quantum computing from cooking, but not a phone from the weather."""
    last = {}
    for example in examples.EXAMPLES[1:]:
        vector = searcher.embed_queries(example.queries)[0]
        last[example.name] = searcher.nearest(vector, 3, f"example = '{example.name}'")[-1].text == example.unrelated[0]
    assert last == {"synonyms": False, "titles": True}


def test_its_published_numbers_come_out_of_the_table(searcher):
    known = examples.published(BUNDLED, "embed")
    results = examples.compare_cosines(searcher, known)
    assert len(results) == len(known.goldens) == 7
    assert all(result.ok for result in results)


def test_the_command_in_two_stages(quick, searcher, capsys):
    judge = str(searcher.reranker._prompt._path.parent)
    assert examples.main(["--rerank", judge]) == 0
    shown = capsys.readouterr().out
    for example in examples.EXAMPLES:
        assert example.promise in shown
        assert all(text in shown for text in (*example.queries, *(text[:40] for text in example.candidates)))
    assert "was number 2" in shown
    assert shown.count("  so it is\n") + shown.count("  not so, by these weights\n") == 4
    assert shown.count("  ok    cosine ") == 7
    assert "no numbers were published for these weights (to rerank)" in shown
    assert "FAIL" not in shown


def test_a_missed_number_is_an_exit_code(quick, monkeypatch, capsys):
    known = examples.published(BUNDLED, "embed")
    first, *rest = known.goldens
    wrong = replace(known, goldens=(replace(first, expected=first.expected + 0.3), *rest))
    monkeypatch.setattr(examples, "published", lambda spec, task: wrong)
    assert examples.main([]) == 1
    line = r"  FAIL  cosine 0\.9660, here 0\.66\d\d in (float32|bfloat16): The weather is lovely today\."
    assert re.search(line, capsys.readouterr().out)


def test_numbers_published_for_a_reranker_are_compared_too(quick, searcher, monkeypatch, capsys):
    logit = float(searcher.reranker.score_pairs([(QUERIES[0], DOCUMENTS[0])]).logits[0])
    goldens = [Golden("logit", QUERIES[0], DOCUMENTS[0], value, "here") for value in (logit, logit + 0.1)]
    for golden, code, mark in zip(goldens, (0, 1), ("ok  ", "FAIL"), strict=True):
        known = {"embed": None, "rerank": Published("Org/Judge", "rerank", (1, 1, 1, 1), (golden,))}
        monkeypatch.setattr(examples, "published", lambda spec, task, known=known: known[task])
        assert examples.main(["--rerank", str(searcher.reranker._prompt._path.parent)]) == code
        assert f"published for Org/Judge:\n  {mark}  logit {golden.expected:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "./nowhere"], "there is no such folder"),
        (["--weights", "fake", "--rerank", "./nowhere"], "there is no such folder"),
    ],
)
def test_weights_that_are_not_there(arguments, words):
    with pytest.raises(ModelError, match=words):
        examples.main(arguments)
