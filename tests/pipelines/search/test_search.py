"""The command that searches, and the programs in its page."""

import re
from pathlib import Path

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.search.query import Query
from tests.support.commands import call, object_of, refused, write_job
from tests.support.jobs import job, run, write_jsonl
from tests.support.searching import ids, texts_of

torch.set_num_threads(1)


# ---------------------------------------------------------------------- the command


def test_the_command_reranks(mixed, tiny):
    search = ("search", mixed.table.location, "capital of China", "--rerank", tiny.weights)
    code, found = object_of(*search, "--mode", "hybrid", "-k", "3")
    assert code == 0
    assert (found["mode"], found["reranker"], len(found["hits"])) == ("hybrid", tiny.weights, 3)
    assert {"rank", "first_rank", "relevance", "similarity", "chunk", "start", "end", "text"} <= found["hits"][0].keys()
    shown = call(*search, "-k", "2").stdout
    best = object_of(*search, "-k", "2")[1]["hits"][0]
    origin = f"similarity {best['similarity']:.3f}, was number {best['first_rank']}"
    assert shown.splitlines()[1] == f"  {best['relevance']:.3f}  {best['id']}   {origin}"
    assert f"text: {best['text'][:20]}" in shown


def test_a_passage_is_shown_once_and_short_columns_beside_it(tmp_path):
    body = " ".join(f"alpha{n}" for n in range(40))
    record = {"doc_id": "x", "title": "alpha0", "body": body}
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [record])
    corpus = {"text": "{title}\n{body}", "columns": ["title", "body"]}
    config = job(tmp_path, corpus=corpus, chunking={"max_tokens": 16, "overlap_tokens": 2})
    run(config)
    shown = call("search", config.table.location, "alpha0 alpha39", "-k", "9").stdout
    assert shown.count("text: ") == shown.count("title: alpha0\n") == len(texts_of(config)) > 2
    assert "body: " not in shown
    assert "passage 0, characters 0 to" in shown


def test_what_the_command_refuses(tmp_path, config, mixed, tiny):
    job_file = write_job(tmp_path / "job.yaml", config)
    search = ("search", job_file, "alpha")
    refused(2, "5 hits cannot be chosen from 4 candidates", *search, "--mode", "hybrid", "--candidates", "4")
    refused(2, "5 hits cannot be chosen from 4 candidates", *search, "--rerank", "nowhere", "--candidates", "4")
    wrong = call(*search, "--mode", "both")
    assert (wrong.exit_code, "'both' is not one of 'vector', 'text', 'hybrid'" in wrong.stderr) == (2, True)
    refused(2, "has no full-text index", *search, "--mode", "text")
    refused(2, "does not hold its texts, and a reranker reads them: embed into", *search, "--rerank", tiny.weights)
    held = ("search", mixed.table.location, "alpha")
    refused(2, "there is no such folder", *held, "--rerank", f"{tmp_path}/nowhere")
    refused(2, "as a reranker only Qwen3-Reranker is supported", *held, "--rerank", "bundled")
    refused(2, "No field named nosuch", *held, "--mode", "hybrid", "--where", "nosuch = 1")
    with pytest.raises(ConfigError, match="limit is 0, it must be at least 1"):
        Query(limit=0)
    with pytest.raises(ConfigError, match="there is no search mode 'both'; there are vector, text, hybrid"):
        Query(mode="both")


# ---------------------------------------------------------------------- the page


def test_the_programs_in_the_page_run(tmp_path, tiny, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [{"name": n, "module": n.split(".")[0], "text": f"{n} can compress a file"} for n in ("zlib.x", "bz2.y")]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", records)
    corpus = {"id": "name", "columns": ["module"]}
    run(job(tmp_path, corpus=corpus, table={"uri": "demo/lancedb", "name": "stdlib", "text_column": "text"}))
    page = (Path(__file__).parents[3] / "docs" / "search.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ends = []
    for program in programs:
        names = {}
        exec(program.replace("Qwen/Qwen3-Reranker-0.6B", tiny.weights), names)
        ends.append(names)
    assert ids(ends[0]["best"]) == ["zlib.x"]
    assert sorted(ends[1]["found"]["id"].to_pylist()) == ["bz2.y", "zlib.x"]
