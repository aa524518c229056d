"""`vectormill evaluate`: how well a table answers judged queries, and what smaller vectors would lose.

The queries are embedded once, with the table's own model; nothing else is embedded. The stored vectors are read once
and searched exactly in every form (choices.py); the table's own form is the exact first stage. Then each query goes
through the store's index, if there is one, and through the reranker, if one is asked for.

Cost for Q queries and N vectors of D dimensions: about 10 * Q * N * D multiplications, and one reading of the vectors;
a reranker reads Q * candidates passages.

Legend: Q queries, N records, n of a part, D dimensions, M measures.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.spec import ModelSpec
from pipelines import __version__
from pipelines.config import JobConfig
from pipelines.errors import ConfigError, FingerprintMismatch, TableError
from pipelines.progress import Progress
from pipelines.run.prepare import model_spec
from pipelines.search.evaluation import choices, measures, page, stored
from pipelines.search.evaluation.beir import Collection, read_collection
from pipelines.search.query import Hit
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress, reading
from pipelines.table.schema import TableMetadata
from pipelines.table.table import LanceTable, open_table
from pipelines.tasks.registry import task_of

SCORES_AT_ONCE = 1 << 24  # bounds a part of the table: 64 MB of float32 scores
LEAST_ROWS = 1024  # of a part
TIMED_SEARCHES = 32
LINES_OF_RERANKING = 10
CUTTING = {
    True: "Qwen3-Embedding is trained to be cut to any number of dimensions from 32.",
    False: "Nothing in this model's files says that it was trained to be cut: what cutting loses is measured here, on "
    "these queries, and promised nowhere.",
}


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate with. folder: BEIR layout. rerank: weights of a reranker, for the first `candidates` passages
    of each list. instruction: in place of the table's own. out: a folder for the page and the JSON."""

    folder: Path
    split: str = "test"
    rerank: str | None = None
    candidates: int = 100
    instruction: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class SearchStage:
    """One way to search, over all queries. lists: documents by the digest of their id, the best first. milliseconds: of
    one query, the median."""

    name: str
    lists: Sequence[Sequence[int]]
    milliseconds: float


def evaluate(job: JobConfig, request: EvaluationRequest, progress: Progress) -> dict[str, Any]:
    """Returns what was measured, as plain data; writes evaluation.json and evaluation.html if there is an `out`.

    Raises ConfigError (the collection, `out`), TableError, FingerprintMismatch, StorageError, ModelError."""
    measures.check_installed()
    collection = read_collection(request.folder, request.split)
    if request.out is not None:
        _make_folder(request.out)
    address = TableAddress(job.table.location, job.storage)
    check_same_job(job, open_table(address).metadata)  # before a model is loaded
    searcher = Searcher(
        address, ModelSpec(request.rerank, s3=job.storage.for_weights()) if request.rerank is not None else None
    )
    with reading(address):
        found = {"table": address.location, **_evaluate(searcher, collection, request, progress)}
    if request.out is not None:
        _write(request.out / "evaluation.json", json.dumps(found, indent=1) + "\n")
        _write(request.out / "evaluation.html", page.render(found))
    return found


def check_same_job(job: JobConfig, metadata: TableMetadata) -> None:
    """Raises FingerprintMismatch if the job would not make this table."""
    task = task_of(job)
    if task.name != "embed":
        raise ConfigError(f"evaluate measures the search in a table of vectors, and this job has task: {task.name}")
    _, facts = task.resolve(model_spec(job, False, metadata))
    if differences := metadata.differences(TableMetadata(facts, metadata.model, metadata.rows_per_unit)):
        raise FingerprintMismatch.between(job.table.location, differences, task.words.space, task.words.remedy)


