"""Real text, the real model, Ray, local disk and S3: exact search over the table must find what the model finds."""

import json
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from jobs import job, run

from pipelines.lance_files import TableAddress
from pipelines.search import Query, Searcher

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "cranfield"
REFERENCE_NDCG = 0.3998  # sentence-transformers 6.2.0, all-MiniLM-L6-v2, title + " " + text, exact cosine search

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the Cranfield collection is not beside the project")


def cranfield_job(tmp_path, **sections):
    corpus = {"uri": str(DATA / "corpus.jsonl"), "id": "_id", "text": "{title} {text}", "columns": []}
    return job(
        tmp_path,
        corpus={**corpus, **sections.pop("corpus", {})},
        model={"weights": "bundled"},
        run={"engine": "ray", "rows_per_unit": 256, "commit_every_seconds": 10},
        **sections,
    )


def ndcg_at_10(config):
    """Mean nDCG@10 of exact search over all queries."""
    address = TableAddress(config.table.location, config.storage)
    rows = address.open().to_table(columns=["id", "vector"], filter="vector IS NOT NULL")
    vectors = np.array(rows["vector"].to_pylist(), np.float32)
    queries = [json.loads(line) for line in (DATA / "queries.jsonl").read_text().splitlines()]
    searcher = Searcher(address)
    embedded = searcher.embed_queries([q["text"] for q in queries])
    judged: dict[str, dict[str, int]] = {}
    for line in (DATA / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, score = line.split("\t")
        judged.setdefault(query, {})[document] = int(score)
    names = rows["id"].to_pylist()
    found = {}
    for query, scores in zip(queries, embedded @ vectors.T, strict=True):
        best = np.argsort(-scores)[:100]
        found[query["_id"]] = {names[i]: float(scores[i]) for i in best}
    # one search through the command's own path agrees with this one
    top = searcher.search(queries[0]["text"], Query(limit=1))[0]
    assert top.id == max(found[queries[0]["_id"]], key=found[queries[0]["_id"]].get)
    results = pytrec_eval.RelevanceEvaluator(judged, {"ndcg_cut.10"}).evaluate(found)
    return float(np.mean([r["ndcg_cut_10"] for r in results.values()]))


def test_local_folder(tmp_path, executor):
    config = cranfield_job(tmp_path)
    certificate = run(config, executor)
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows) == (1400, 1398)
    assert certificate.reasons == {"empty_text": 2}
    assert abs(ndcg_at_10(config) - REFERENCE_NDCG) <= 0.002


def test_s3_bucket(tmp_path, executor, s3_endpoint):
    import s3fs

    files = s3fs.S3FileSystem(client_kwargs={"endpoint_url": s3_endpoint})
    files.makedirs("cranfield", exist_ok=True)
    lines = (DATA / "corpus.jsonl").read_bytes().splitlines(keepends=True)
    for shard in range(3):
        files.pipe(f"cranfield/corpus/part {shard}.jsonl", b"".join(lines[shard::3]))
    config = cranfield_job(
        tmp_path,
        corpus={"uri": "s3://cranfield/corpus/"},
        table={"uri": "s3://cranfield/tables", "name": "c"},
        storage={"endpoint_url": s3_endpoint},
    )
    certificate = run(config, executor)
    assert certificate.adds_up
    assert certificate.rows == 1400
    assert abs(ndcg_at_10(config) - REFERENCE_NDCG) <= 0.002
