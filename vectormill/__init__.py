"""Embed a text corpus of any size into a LanceDB table, each row exactly once: for programs and notebooks.

    from vectormill import Job

    job = Job.from_file("job.yaml", run={"engine": "inline"})
    certificate = job.embed(on_progress=lambda now: print(now.rows_committed, "of", now.rows_total))
    for hit in job.search("compress a file", limit=3):
        print(hit.rank, hit.id, hit.similarity)

All that is here is imported when it is first asked for: `import vectormill` costs nothing, and takes no name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.embedder.embedder import Embedder
    from actors.reranker.reranker import Reranker
    from actors.spec import ModelError, ModelSpec
    from pipelines import __version__
    from pipelines.config import JobConfig, StorageConfig
    from pipelines.errors import VectormillError
    from pipelines.maintenance.optimize import Optimized
    from pipelines.maintenance.status import Status
    from pipelines.maintenance.verify import Verdict
    from pipelines.progress import Snapshot
    from pipelines.run.certificate import Certificate
    from pipelines.run.forecast import Forecast
    from pipelines.search.lancedb import Qwen3Reranker, embed_queries_in_lancedb, forget_in_lancedb
    from pipelines.search.query import Hit, Query
    from pipelines.search.searcher import Searcher
    from vectormill.job import Job

_WHERE = {
    "Certificate": "pipelines.run.certificate",
    "Embedder": "actors.embedder.embedder",
    "Forecast": "pipelines.run.forecast",
    "Hit": "pipelines.search.query",
    "Job": "vectormill.job",
    "JobConfig": "pipelines.config",
    "ModelError": "actors.spec",
    "ModelSpec": "actors.spec",
    "Optimized": "pipelines.maintenance.optimize",
    "Query": "pipelines.search.query",
    "Qwen3Reranker": "pipelines.search.lancedb",
    "Reranker": "actors.reranker.reranker",
    "Searcher": "pipelines.search.searcher",
    "Snapshot": "pipelines.progress",
    "Status": "pipelines.maintenance.status",
    "StorageConfig": "pipelines.config",
    "VectormillError": "pipelines.errors",
    "Verdict": "pipelines.maintenance.verify",
    "__version__": "pipelines",
    "embed_queries_in_lancedb": "pipelines.search.lancedb",
    "forget_in_lancedb": "pipelines.search.lancedb",
}

__all__ = [
    "Certificate",
    "Embedder",
    "Forecast",
    "Hit",
    "Job",
    "JobConfig",
    "ModelError",
    "ModelSpec",
    "Optimized",
    "Query",
    "Qwen3Reranker",
    "Reranker",
    "Searcher",
    "Snapshot",
    "Status",
    "StorageConfig",
    "VectormillError",
    "Verdict",
    "__version__",
    "embed_queries_in_lancedb",
    "forget_in_lancedb",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vectormill' has no attribute {name!r}; it has {', '.join(__all__)}")
    import vectormill.own  # noqa: F401 - before anything else of ours

    found = globals()[name] = getattr(importlib.import_module(_WHERE[name]), name)
    return found


def __dir__() -> list[str]:
    return list(__all__)
