"""`vectormill search`: find passages by meaning, with the table's own model and prompt.

Exact search unless the table has a vector index. The query is embedded by the weights whose digest is in the table's
fingerprint; other weights are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import lancedb
import numpy as np

from actors.spec import ModelSpec
from pipelines.digests import DIGEST_FIELDS
from pipelines.errors import TableError, VectormillError
from pipelines.lance_files import TableAddress, reading
from pipelines.lance_table import LanceTable
from pipelines.schema import TableMetadata
from pipelines.status import open_table

REFINE_FACTOR = 10  # with a quantised index: re-rank this many times `limit` candidates by the stored vectors
HIDDEN = (
    *("vector", "_shard", "_unit", "_row", "_tokens", "_truncated", "_reason", "_detail", "_distance"),
    *(field.name for field in DIGEST_FIELDS),
)


@dataclass(frozen=True)
class Hit:
    """One passage found: cosine similarity in [-1, 1], the row's id, and the columns the table carries."""

    score: float
    id: str
    columns: dict[str, Any]


class Searcher:
    """Holds the model and the table open for many queries."""

    def __init__(self, address: TableAddress, reranker: ModelSpec | None = None):
        self._reranker = reranker
        self._table = open_table(address)
        if self._table.count_rows() == 0:
            raise TableError(f"{address.location} is empty; run `vectormill embed` first")
        self._embedder = _query_embedder(self._table)
        uri, _, name = address.uri.removesuffix(".lance").rpartition("/")
        with reading(address):
            self._lancedb = lancedb.connect(uri, storage_options=address.options).open_table(name)

    def search(self, text: str, limit: int = 10, where: str | None = None, instruction: str | None = None) -> list[Hit]:
        """The `limit` most similar records; `where` is a SQL filter over the table's columns.

        `instruction` says what to look for, in place of the table's own (see `TextTokenizer.encode_queries`).
        Raises VectormillError if the text is empty or the filter does not parse."""
        if not text.strip():
            raise VectormillError("the query is empty; give a text to search for")
        if instruction is None:
            instruction = self._table.metadata.model["query_instruction"]
        vector = self._embedder.embed_queries([text], instruction)[0]
        return self.search_vector(vector, limit, where)

    @property
    def metadata(self) -> TableMetadata:
        return self._table.metadata

    @property
    def dataset(self) -> Any:
        return self._table.dataset

    def embed_queries(self, texts: list[str], instruction: str | None = None) -> np.ndarray:
        """float32 [N, D]"""
        if instruction is None:
            instruction = self._table.metadata.model["query_instruction"]
        return np.asarray(self._embedder.embed_queries(texts, instruction))

    def nearest(self, vector: np.ndarray, limit: int, where: str | None = None, exact: bool = False) -> list[Hit]:
        query = self._lancedb.search(vector, vector_column_name="vector").distance_type("cosine").limit(limit)
        query = query.bypass_vector_index() if exact else query.refine_factor(REFINE_FACTOR)
        rows = query.to_arrow().to_pylist()
        return [Hit(1.0 - row["_distance"], row["id"], row) for row in rows if row["_distance"] is not None]

    def rerank(self, text: str, hits: list[Hit], instruction: str | None = None, limit: int | None = None) -> list[Hit]:
        from actors.reranker import Reranker

        assert self._reranker is not None
        ranked = Reranker(self._reranker).rank(text, [hit.columns["text"] for hit in hits], instruction, limit)
        return [hits[one.index] for one in ranked]

    def search_vector(self, vector: np.ndarray, limit: int = 10, where: str | None = None) -> list[Hit]:
        """As `search`, for a query vector [dimensions] float32 of unit length."""
        query = self._lancedb.search(vector, vector_column_name="vector").distance_type("cosine").limit(limit)
        query = query.refine_factor(REFINE_FACTOR)
        if where:
            query = query.where(where, prefilter=True)
        try:
            rows = query.to_arrow().to_pylist()
        except (ValueError, RuntimeError, OSError) as bad:
            message = f"the search failed: {_without_rust(bad)}"
            if where:
                message += f"\n--where was {where!r}; the columns are {', '.join(self._table.schema.names)}"
            raise VectormillError(message) from bad
        return [
            Hit(1.0 - row["_distance"], row["id"], {k: v for k, v in row.items() if k != "id" and k not in HIDDEN})
            for row in rows
            if row["_distance"] is not None
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
