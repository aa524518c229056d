"""The command line. Results go to stdout (`--json`: one JSON object), progress and errors to stderr; the exit code is
the truth: 0 all is well, 1 run it again, 2 ask a person, 3 another run took over (pipelines/errors.py), 129, 130 or 143
stopped by SIGHUP, Ctrl-C or SIGTERM. Each command imports what it runs by itself, so that `--help` is quick."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from actors.spec import ModelSpec
from pipelines import __version__
from pipelines.cli import terminal
from pipelines.cli.command import Command, run_as_process
from pipelines.cli.display import Display
from pipelines.cli.output import say, show
from pipelines.cli.target import target_of
from pipelines.config import JobConfig, StorageConfig
from pipelines.errors import VectormillError
from pipelines.job_file import load_job

app = typer.Typer(
    name="vectormill",
    cls=Command,
    help="Embed a text corpus of any size into a LanceDB table, each row exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.YAML", help="The job file; see configs/ for examples.")]
Table = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="A job file, or the table itself: FOLDER/NAME or s3://BUCKET/FOLDER/NAME."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, such as run.replicas=4. May be repeated."),
]
Limit = Annotated[int, typer.Option("--limit", "-k", min=1, help="How many passages.")]
Where = Annotated[str | None, typer.Option(help="SQL filter over the table's columns.")]
Rerank = Annotated[
    str | None,
    typer.Option(metavar="WEIGHTS", help="Order what is found by this Qwen3-Reranker: hub id or folder."),
]
Candidates = Annotated[
    int, typer.Option(min=1, help="How many passages are found for --rerank and --mode hybrid to choose from.")
]
Instruction = Annotated[str | None, typer.Option(help="Task instruction for models that take one.")]
Exact = Annotated[bool, typer.Option("--exact", help="Compare with every vector, whatever the index.")]
Task = Literal["embed", "rerank"]
Vectors = Literal["exact", "rounded"]
SearchMode = Literal["vector", "text", "hybrid"]
SearchIn = Annotated[
    SearchMode,
    typer.Option("--mode", help="By meaning, by words (needs a full-text index), or by both, fused by rank."),
]
IndexChoice = Literal["auto", "none", "ivf_flat", "ivf_sq", "ivf_rq"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


@app.callback(invoke_without_command=True)
def version(asked: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if asked:
        say(f"vectormill {__version__}")
        raise typer.Exit


@app.command()
def embed(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Run a job, or resume it: the same command after anything.

    Example: vectormill embed configs/demo.yaml --set run.replicas=2"""
    from pipelines.run.job import embed as run

    config = load_job(job, override or ())
    certificate = run(config, Display(quiet))
    show(as_json, certificate.to_dict(), lambda console: terminal.certificate(console, certificate), certificate.wrong)


