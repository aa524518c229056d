"""For programs that use `lancedb` itself: our reranker, and the table's own model behind `table.search("some text")`.

    table.search("text").rerank(Qwen3Reranker("Qwen/Qwen3-Reranker-0.6B"))

The reranker needs nothing of the table but a column of texts. The model is found through LanceDB's registry of
embedding functions, which the table's own metadata refers to; that is opt-in (`embed_queries_in_lancedb`), because a
process that has not imported this module cannot search such a table by text, nor add to it: LanceDB raises KeyError for
a name it does not know. Vector and full-text search, reading, and all commands of vectormill work without it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from lancedb.embeddings import EmbeddingFunctionConfig, TextEmbeddingFunction, get_registry, register
from lancedb.rerankers import Reranker

from actors.spec import ModelSpec
from pipelines.config import StorageConfig
from pipelines.errors import VectormillError
from pipelines.search.query_model import query_embedder
from pipelines.table.files import TableAddress
from pipelines.table.schema import TableMetadata, text_column_of
from pipelines.table.table import open_table

if TYPE_CHECKING:
    from actors.reranker.reranker import Reranker as Model

REGISTERED_AS = "vectormill"
FUNCTIONS_KEY = "embedding_functions"  # where LanceDB looks
RELEVANCE = "_relevance_score"


class Qwen3Reranker(Reranker):
    """Qwen3-Reranker as LanceDB calls it, for vector, full-text and hybrid searches.

    Adds `_relevance_score` (float32, 0 to 1) and puts the most relevant first. It orders what it is given, so search
    with a `.limit` of some 100 and take the first of the result.

    model: which one, its weights alone, or a loaded `vectormill.Reranker`, to share one. column: holds the texts; null
    ones get no score and come last. instruction: what to judge by; None = the recipe's. return_score: "relevance", or
    "all" to keep `_distance` and `_score`. Raises ModelError as that `Reranker` does."""

    def __init__(
        self,
        model: ModelSpec | str | Model,
        column: str = "text",
        instruction: str | None = None,
        return_score: str = "relevance",
    ):
        super().__init__(return_score)
        if isinstance(model, (ModelSpec, str)):
            from actors.reranker.reranker import Reranker as Loaded  # torch

            model = Loaded(model)
        self._model = model
        self._column = column
        self._instruction = instruction

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """The results of a vector search, reranked."""
        return self._reranked(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """The results of a full-text search, reranked."""
        return self._reranked(query, fts_results)

    def rerank_hybrid(self, query: str, vector_results: pa.Table, fts_results: pa.Table) -> pa.Table:
        """The results of both, each row once, reranked."""
        merge = self._merge_and_keep_scores if self.score == "all" else self.merge_results
        return self._reranked(query, merge(vector_results, fts_results))

    def _reranked(self, query: str, results: pa.Table) -> pa.Table:
        if results.num_rows == 0:
            return self._keep_relevance_score(self._handle_empty_results(results))
        if self._column not in results.column_names:
            raise VectormillError(
                f"the results have no column {self._column!r} to rerank by, only {', '.join(results.column_names)}: "
                "select it, or name the one with the texts: Qwen3Reranker(..., column=...)"
            )
        texts = results[self._column].to_pylist()
        has_text = np.array([text is not None for text in texts])
        found = self._model.score_pairs([(query, text) for text in texts if text is not None], self._instruction)
        logits, scores = np.full((2, len(texts)), np.nan, dtype=np.float32)
        logits[has_text], scores[has_text] = found.logits, found.scores
        results = results.append_column(RELEVANCE, pa.array(scores, from_pandas=True))  # NaN becomes null
        # By the logits: scores near 1 are the same in float32 long before these are. NaN comes last.
        return self._keep_relevance_score(results.take(pa.array(np.argsort(-logits, kind="stable"))))


@register(REGISTERED_AS)
class TableModel(TextEmbeddingFunction):
    """The model of a vectormill table as one of LanceDB's embedding functions: the same prompt, dimensions, dtype and
    refusal of other weights as in `vectormill search`. `s3://` weights are reached as the environment says.

    table_metadata: the table's `TableMetadata` as JSON."""

    table_metadata: str
    max_retries: int = 0  # what fails here fails again: there is no network, after the weights are there

    def ndims(self) -> int:
        """Length of the vectors."""
        return int(_metadata(self.table_metadata).identity["dimensions"])

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        """The query's vector, with the table's query instruction."""
        instruction = _metadata(self.table_metadata).model["query_instruction"]
        return list(_embedder(self.table_metadata).embed_queries([query], instruction))

    def generate_embeddings(self, texts: list[str] | np.ndarray, *args: Any, **kwargs: Any) -> list[np.ndarray]:
        """Vectors of documents, with the table's document prompt."""
        return list(_embedder(self.table_metadata).embed_documents(list(texts)))


def embed_queries_in_lancedb(table: TableAddress | str) -> None:
    """Have LanceDB embed with the table's own model wherever a program that has imported this module searches the table
    by text. Lasts until `forget_in_lancedb`; safe while a job runs. Raises TableError, StorageError."""
    opened = open_table(_address(table))
    function = TableModel.create(table_metadata=opened.metadata.to_json())
    source = text_column_of(opened.schema) or "text"  # what `Table.add` would embed; a search does not ask
    config = EmbeddingFunctionConfig(vector_column="vector", source_column=source, function=function)
    stored = get_registry().get_table_metadata([config])
    opened.set_schema_metadata(FUNCTIONS_KEY, stored[FUNCTIONS_KEY].decode())


def forget_in_lancedb(table: TableAddress | str) -> None:
    """Undo `embed_queries_in_lancedb`. Raises TableError, StorageError."""
    open_table(_address(table)).set_schema_metadata(FUNCTIONS_KEY, None)


def _address(table: TableAddress | str) -> TableAddress:
    return TableAddress.named(table) if isinstance(table, str) else table


@cache
def _metadata(table_metadata: str) -> TableMetadata:
    return TableMetadata.from_json(table_metadata)


@cache
def _embedder(table_metadata: str) -> Any:
    """Once a process: LanceDB makes a new function for every search."""
    return query_embedder(_metadata(table_metadata), "the table", StorageConfig())
