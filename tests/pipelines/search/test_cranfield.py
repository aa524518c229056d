"""Real text and the real model: the table must find what the model finds, exactly and through the index, and a table
on S3 through Ray must hold the vectors of the one that was made here.

The first 128 tokens of the first 500 documents are embedded once for all tests, with the judgments that are about them;
with CRANFIELD_DOCUMENTS=1400 the whole collection is, in the model's 256 tokens, which takes minutes."""

import json
import os
from pathlib import Path

import lance
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from actors.embedder.embedder import Embedder
from actors.spec import ModelSpec
from pipelines.cli import app as cli
from pipelines.search.evaluation import forms
from pipelines.search.evaluation.evaluate import EvaluationRequest, evaluate
from pipelines.table.files import TableAddress
from pipelines.table.index import columns
from tests.support.jobs import Said, job, run

DATA = Path(__file__).parents[4] / "shared" / "data" / "cranfield"
DOCUMENTS = int(os.environ.get("CRANFIELD_DOCUMENTS", "500"))
# By sentence-transformers 6.2.0, all-MiniLM-L6-v2, title + " " + text, exact cosine search, pytrec_eval.
REFERENCE = {
    500: {"nDCG@10": 0.4512, "recall@100": 0.8724},
    1400: {"nDCG@10": 0.3998, "recall@100": 0.7724},
}[DOCUMENTS]
QUERIES, JUDGMENTS, EMPTY = {500: (140, 581, 1), 1400: (225, 1837, 2)}[DOCUMENTS]
TOKENS = {500: 128, 1400: 256}[DOCUMENTS]
S3_DOCUMENTS = 64

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="the Cranfield collection is not beside the project"),
    pytest.mark.timeout(1200),  # minutes where the cores are not free
]


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """A folder with the documents, the queries that one of them is relevant to, and the judgments about them."""
    folder = tmp_path_factory.mktemp("collection")
    lines = (DATA / "corpus.jsonl").read_text().splitlines(keepends=True)[:DOCUMENTS]
    documents = {json.loads(line)["_id"] for line in lines}
    head, *judged = [line.split("\t") for line in (DATA / "qrels" / "test.tsv").read_text().splitlines()]
    judged = [line for line in judged if line[1] in documents]
    answered = {query for query, _, grade in judged if int(grade) > 0}
    (folder / "corpus.jsonl").write_text("".join(lines))
    (folder / "queries.jsonl").write_text((DATA / "queries.jsonl").read_text())
    (folder / "qrels").mkdir()
    kept = [head, *(line for line in judged if line[0] in answered)]
    (folder / "qrels" / "test.tsv").write_text("".join("\t".join(line) + "\n" for line in kept))
    return folder


def cranfield_job(folder, uri, **sections):
    corpus = {"uri": uri, "id": "_id", "text": "{title} {text}", "columns": []}
    return job(
        folder,
        corpus=corpus,
        # A CPU with bfloat16 would not choose float32.
        model={"weights": "bundled", "dtype": "float32", "max_tokens": TOKENS},
        run={"rows_per_unit": 256, "commit_every_seconds": 10, **sections.pop("run", {})},
        **sections,
    )


def vectors(config):
    """By document id."""
    dataset = lance.dataset(
        config.table.location, storage_options=TableAddress(config.table.location, config.storage).options
    )
    rows = dataset.to_table(columns=["id", "vector"], filter="vector IS NOT NULL")
    return dict(zip(rows["id"].to_pylist(), np.array(rows["vector"].to_pylist(), np.float32), strict=True))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, collection):
    """The job of a table of the collection, and the certificate of the run."""
    config = cranfield_job(tmp_path_factory.mktemp("cranfield"), str(collection / "corpus.jsonl"))
    return config, run(config)


def line_of(found, dimensions, form):
    return next(one for one in found["choices"] if (one["dimensions"], one["form"]) == (dimensions, form))


