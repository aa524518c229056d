"""The command line. Results go to stdout (`--json`: one JSON object), progress and errors to stderr; the exit code is
the truth: 0 all is well, 1 something is not, 2 the job file or the call is wrong, 130 stopped by Ctrl-C, 143 by
SIGTERM."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console
from typer.core import TyperGroup

from actors.spec import ModelError, ModelSpec
from pipelines import __version__
from pipelines.cli import terminal as report
from pipelines.cli.display import Display
from pipelines.config import JobConfig, RunConfig, StorageConfig
from pipelines.errors import ConfigError, Stopped, VectormillError
from pipelines.job_file import load_job


def _fail(message: str, code: int) -> NoReturn:
    Console(stderr=True, highlight=False).print(f"vectormill: {message}", markup=False, soft_wrap=True)
    sys.exit(code)


class _Group(TyperGroup):
    """Turns what a user may see into one message and an exit code; Typer would print a traceback, or nothing."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as bad:
            # A pipe to a process that ended with the run, Lance or Ray may raise its own in place of the stop.
            in_its_place = bad.__context__ if isinstance(bad.__context__, Stopped) else bad
            why = _on_signal.stopped or in_its_place
            if isinstance(why, (VectormillError, ModelError, Stopped)):
                _fail(str(why), getattr(why, "exit_code", 1))
            raise


class _StopSignals:
    """Raises Stopped, and remembers it: raised while Lance is at work it comes back as an error of Arrow, and from a
    call of Ray as a plain KeyboardInterrupt."""

    stopped: Stopped | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> NoReturn:
        self.stopped = Stopped(signum)
        raise self.stopped


_on_signal = _StopSignals()
app = typer.Typer(
    name="vectormill",
    cls=_Group,
    help="Embed a text corpus of any size into a LanceDB table, each row exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB.YAML", help="The job file; see configs/ for examples.")]
