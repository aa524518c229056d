"""`vectormill search`: find passages in one stage or two.

    text ─ embed ──> nearest vectors ─┐
         └─────────> full text ───────┴─ fuse ──> candidates ─ rerank ──> hits

First stage: the nearest vectors to the query's, embedded with the table's own model and prompt; or the best matches of
its words (BM25, needs a full-text index); or both, fused by their ranks. It is fast and finds much. Second stage: a
reranker reads the query with each candidate and says how relevant it is, 0 to 1. It is slow and orders well.

Legend: N texts, D dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.spec import ModelSpec
from pipelines.errors import ConfigError, TableError
from pipelines.search.passages import Passages
from pipelines.search.query import Hit, Mode, Query
from pipelines.search.query_model import query_embedder
from pipelines.table.digests import DIGEST_FIELDS
from pipelines.table.files import TableAddress
from pipelines.table.lookup import CARRIED, Lookup
from pipelines.table.schema import NEW_FIELDS, OF_THE_MODEL, PROVENANCE, TableMetadata
from pipelines.table.table import open_table

RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it: how little the first ranks tower above the rest
NOT_SHOWN = (
    *("id", "vector", "_start", "_end"),
    *(field.name for field in (*PROVENANCE, *NEW_FIELDS, *OF_THE_MODEL, *DIGEST_FIELDS)),
)


class Searcher:
    """Holds the table, as it is now, and the models open for many queries. Not thread-safe.

    table: where it is, or its name: FOLDER/NAME. reranker: which model, or its weights alone. embeds: False loads no
    embedder, for a Searcher that is only asked for mode "text" and given vectors.
    Raises TableError for a table that is missing, empty or of other weights, or whose texts cannot be had for the
    reranker; ModelError for weights that are missing or not what they must be."""

    def __init__(self, table: TableAddress | str, reranker: ModelSpec | str | None = None, embeds: bool = True):
        address = TableAddress.named(table) if isinstance(table, str) else table
        self._location = address.location
        self.table = open_table(address, "embed", lances_cache=True)
        if self.table.count_rows() == 0:
            raise TableError(f"{address.location} is empty; run `vectormill embed` first")
        self.metadata: TableMetadata = self.table.metadata
        self._passages = Passages(self.table.schema, self.metadata)
        self._shown = [n for n in self.table.schema.names if n not in NOT_SHOWN and n != self._passages.stored]
        self._lookup = Lookup(self.table, ["id", "_chunk", "_start", "_end", *self._shown, *self._passages.columns])
        if reranker is not None and not self._passages.columns:
            raise self._without_texts()
        self._embedder = query_embedder(self.metadata, address.location, address.storage) if embeds else None
        self.reranker: Any = None
        if reranker is not None:  # last: of the memory that is then left, it takes what it can use
            from actors.reranker.reranker import Reranker  # torch

            self.reranker = Reranker(reranker)

    def search(self, text: str, query: Query | None = None) -> list[Hit]:
        """The passages that answer `text` best, reranked if there is a reranker.

        An instruction goes to both models. A model that takes none is not asked to when there is a reranker that does.
        Raises VectormillError if the text is empty, the filter does not parse, or the table cannot be searched so;
        ModelError if an instruction is given and no model takes one."""
        query = query or Query()
        if not text.strip():
            raise ConfigError("the query is empty; give a text to search for")
        depth = query.depth(self.reranker is not None)
        if query.mode == "text":
            if query.instruction is not None and self.reranker is None:
                raise ConfigError("an instruction is for a model, and mode text asks none: leave it out, or rerank")
            hits = self._hits(self._lookup.matching(text, depth, query.where), "_score")
        else:
            instruction = query.instruction if self._takes_instruction() else None
            vector = self.embed_queries([text], instruction)[0]
            if query.mode == "vector":
                hits = self.nearest(vector, depth, query.where, query.exact)
            else:
                words = self._lookup.matching(text, depth, query.where)  # first: it may refuse, and costs less
                vectors = self._lookup.nearest(vector, depth, query.where, query.exact)
                hits = self._hits(fuse(vectors, words)[:depth], "_fused")
        if self.reranker is None:
            return hits[: query.limit]
        return self.rerank(text, hits, query.instruction, query.limit)

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Vectors float32 [N, D] of queries, of unit length, with the table's own model and dimensions.

        `instruction` is put in place of the table's own (see `TextTokenizer.encode_queries`)."""
        if self._embedder is None:
            raise ConfigError("this Searcher was made without an embedder; make it with embeds=True")
        if instruction is None:
            instruction = self.metadata.model["query_instruction"]
        return self._embedder.embed_queries(texts, instruction)

    def nearest(self, vector: np.ndarray, limit: int, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The `limit` records whose vectors have the largest cosine to `vector`, float32 [D]; those without a vector
        are never found. `exact` compares with every vector. Raises VectormillError as `search` does."""
        return self._hits(self._lookup.nearest(vector, limit, where, exact), "_similarity")

    def rerank(
        self, text: str, hits: Sequence[Hit], instruction: str | None = None, limit: int | None = None
    ) -> list[Hit]:
        """The hits in the order of their relevance to `text`, the first `limit` of them; equal ones keep their order.

        `instruction` is what to judge by; None is the table's own or, if it has none, the reranker's.
        Raises VectormillError if there is no reranker, or a hit has no text."""
        if self.reranker is None:
            raise ConfigError("there is no reranker; make the Searcher with one, or give --rerank WEIGHTS")
        texts = []
        for hit in hits:
            if hit.text is None:
                raise self._without_texts(f", such as that of {hit.id}")
            texts.append(hit.text)
        if instruction is None:
            instruction = self.metadata.model["query_instruction"]
        ranked = self.reranker.rank(text, texts, instruction or None, limit)
        return [
            replace(hits[found.index], rank=rank, score=found.score, relevance=found.score)
            for rank, found in enumerate(ranked, start=1)
        ]

    @property
    def facts(self) -> dict[str, str]:
        """What its models compute with, by name; the reranker's, where they differ: it does most of the work."""
        return {**(self._embedder.facts if self._embedder else {}), **(self.reranker.facts if self.reranker else {})}

    def unindexed(self, mode: Mode) -> dict[str, int]:
        """Rows outside the indexes that a search in this mode goes through, by kind of index. They are searched too,
        one by one, so many of them make it slow. Absent: an index that does not exist."""
        kinds = {"vector": ("vector",), "text": ("full-text",), "hybrid": ("vector", "full-text")}[mode]
        return {kind: rows for kind, rows in self._lookup.unindexed().items() if kind in kinds}

    def _hits(self, records: Sequence[dict[str, Any]], score: str) -> list[Hit]:
        return [
            Hit(
                rank=rank,
                id=record["id"],
                score=record[score],
                similarity=record.get("_similarity"),
                relevance=None,
                first_rank=rank,
                chunk=record["_chunk"],
                start=record["_start"],
                end=record["_end"],
                text=self._passages.of(record),
                columns={name: record[name] for name in self._shown},
                carried=record[CARRIED].select(self._shown),
            )
            for rank, record in enumerate(records, start=1)
        ]

    def _takes_instruction(self) -> bool:
        """False only where the reranker takes it alone."""
        return self.reranker is None or self._embedder is None or self._embedder.takes_instruction

    def _without_texts(self, such_as: str = "") -> TableError:
        sources = ", ".join(self._passages.made_of)
        return TableError(
            f"{self._location} does not hold its texts{such_as}, and a reranker reads them: embed into a table with "
            f"table.text_column set, or with {sources} in corpus.columns; or search without --rerank"
        )


def fuse(*lists: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reciprocal rank fusion: records by the sum, over the lists, of 1 / (60 + rank there); it is added as `_fused`.

    A record is told by its `_rowid` and gets what each list says of it. Equal sums keep the order of the first list."""
    found: dict[int, dict[str, Any]] = {}
    for records in lists:
        for rank, record in enumerate(records, start=1):
            before = found.get(record["_rowid"], {"_fused": 0.0})
            found[record["_rowid"]] = {**before, **record, "_fused": before["_fused"] + 1 / (RANK_OFFSET + rank)}
    return sorted(found.values(), key=lambda record: -record["_fused"])