def test_exact_search_finds_what_the_model_finds(embedded, collection):
    config, certificate = embedded
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows) == (DOCUMENTS, DOCUMENTS - EMPTY)
    assert certificate.reasons == {"empty_text": EMPTY}
    found = evaluate(config, EvaluationRequest(collection), Said())
    assert (found["queries"], found["judgments"], found["vectors"]) == (QUERIES, JUDGMENTS, DOCUMENTS - EMPTY)
    exact = found["stages"][0]
    for name, value in REFERENCE.items():
        assert abs(exact[name]["mean"] - value) <= 0.002
        assert exact[name]["low"] < value < exact[name]["high"]
    full, half = line_of(found, 384, "float32"), line_of(found, 384, "float16")
    assert full["nDCG@10"] == exact["nDCG@10"]
    assert abs(half["nDCG@10"]["mean"] - full["nDCG@10"]["mean"]) < 0.002
    small = [line_of(found, size, "float32")["nDCG@10"]["mean"] for size in (384, 256, 128, 64, 32)]
    assert small == sorted(small, reverse=True)
    taken = next(one for one in found["choices"] if one["recommended"])
    assert taken["nDCG@10_change"]["low"] >= -0.01
    assert taken["bytes_per_million_rows"] < full["bytes_per_million_rows"]


def test_a_cut_vector_is_what_the_job_would_store(embedded):
    texts = {}
    for line in (DATA / "corpus.jsonl").read_text().splitlines()[:8]:
        document = json.loads(line)
        texts[document["_id"]] = f"{document['title']} {document['text']}"
    stored = vectors(embedded[0])
    whole = np.stack([stored[name] for name in texts])
    made = Embedder(
        ModelSpec("bundled", dimensions=64, max_tokens=TOKENS, device="cpu", dtype="float32")
    ).embed_documents(list(texts.values()))
    assert np.abs(forms.cut(whole, 64) - made).max() < 1e-5


def test_the_index_keeps_it(embedded, collection, monkeypatch, tmp_path):
    """By the commands, as a user calls them."""
    config, _ = embedded
    monkeypatch.setattr(columns, "INDEX_FROM_ROWS", 400)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    optimized = ["optimize", str(file), "--min-recall", "0.98"]
    for arguments in optimized, ["evaluate", str(file), "--beir", str(collection), "--out", str(tmp_path)]:
        done = CliRunner().invoke(cli.app, [*arguments, "--json", "--quiet"])
        assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    exact, index = found["stages"]
    assert (exact["stage"], index["stage"]) == ("exact", "index")
    assert found["index"]["rows"] >= DOCUMENTS - EMPTY
    assert abs(exact["nDCG@10"]["mean"] - REFERENCE["nDCG@10"]) <= 0.002
    assert index["nDCG@10"]["mean"] >= 0.99 * exact["nDCG@10"]["mean"]
    assert index["recall@10_of_exact"] >= 0.95
    assert (tmp_path / "evaluation.html").stat().st_size > 10_000


def test_a_table_on_s3_through_ray_holds_the_same(embedded, tmp_path, executor, s3_endpoint):
    import s3fs

    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": s3_endpoint})
    files.makedirs("cranfield", exist_ok=True)
    lines = (DATA / "corpus.jsonl").read_bytes().splitlines(keepends=True)[:S3_DOCUMENTS]
    for shard in range(3):
        files.pipe(f"cranfield/corpus/part {shard}.jsonl", b"".join(lines[shard::3]))
    config = cranfield_job(
        tmp_path,
        "s3://cranfield/corpus/",
        table={"uri": "s3://cranfield/tables", "name": "c"},
        storage={"endpoint_url": s3_endpoint},
        run={"engine": "ray", "rows_per_unit": 16},
    )
    certificate = run(config, executor)
    assert certificate.adds_up
    assert certificate.rows == S3_DOCUMENTS
    here, there = vectors(embedded[0]), vectors(config)
    assert len(there) == certificate.embedded_rows
    assert max(float(np.abs(here[name] - vector).max()) for name, vector in there.items()) < 1e-5
