"""The worked examples of the Qwen3 announcement, run through the real thing: `python -m pipelines.cli.examples`.

Embeds a handful of sentences into a table in a temporary folder and searches it, with `--rerank` in two stages. Where
numbers were published for the weights, it compares with them too and exits 1 if they are missed.

    python -m pipelines.cli.examples                                    the bundled model, which knows no Chinese
    python -m pipelines.cli.examples --weights Qwen/Qwen3-Embedding-0.6B --rerank Qwen/Qwen3-Reranker-0.6B
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from actors.checks import goldens
from actors.checks.published import Published
from actors.device.auto import resolve_dtype
from actors.doctor import inspection
from actors.spec import ModelSpec
from actors.tokenizer.qwen_ids import DOCUMENTS, QUERIES
from actors.weights.locate import locate
from actors.weights.modules import read_json
from pipelines.cli import terminal
from pipelines.cli.command import run_as_process
from pipelines.cli.display import Display
from pipelines.cli.streams import PlainConsole
from pipelines.config import StorageConfig
from pipelines.job_file import parse_job
from pipelines.run.job import embed
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress


@dataclass(frozen=True)
class Example:
    """Queries over a few candidates.

    promise: what a model that knows the language makes of them. unrelated: what then comes last, for each query."""

    name: str
    promise: str
    queries: tuple[str, ...]
    candidates: tuple[str, ...]
    unrelated: tuple[str, ...]


EXAMPLES = (
    Example(
        "instructed", "a question finds its answer, not the other's", QUERIES, DOCUMENTS, (DOCUMENTS[1], DOCUMENTS[0])
    ),
    Example(
        "synonyms",
        "nearly the same said in other words is nearer than another subject",
        ("苹果手机真好用",),
        ("今天天气不错", "我有一部 iPhone"),
        ("今天天气不错",),
    ),
    Example(
        "titles",
        "of three titles the unrelated one comes last",
        ("什么是量子计算?",),
        ("家常红烧肉的做法", "经典计算机与量子计算机的区别", "量子计算入门：从量子比特到量子算法"),
        ("家常红烧肉的做法",),
    ),
)
PUBLISHED = "published"  # the example that the documents of published numbers belong to


def make_table(folder: Path, spec: ModelSpec) -> TableAddress:
    """The table of all candidates, and of the documents that published numbers are about. Raises VectormillError,
    ModelError."""
    texts = [(example.name, text) for example in EXAMPLES for text in example.candidates]
    known = published(spec, "embed")
    if known is not None:
        texts += [(PUBLISHED, text) for text in dict.fromkeys(golden.document for golden in known.goldens)]
    records = (json.dumps({"id": f"{name}-{n}", "text": text, "example": name}) for n, (name, text) in enumerate(texts))
    corpus = folder / "examples.jsonl"
    corpus.write_text("\n".join(records), encoding="utf-8")
    job = parse_job(
        {
            "corpus": {"uri": str(corpus), "id": "id", "columns": ["example"]},
            "model": {"weights": spec.weights},
            "table": {"uri": str(folder / "lancedb"), "name": "examples", "text_column": "text"},
            "run": {"engine": "inline"},
        }
    )
    embed(job, Display(quiet=True))
    return TableAddress(job.table.location, job.storage)


def published(spec: ModelSpec, task: str) -> Published | None:
    """The published numbers of these weights; None if there are none."""
    if spec.is_fake:
        return None
    place = locate(spec)
    found = goldens.identify(spec.weights, read_json(place / "config.json"), task)
    return None if found is None or inspection.is_untrained(place) else found


def compare_cosines(searcher: Searcher, known: Published) -> list[goldens.Result]:
    """Published cosines beside those by which the table's records are found."""
    got = []
    for golden in known.goldens:
        vector = searcher.embed_queries([golden.query])[0]
        hits = searcher.nearest(vector, len(known.goldens), f"example = '{PUBLISHED}'", exact=True)
        got.append(next(hit.score for hit in hits if hit.text == golden.document))
    return goldens.judge(known.goldens, got, searcher.metadata.identity["dtype"])


def _show(console: Console, searcher: Searcher) -> None:
    for number, example in enumerate(EXAMPLES, start=1):
        console.print(f"{number}. {example.promise}", markup=False)
        for text, unrelated in zip(example.queries, example.unrelated, strict=True):
            found = searcher.search(text, Query(len(example.candidates), f"example = '{example.name}'"))
            terminal.hits(console, text, [replace(hit, columns={}) for hit in found])
            console.print("  so it is" if found[-1].text == unrelated else "  not so, by these weights", style="dim")


def _show_goldens(console: Console, known: Published | None, results: Sequence[goldens.Result], task: str) -> None:
    if known is None:
        console.print(f"no numbers were published for these weights ({task})")
        return
    console.print(f"published for {known.model_id}:", markup=False)
    for r in results:
        mark = {True: ("ok    ", "green"), False: ("FAIL  ", "bold red"), None: ("-     ", "")}[r.ok]
        said = f"{r.golden.kind} {r.golden.expected:.4f}, here {r.got:.4f} in {r.dtype}: {r.golden.query} | "
        console.print(Text("  ") + Text(*mark) + Text(said + r.golden.document), soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code: 1 if a published number is missed. Raises VectormillError, ModelError."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.cli.examples", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--weights", default="bundled", help="an embedder: folder, hub id or bundled")
    parser.add_argument("--rerank", metavar="WEIGHTS", help="a Qwen3-Reranker: folder or hub id")
    asked = parser.parse_args(arguments)
    console, s3 = PlainConsole(), StorageConfig().for_weights()
    spec = ModelSpec(asked.weights, s3=s3)
    judge = ModelSpec(asked.rerank, s3=s3) if asked.rerank else None
    with tempfile.TemporaryDirectory() as folder:
        searcher = Searcher(make_table(Path(folder), spec), judge)
        _show(console, searcher)
        known = published(spec, "embed")
        results = compare_cosines(searcher, known) if known else []
        _show_goldens(console, known, results, "to embed")
        if judge is not None:
            known = published(judge, "rerank")
            got = goldens.logits_or_scores(searcher.reranker, known.goldens) if known else []
            more = goldens.judge(known.goldens, got, resolve_dtype(judge)) if known else []
            _show_goldens(console, known, more, "to rerank")
            results += more
    return int(any(result.ok is False for result in results))


if __name__ == "__main__":
    run_as_process(main)