Target = Annotated[
    str,
    typer.Argument(metavar="TABLE", help="A job file, or the table itself: FOLDER/NAME or s3://BUCKET/FOLDER/NAME."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Override a field, such as run.replicas=4. May be repeated."),
]
Task = Literal["embed", "rerank"]
Vectors = Literal["exact", "rounded"]
SearchMode = Literal["vector", "text", "hybrid"]
IndexChoice = Literal["auto", "none", "ivf_flat", "ivf_sq", "ivf_rq"]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if show:
        print(f"vectormill {__version__}")
        raise typer.Exit


@app.command()
def embed(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Run a job, or resume it: the same command after anything.

    Example: vectormill embed configs/demo.yaml --set run.replicas=2"""
    from pipelines.run.run import embed as run

    config = load_job(job, override or ())
    certificate = run(config, Display(quiet))
    _print(as_json, certificate.to_dict(), lambda console: report.certificate(console, certificate))
    _exit_unless(certificate.adds_up)


@app.command()
def rerank(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Score pairs of a query and a document in bulk: run a job of task rerank, or resume it.

    Example: vectormill rerank configs/rerank.yaml --set run.replicas=2"""
    from pipelines.run.run import rerank as run

    config = load_job(job, override or ())
    certificate = run(config, Display(quiet))
    _print(as_json, certificate.to_dict(), lambda console: report.certificate(console, certificate, "rerank"))
    _exit_unless(certificate.adds_up)


@app.command()
def plan(job: JobFile, override: Overrides = None, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Forecast: count the corpus and say what a run would do, without embedding anything.

    Example: vectormill plan configs/qwen3-0.6b.yaml"""
    from pipelines.run.forecast import forecast

    result = forecast(load_job(job, override or ()), Display(quiet))
    _print(as_json, result, lambda console: report.forecast(console, result))


@app.command()
def status(
    table: Target,
    override: Overrides = None,
    bad_rows: Annotated[int, typer.Option(min=0, help="How many rows without a vector to list.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What the table holds: units, rows, tokens, bad rows, versions, last commit. Works while a job runs.

    Example: vectormill status configs/demo.yaml"""
    from pipelines.maintenance.status import status as read

    result = read(_address(table, override), bad_rows)
    _print(as_json, result, lambda console: report.status(console, result))


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
    _print(as_json, verdict.to_dict(), lambda console: report.verdict(console, verdict, config.task))
    _exit_unless(verdict.ok)


@app.command()
def search(
    table: Target,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="What to look for.")] = None,
    override: Overrides = None,
    limit: Annotated[int, typer.Option("--limit", "-k", min=1, help="How many passages.")] = 5,
    where: Annotated[str | None, typer.Option(help="SQL filter over the table's columns.")] = None,
    mode: Annotated[
        SearchMode, typer.Option(help="By meaning, by words (needs a full-text index), or by both, fused by rank.")
    ] = "vector",
    rerank: Annotated[
        str | None,
        typer.Option(metavar="WEIGHTS", help="Order what is found by this Qwen3-Reranker: hub id or folder."),
    ] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="How many passages are found for --rerank and --mode hybrid to choose from.")
    ] = 100,
    instruction: Annotated[str | None, typer.Option(help="Task instruction for models that take one.")] = None,
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every vector, whatever the index.")] = False,
    queries: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Search for each `text` of this file, named by its `id`, as a job."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="RESULTS.PARQUET", help="With --queries: where the hits go.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find passages by meaning, with the table's own model and prompt; if asked, by words too, and reranked.

    Example: vectormill search configs/demo.yaml "compress a file" -k 3"""
    from pipelines.search.bulk import Request
    from pipelines.search.searcher import Query, Searcher

    address = _address(table, override)
    query = Query(limit, where, instruction, mode, candidates, exact)
    if queries is not None or out is not None:
        if queries is None or out is None or text is not None:
            raise ConfigError("--queries FILE and --out RESULTS.parquet go together, without TEXT")
        _search_queries(Request(address, queries, out, query, rerank), _run_of(table, override), as_json, quiet)
        return
    if text is None:
        raise ConfigError("give TEXT to search for, or --queries FILE with --out RESULTS.parquet")
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
    found = {**how, "hits": [asdict(hit) for hit in hits]}
    _print(as_json, found, lambda console: report.hits(console, text, hits))


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
    from pipelines.cli import evaluation as terminal
    from pipelines.search.evaluation.evaluate import Request
    from pipelines.search.evaluation.evaluate import evaluate as run

    request = Request(beir, split, rerank, candidates, instruction, out)
    result = run(load_job(job, override or ()), request, Display(quiet))
    _print(as_json, result, lambda console: terminal.show(console, result))


@app.command()
def optimize(
    table: Target,
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
    from pipelines.table.index.vector import Wanted

    wanted = Wanted(index, min_recall, memory_gb, full_text)
    job = load_job(table, override or ()) if table.endswith((".yaml", ".yml")) else None
    result = run(_address(table, override), Display(quiet), wanted, job)
    _print(as_json, result, lambda console: report.optimized(console, result))


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
    _print(as_json, diagnosis.to_dict(), lambda console: report.diagnosis(console, diagnosis.lines()))
    _exit_unless(diagnosis.ok)


@app.command()
def schema() -> None:
    """Print the JSON Schema of job files, for editors.

    Example: vectormill schema > job.schema.json"""
    print(json.dumps(JobConfig.model_json_schema(), indent=2))


def _address(target: str, overrides: list[str] | None) -> Any:
    from pipelines.table.files import TableAddress

    if target.endswith((".yaml", ".yml")):
        job = load_job(target, overrides or ())
        return TableAddress(job.table.location, job.storage)
    if overrides:
        raise ConfigError("--set goes with a job file, not with a table")
    place = target.rstrip("/").removesuffix(".lance")
    if not place or (place.startswith("s3:") and place.count("/") < 3):
        raise ConfigError(f"{target!r} names no table; write FOLDER/NAME, s3://BUCKET/FOLDER/NAME or a job file")
    return TableAddress(place + ".lance", StorageConfig())


def _run_of(target: str, overrides: list[str] | None) -> RunConfig:
    """How a job over this table runs: as the job file says; for a table alone in this process."""
    return load_job(target, overrides or ()).run if target.endswith((".yaml", ".yml")) else RunConfig(engine="inline")


def _search_queries(request: Any, run: RunConfig, as_json: bool, quiet: bool) -> None:
    from pipelines.search.bulk import search_queries

    certificate, found = search_queries(request, run, Display(quiet))
    result = {**found, "certificate": certificate.to_dict()}
    _print(as_json, result, lambda console: report.searched(console, certificate, found))
    _exit_unless(certificate.adds_up)


def _print(as_json: bool, data: dict[str, Any], human: Any) -> None:
    if as_json:
        print(json.dumps(_plain(data), default=str, allow_nan=False))
    else:
        human(Console(highlight=False))


def _plain(value: Any) -> Any:
    """JSON knows no NaN and no infinity, but a carried column may hold them: null."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _exit_unless(well: bool) -> None:
    if not well:
        raise typer.Exit(1)


def _leave(code: int) -> NoReturn:
    """End the process with this exit code, also while a thread of the engine is at work. Python's own end would unwind
    that thread inside Lance, which aborts the process: exit code -6 in place of "stopped" or "superseded"."""
    if any(thread.daemon for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    try:
        app()
    except SystemExit as end:
        _leave(end.code if isinstance(end.code, int) else int(end.code is not None))
