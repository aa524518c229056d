"""Collections in BEIR layout for tables of tests/support/jobs.py, and figures of an evaluation."""

from pipelines.search.evaluation import forms
from tests.support.jobs import text_of, write_jsonl

JUDGED = {f"q{n}": {f"d{n}": 2, f"d{n + 1}": 1, f"d{n + 60}": 1} for n in range(0, 60, 3)}


def unit_vectors(rng, count, dimensions):
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
