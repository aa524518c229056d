"""`vectormill search`: find passages by meaning, with the table's own model and prompt.

Exact search unless the table has a vector index. The query is embedded by the weights whose digest is in the table's
fingerprint; other weights are refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from actors.spec import ModelSpec
from pipelines.digests import DIGEST_FIELDS
from pipelines.errors import ConfigError, TableError, VectormillError
from pipelines.lance_files import TableAddress
from pipelines.lance_table import LanceTable
from pipelines.status import open_table

HIDDEN = (
    *("vector", "_shard", "_unit", "_row", "_tokens", "_truncated", "_reason", "_detail", "_distance"),
    *(field.name for field in DIGEST_FIELDS),
)


@dataclass(frozen=True)
class Query:
    """How to search."""

    limit: int = 10
    where: str | None = None
    instruction: str | None = None
    mode: str = "vector"
    candidates: int = 100
    exact: bool = False

    def depth(self, reranked: bool) -> int:
        """How many hits the first stage must find. Raises ConfigError when they are fewer than asked for."""
        if not reranked:
            return self.limit
        if self.candidates < self.limit:
            raise ConfigError(f"{self.limit} hits cannot be chosen from {self.candidates} candidates")
        return self.candidates


@dataclass(frozen=True)
class Hit:
    """One passage found."""

    rank: int
    id: str
    score: float
    similarity: float | None
    relevance: float | None
    first_rank: int
    chunk: int
    start: int
    end: int
    text: str | None
    columns: dict[str, Any]


class Searcher:
    """Holds the model and the table open for many queries."""

    def __init__(self, address: TableAddress, reranker: ModelSpec | None = None):
        table = open_table(address, "embed")
        if table.count_rows() == 0:
            raise TableError(f"{address.location} is empty; run `vectormill embed` first")
        self.metadata, self.dataset = table.metadata, table.dataset
        self._embedder = _query_embedder(table)
        self.reranker: Any = None
        if reranker is not None:
            from actors.reranker import Reranker

            self.reranker = Reranker(reranker)

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Vectors float32 [N, D] of queries."""
        if instruction is None:
            instruction = self.metadata.model["query_instruction"]
        return self._embedder.embed_queries(texts, instruction)

    def search(self, text: str, query: Query | None = None) -> list[Hit]:
        """The passages that answer `text` best, reranked if there is a reranker."""
        query = query or Query()
        if not text.strip():
            raise VectormillError("the query is empty; give a text to search for")
        depth = query.depth(self.reranker is not None)
        hits = self.nearest(self.embed_queries([text], query.instruction)[0], depth, query.where, query.exact)
        return self.rerank(text, hits, query.instruction, query.limit) if self.reranker else hits

    def nearest(self, vector: np.ndarray, limit: int, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The `limit` records whose vectors have the largest cosine to `vector`, float32 [D]."""
        nearest = {"column": "vector", "q": vector, "k": limit, "metric": "cosine", "use_index": not exact}
        shown = [n for n in self.dataset.schema.names if n not in HIDDEN and n != "id"]
        try:
            found = self.dataset.to_table(columns=["id", *shown], nearest=nearest, filter=where, prefilter=True)
        except (ValueError, RuntimeError, OSError) as bad:
            message = f"the search failed: {_without_rust(bad)}"
            if where:
                message += f"\n--where was {where!r}; the columns are {', '.join(self.dataset.schema.names)}"
            raise VectormillError(message) from bad
        rows = [row for row in found.to_pylist() if row["_distance"] is not None]
        return [
            Hit(
                *(rank, row["id"], 1 - row["_distance"], 1 - row["_distance"], None, rank),
                *(row["_chunk"], row["_start"], row["_end"], row.get("text")),
                {n: row[n] for n in shown if n not in ("_chunk", "_start", "_end", "text")},
            )
            for rank, row in enumerate(rows, start=1)
        ]

    def rerank(
        self, text: str, hits: Sequence[Hit], instruction: str | None = None, limit: int | None = None
    ) -> list[Hit]:
        """The hits in the order of their relevance to `text`, the first `limit` of them."""
        ranked = self.reranker.rank(text, [hit.text for hit in hits], instruction or None, limit)
        return [
            replace(hits[found.index], rank=rank, score=found.score, relevance=found.score)
            for rank, found in enumerate(ranked, start=1)
        ]


def _query_embedder(table: LanceTable) -> Any:
    from actors.embedder import Embedder  # torch: only when a query must be embedded
    from actors.recipe import identity

    known, model = table.metadata.identity, table.metadata.model
    storage = {k: str(v) for k, v in table.address.storage.model_dump().items() if v is not None}
    spec = ModelSpec(
        weights=model["weights"],
        revision=model["resolved_revision"] or model["revision"],
        dimensions=known["dimensions"],
        max_tokens=known["max_tokens"],
        dtype=known["dtype"],
        prompt=known["prompt"],
        s3=tuple(sorted(storage.items())),
        digest=known["weights"],
        tokenizer_digest=known["tokenizer"],
        force_float16=True,  # if the table is in it, its maker has
    )
    differences = [k for k, here in identity(spec).items() if known.get(k) != here]
    if differences:
        raise TableError(
            f"{table.address.location} was not made with the weights that are now at {spec.weights!r}: "
            f"{', '.join(differences)} differ, so its vectors and the query's would not be comparable. Put the weights "
            "of the table back there, or embed the corpus into a new table."
        )
    return Embedder(spec)


def _without_rust(error: BaseException) -> str:
    """The error's first line, without the place in Lance's source where it arose."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r", \S+\.rs:\d+.*", "", lines[0])
