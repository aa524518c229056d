"""`make demo`: the main job on a corpus that every Python installation has, its standard library's docstrings.

Writes about three thousand passages as sharded Parquet under demo/corpus, runs configs/demo.yaml through Ray with the
bundled model, and answers three questions from the table."""

from __future__ import annotations

import ast
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cli import terminal
from pipelines.cli.command import run_as_process
from pipelines.cli.display import Display
from pipelines.cli.streams import PlainConsole
from pipelines.job_file import load_job
from pipelines.run.job import embed
from pipelines.search.query import Query
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress

JOB = "configs/demo.yaml"
CORPUS = Path("demo/corpus")
SHARDS = 8
PASSAGES = 3_000
SHORTEST = 120  # characters of a docstring worth finding
NOT_WANTED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "turtledemo", "ensurepip", "__pycache__"}
QUESTIONS = ("compress a file", "start another program and capture its output", "compare two directories")


def docstrings(library: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, docstring) of public modules, classes and functions below `library`, in a fixed order."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if NOT_WANTED & set(relative.parts) or any(p.startswith("_") and p != "__init__.py" for p in relative.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        yield from _of(tree, module)


def _of(node: ast.Module | ast.ClassDef | ast.FunctionDef, name: str) -> Iterator[tuple[str, str]]:
    text = ast.get_docstring(node)
    if text and len(text) >= SHORTEST:
        yield name, text
    for child in node.body:
        if isinstance(child, (ast.ClassDef, ast.FunctionDef)) and not child.name.startswith("_"):
            yield from _of(child, f"{name}.{child.name}")


def write_corpus(folder: Path) -> int:
    """Write the passages as sharded Parquet (name, module, text); returns their number. Same files on each call."""
    found = list(dict(docstrings(Path(sysconfig.get_path("stdlib")))).items())
    step = max(1, len(found) // PASSAGES)
    found = found[::step][:PASSAGES]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SHARDS):
        part = found[number::SHARDS]
        table = pa.table(
            {"name": [n for n, _ in part], "module": [n.split(".")[0] for n, _ in part], "text": [t for _, t in part]}
        )
        pq.write_table(table, folder / f"part-{number}.parquet")
    return len(found)


def main() -> None:
    console = PlainConsole()
    started = time.monotonic()
    count = write_corpus(CORPUS)
    console.print(
        f"1. corpus: {count:,} docstrings of Python {sys.version.split()[0]} in {CORPUS}/ ({SHARDS} Parquet files)"
    )
    console.print(f"2. vectormill embed {JOB}")
    job = load_job(JOB)
    certificate = embed(job, Display())
    terminal.certificate(console, certificate)
    searcher = Searcher(TableAddress(job.table.location, job.storage))
    for number, question in enumerate(QUESTIONS, 3):
        console.print(f'{number}. vectormill search {JOB} "{question}" -k 3')
        terminal.hits(console, question, searcher.search(question, Query(limit=3)))
    console.print(f"done in {time.monotonic() - started:.0f} s. Run it again: nothing is embedded twice. Then try")
    console.print(f'  .venv/bin/vectormill search {JOB} "your own question"')
    console.print(f"  .venv/bin/vectormill verify {JOB}")
    if (wrong := certificate.wrong) is not None:
        raise wrong


if __name__ == "__main__":
    run_as_process(main)
