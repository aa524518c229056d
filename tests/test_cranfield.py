"""Real text and the real model: the table must find what the model finds, exactly and through the index, and a table
on S3 through Ray must hold the vectors of the one that was made here.

The collection is embedded once for all tests."""

import json
from pathlib import Path

import lance
import numpy as np
import pytest
import yaml
from jobs import Said, job, run
from typer.testing import CliRunner

from actors.embedder import Embedder
from actors.spec import ModelSpec
from pipelines import cli, maintain
from pipelines.evaluate import Request, evaluate
from pipelines.evaluation import forms
from pipelines.lance_files import TableAddress

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "cranfield"
# sentence-transformers 6.2.0, all-MiniLM-L6-v2, title + " " + text, exact cosine search, pytrec_eval
REFERENCE = {"nDCG@10": 0.3998, "recall@100": 0.7724}
S3_DOCUMENTS = 64

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason="the Cranfield collection is not beside the project"),
    pytest.mark.timeout(1200),  # two minutes on two cores that are free, which they are not
]


def cranfield_job(folder, **sections):
    corpus = {"uri": str(DATA / "corpus.jsonl"), "id": "_id", "text": "{title} {text}", "columns": []}
    return job(
        folder,
        corpus={**corpus, **sections.pop("corpus", {})},
        model={"weights": "bundled"},
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
def embedded(tmp_path_factory):
    """The job of a table of the collection, and the certificate of the run."""
    config = cranfield_job(tmp_path_factory.mktemp("cranfield"))
    return config, run(config)


def line_of(found, dimensions, form):
    return next(one for one in found["choices"] if (one["dimensions"], one["form"]) == (dimensions, form))


def test_exact_search_finds_what_the_model_finds(embedded):
    config, certificate = embedded
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows) == (1400, 1398)
    assert certificate.reasons == {"empty_text": 2}
    found = evaluate(config, Request(DATA), Said())
    assert (found["queries"], found["judgments"], found["vectors"]) == (225, 1837, 1398)
    exact = found["stages"][0]
    for name, value in REFERENCE.items():
        assert abs(exact[name]["mean"] - value) <= 0.002
        assert exact[name]["low"] < value < exact[name]["high"]
    full, half = line_of(found, 384, "float32"), line_of(found, 384, "float16")
    assert full["nDCG@10"] == exact["nDCG@10"]
    assert abs(half["nDCG@10"]["mean"] - full["nDCG@10"]["mean"]) < 0.001
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
    made = Embedder(ModelSpec("bundled", dimensions=64, device="cpu")).embed_documents(list(texts.values()))
    assert np.abs(forms.cut(whole, 64) - made).max() < 1e-5


def test_the_index_keeps_it(embedded, monkeypatch, tmp_path):
    """By the commands, as a user calls them."""
    config, _ = embedded
    monkeypatch.setattr(maintain, "INDEX_FROM_ROWS", 1000)
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    optimized = ["optimize", str(file), "--min-recall", "0.98"]
    for arguments in optimized, ["evaluate", str(file), "--beir", str(DATA), "--out", str(tmp_path)]:
        done = CliRunner().invoke(cli.app, [*arguments, "--json", "--quiet"])
        assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    exact, index = found["stages"]
    assert (exact["stage"], index["stage"]) == ("exact", "index")
    assert found["index"]["rows"] >= 1398
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
        corpus={"uri": "s3://cranfield/corpus/"},
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