@app.command()
def rerank(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Score pairs of a query and a document in bulk: run a job of task rerank, or resume it.

    Example: vectormill rerank configs/rerank.yaml --set run.replicas=2"""
    from pipelines.run.job import rerank as run

    config = load_job(job, override or ())
    certificate = run(config, Display(quiet))
    show(
        as_json,
        certificate.to_dict(),
        lambda console: terminal.certificate(console, certificate, "rerank"),
        certificate.wrong,
    )


@app.command()
def plan(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Forecast: count the corpus and say what a run would do, without embedding anything.

    Example: vectormill plan configs/qwen3-0.6b.yaml"""
    from pipelines.corpus.broken import error_of
    from pipelines.run.forecast import forecast

    result = forecast(load_job(job, override or ()), Display(quiet))
    wrong = error_of(result.broken_files)
    show(as_json, result.to_dict(), lambda console: terminal.forecast(console, result), wrong)


@app.command()
def status(
    table: Table,
    override: Overrides = None,
    bad_rows: Annotated[int, typer.Option(min=0, help="How many rows without a vector to list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What the table holds: units, rows, tokens, bad rows, versions, last commit. Works while a job runs.

    Example: vectormill status configs/demo.yaml"""
    from pipelines.maintenance.status import status as read

    result = read(target_of(table, override or ()).address, bad_rows)
    show(as_json, result.to_dict(), lambda console: terminal.status(console, result))


@app.command()
def verify(
    job: JobFile,
    override: Overrides = None,
    sample: Annotated[int, typer.Option(min=1, help="Records to embed again by the slow reference path.")] = 32,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample; absent: a different one each time.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Another certificate to compare with: of this table earlier, or another's."),
    ] = None,
    vectors: Annotated[
        Vectors,
        typer.Option(help="With --against: equal in every bit, or rounded otherwise, as by two runs on GPUs."),
    ] = "exact",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Prove that the table holds each row of the corpus once, by this model; exit 1 on any doubt.

    Example: vectormill verify configs/demo.yaml --against demo/lancedb/stdlib.vectormill/certificate.json"""
    from pipelines.maintenance.verify import verify as prove

    config = load_job(job, override or ())
    verdict = prove(config, Display(quiet), sample, seed, against, vectors)
    doubt = None if verdict.ok else VectormillError("not verified: see the checks that are not ok")
    show(as_json, verdict.to_dict(), lambda console: terminal.verdict(console, verdict, config.task), doubt)


@app.command()
def search(
    table: Table,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    override: Overrides = None,
    limit: Limit = 5,
    where: Where = None,
    mode: SearchIn = "vector",
    rerank: Rerank = None,
    candidates: Candidates = 100,
    instruction: Instruction = None,
    exact: Exact = False,
    as_json: AsJson = False,
) -> None:
    """Find passages by meaning, with the table's own model and prompt; if asked, by words too, and reranked.

    Example: vectormill search configs/demo.yaml "compress a file" -k 3"""
    from pipelines.search.query import Query
    from pipelines.search.searcher import Searcher

    address = target_of(table, override or ()).address
    query = Query(limit, where, instruction, mode, candidates, exact)
    query.depth(rerank is not None)  # before a model is loaded
    reranker = ModelSpec(rerank, s3=address.storage.for_weights()) if rerank is not None else None
    searcher = Searcher(address, reranker, embeds=mode != "text")
    outside = {kind: n for kind, n in searcher.unindexed(mode).items() if n and not (exact and kind == "vector")}
    for kind, rows in outside.items():
        Display().say(
            f"{rows:,} rows are not in the {kind} index yet; they are searched too, more slowly. `vectormill optimize` "
            "adds them."
        )
    hits = searcher.search(text, query)
    how = {"query": text, "mode": mode, "reranker": rerank, "unindexed_rows": outside}
    found = {**how, "hits": [hit.to_dict() for hit in hits]}
    show(as_json, found, lambda console: terminal.hits(console, text, hits))


@app.command("bulk-search")
def bulk_search(
    table: Table,
    queries: Annotated[
        str,
        typer.Argument(metavar="QUERIES", help="A file of queries: each has its words in `text`, its name in `id`."),
    ],
    out: Annotated[str, typer.Option(metavar="RESULTS.PARQUET", help="Where the hits go.")],
    override: Overrides = None,
    limit: Limit = 5,
    where: Where = None,
    mode: SearchIn = "vector",
    rerank: Rerank = None,
    candidates: Candidates = 100,
    instruction: Instruction = None,
    exact: Exact = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search for each query of a file, as a job: stopped at any time, the same command goes on.

    Example: vectormill bulk-search configs/demo.yaml queries.jsonl --out hits.parquet -k 10"""
    from pipelines.search.bulk import BulkSearch
    from pipelines.search.bulk import bulk_search as run
    from pipelines.search.query import Query

    target = target_of(table, override or ())
    query = Query(limit, where, instruction, mode, candidates, exact)
    found = run(BulkSearch(target.address, queries, out, query, rerank), target.run, Display(quiet))
    show(as_json, found.to_dict(), lambda console: terminal.searched(console, found), found.certificate.wrong)


@app.command()
def evaluate(
    job: JobFile,
    beir: Annotated[
        Path, typer.Option(metavar="DIR", help="Judged queries in BEIR layout: queries.jsonl and qrels/SPLIT.tsv.")
    ],
    override: Overrides = None,
    split: Annotated[str, typer.Option(help="Which file of DIR/qrels.")] = "test",
    rerank: Annotated[
        str | None, typer.Option(metavar="WEIGHTS", help="Also rerank: folder, hub id or s3:// of a Qwen3-Reranker.")
    ] = None,
    candidates: Annotated[int, typer.Option(min=1, help="Passages of each list to rerank.")] = 100,
    instruction: Annotated[str | None, typer.Option(help="Task instruction for models that take one.")] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write evaluation.html and evaluation.json there.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure search on judged queries, exact, by index and reranked, and what smaller vectors would lose.

    Example: vectormill evaluate configs/demo.yaml --beir my-queries --out evaluation"""
    from pipelines.cli import evaluation
    from pipelines.search.evaluation.evaluate import EvaluationRequest
    from pipelines.search.evaluation.evaluate import evaluate as run

    request = EvaluationRequest(beir, split, rerank, candidates, instruction, out)
    result = run(load_job(job, override or ()), request, Display(quiet))
    show(as_json, result, lambda console: evaluation.show(console, result))


@app.command()
def optimize(
    table: Table,
    override: Overrides = None,
    index: Annotated[
        IndexChoice, typer.Option(help="Kind of vector index; auto: by rows, dimensions and memory.")
    ] = "auto",
    min_recall: Annotated[
        float, typer.Option(metavar="SHARE", help="Least recall@10 against exact search; no worse index is left.")
    ] = 0.95,
    memory_gb: Annotated[
        float | None,
        typer.Option(metavar="GB", help="Most that the vector index may take; absent: half of this machine's memory."),
    ] = None,
    full_text: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Also index a column for full-text search; auto: the stored text."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compact, fit the indexes to the table and measure recall, remove old versions. Safe while a job runs.

    Example: vectormill optimize configs/demo.yaml --min-recall 0.98 --full-text auto"""
    from pipelines.maintenance.optimize import optimize as run
    from pipelines.table.index.vector import IndexWanted

    wanted = IndexWanted(index, min_recall, memory_gb, full_text)
    target = target_of(table, override or ())
    result = run(target.address, Display(quiet), wanted, target.job)
    show(as_json, result.to_dict(), lambda console: terminal.optimized(console, result))


@app.command()
def doctor(
    weights: Annotated[
        str, typer.Option(help="Folder, hub id, modelscope:ID, s3:// folder, or the bundled all-MiniLM-L6-v2.")
    ] = "bundled",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    task: Annotated[
        Task | None, typer.Option(help="What the model is for; absent: rerank if its folder or name says so.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; absent: CUDA if there is one.")] = None,
    dtype: Annotated[str, typer.Option(help="auto: what a job takes, then float32 if the memory is there.")] = "auto",
    goldens: Annotated[bool, typer.Option("--goldens/--no-goldens", help="Compare with published numbers.")] = True,
    as_json: AsJson = False,
) -> None:
    """Examine weights on this machine: recipe, tokenizer, every layout, published numbers; exit 1 on any doubt.

    Example: vectormill doctor --weights Qwen/Qwen3-Embedding-0.6B"""
    from actors.doctor.examine import examine

    spec = ModelSpec(weights, revision=revision, device=device, dtype=dtype, s3=StorageConfig().for_weights())
    diagnosis = examine(spec, task, goldens)
    doubt = None if diagnosis.ok else VectormillError(f"{diagnosis.failed} check(s) failed")
    show(as_json, diagnosis.to_dict(), lambda console: terminal.diagnosis(console, diagnosis.lines()), doubt)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors.

    Example: vectormill schema > job.schema.json"""
    say(json.dumps(JobConfig.model_json_schema(), indent=2))


def main() -> None:
    """The console script."""
    run_as_process(app)