def _evaluate(
    searcher: Searcher, collection: Collection, request: EvaluationRequest, progress: Progress
) -> dict[str, Any]:
    table, known = searcher.table, searcher.metadata.identity
    covered = stored.coverage(table, collection)
    if not covered.found:
        raise _nothing_judged(covered)
    progress.say(f"embedding {len(collection.queries):,} queries")
    queries_QD = searcher.embed_queries(list(collection.queries.values()), request.instruction)
    trial = choices.Trial(queries_QD, known["vector_dtype"], stored.sample(table, known["dimensions"]))
    progress.say(f"searching {covered.vectors:,} vectors exactly, in {len(trial.ways)} forms")
    for documents_n, vectors_nD in stored.parts(table, max(LEAST_ROWS, SCORES_AT_ONCE // len(queries_QD))):
        trial.add(documents_n, vectors_nD)

    def judge(lists: Sequence[Sequence[int]]) -> np.ndarray:
        # No measure asks for the id of a document that nobody judged.
        named = [[covered.names.get(number, f"#{number}") for number in documents] for documents in lists]
        return measures.per_query(collection.judged, named)

    bootstrap = measures.Bootstrap(len(queries_QD))
    weighed = choices.weigh(trial, judge, bootstrap)
    exact = trial.documents(*trial.ways[0])
    stages = list(_Store(searcher, collection, queries_QD, request, progress).stages(exact))
    return {
        "version": table.version,
        "fingerprint": searcher.metadata.fingerprint,
        "vectormill": __version__,
        "model": {**known, "name": searcher.metadata.model["weights"]},
        "collection": str(request.folder),
        "split": request.split,
        "queries": len(queries_QD),
        "judgments": collection.judgments,
        "records": table.count_rows(),
        "vectors": covered.vectors,
        "index": _index(table),
        "reranker": request.rerank,
        "notes": _notes(collection, covered),
        "stages": [
            {
                "stage": stage.name,
                **bootstrap.estimates(judge(stage.lists)),
                "recall@10_of_exact": measures.overlap(stage.lists, exact),
                "milliseconds": round(stage.milliseconds, 3),
            }
            for stage in stages
        ],
        "choices": [choice.to_dict() for choice in weighed],
        "timed_over": trial.timed_over,
        "rule": choices.RULE,
        "advice": choices.advice(weighed),
        "cutting": CUTTING[known["architecture"] == "qwen3"],
    }


def _index(table: LanceTable) -> dict[str, Any] | None:
    """Name and type of the vector index, and how many rows it holds."""
    state = table.vector_index()
    if state is None:
        return None
    return {"name": state.name, "type": state.type, "rows": table.count_rows() - state.unindexed_rows}


class _Store:
    """Asks the store, query by query."""

    def __init__(
        self,
        searcher: Searcher,
        collection: Collection,
        queries_QD: np.ndarray,
        request: EvaluationRequest,
        progress: Progress,
    ):
        self._searcher, self._queries_QD = searcher, queries_QD
        self._texts = list(collection.queries.values())
        self._request, self._progress = request, progress

    def stages(self, exact: Sequence[Sequence[int]]) -> Iterator[SearchStage]:
        """The exact first stage, whose lists are given; that of the index; and each reranked."""
        timed = [self._documents(at, exact=True)[1] for at in range(len(exact))[:TIMED_SEARCHES]]
        first = [SearchStage("exact", exact, 1000 * float(np.median(timed)))]
        if self._searcher.table.vector_index() is not None:
            self._progress.say(f"searching {len(exact):,} times through the index")
            found = [self._documents(at, exact=False) for at in range(len(exact))]
            median = float(np.median([seconds for _, seconds in found]))
            first.append(SearchStage("index", [documents for documents, _ in found], 1000 * median))
        for stage in first:
            yield stage
            if self._request.rerank is not None:
                yield self._reranked(stage)

    def _documents(self, at: int, exact: bool) -> tuple[list[int], float]:
        """What the store finds for a query, and in how many seconds. Of a table of passages as many are asked for as
        make DEPTH documents."""
        limit, seconds = measures.DEPTH, 0.0
        while True:
            started = time.perf_counter()
            hits = self._searcher.nearest(self._queries_QD[at], limit, exact=exact)
            seconds += time.perf_counter() - started
            documents = _different(hits)
            if len(documents) >= measures.DEPTH or len(hits) < limit:
                return documents[: measures.DEPTH], seconds
            limit *= 2

    def _reranked(self, stage: SearchStage) -> SearchStage:
        """Each list with its first `candidates` passages in the reranker's order, and the rest behind them."""
        count = self._request.candidates
        self._progress.say(f"reranking {len(self._texts):,} x {count:,} passages ({stage.name})")
        lists, spent = [], []
        for at, text in enumerate(self._texts):
            started = time.perf_counter()
            hits = self._searcher.nearest(self._queries_QD[at], count, exact=stage.name == "exact")
            ordered = self._searcher.rerank(text, hits, instruction=self._request.instruction)
            spent.append(time.perf_counter() - started)
            lists.append(list(dict.fromkeys([*_different(ordered), *stage.lists[at]]))[: measures.DEPTH])
            if (at + 1) % max(1, len(self._texts) // LINES_OF_RERANKING) == 0:
                self._progress.say(f"reranked {at + 1:,} of {len(self._texts):,} queries")
        return SearchStage(f"{stage.name} + rerank", lists, 1000 * float(np.median(spent)))


def _different(hits: Sequence[Hit]) -> list[int]:
    """The documents of passages, the best first."""
    return list(dict.fromkeys(stored.digests_of([hit.id for hit in hits]).tolist()))


def _notes(collection: Collection, covered: stored.Coverage) -> list[str]:
    """What is not as one would expect, in words."""

    def such(ids: Sequence[str]) -> str:
        return f" (such as {', '.join(repr(one) for one in sorted(ids)[:3])})"

    notes = []
    if covered.missing:
        notes.append(
            f"{len(covered.missing):,} of {len(covered.names):,} judged documents are not in the table"
            f"{such(covered.missing)}: no search can find them, which counts against it"
        )
    if covered.bad:
        notes.append(
            f"{len(covered.bad):,} of {len(covered.names):,} judged documents are in the table without a vector"
            f"{such(list(covered.bad))}; `vectormill status` says why"
        )
    if collection.without_text:
        notes.append(
            f"{len(collection.without_text):,} judged queries have no text in queries.jsonl"
            f"{such(collection.without_text)}: they are left out"
        )
    return notes


def _nothing_judged(covered: stored.Coverage) -> TableError:
    some = ", ".join(repr(one) for one in sorted(covered.names.values())[:3])
    return TableError(
        f"none of the {len(covered.names):,} judged documents ({some}, ...) has a vector in the table: is it the table "
        "of this collection, and is corpus.id the column that its judgments use?"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as bad:
        raise ConfigError(f"--out: cannot make the folder {folder}: {bad.strerror or bad}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as bad:
        raise ConfigError(f"--out: cannot write {path}: {bad.strerror or bad}") from None
