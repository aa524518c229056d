"""`vectormill search`: find passages in one stage or two.

    text ─ embed ──> nearest vectors ─┐
         └─────────> full text ───────┴─ fuse ──> candidates ─ rerank ──> hits

First stage: the nearest vectors to the query's, embedded with the table's own model and prompt; or the best matches of
its words (BM25, needs a full-text index); or both, fused by their ranks. It is fast and finds much. Second stage: a
reranker reads the query with each candidate and says how relevant it is, 0 to 1. It is slow and orders well.

Search is exact unless the table has a vector index; the index is then searched as `vectormill optimize` measured that
it must be. Rows it does not hold yet are searched one by one.

Legend: N texts, D dimensions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import lance
import numpy as np
import pyarrow as pa
from lance.query import MatchQuery, MultiMatchQuery

from actors.spec import ModelSpec
from pipelines.errors import ConfigError, TableError, VectormillError
from pipelines.maintenance.status import open_table
from pipelines.search.passages import Passages
from pipelines.search.query_model import query_embedder
from pipelines.table.digests import DIGEST_FIELDS
from pipelines.table.files import TableAddress, reading
from pipelines.table.index.records import tuning_of
from pipelines.table.schema import TableMetadata

Mode = Literal["vector", "text", "hybrid"]
CANDIDATES = 100
RANK_OFFSET = 60  # of reciprocal rank fusion, as its authors chose it: how little the first ranks tower above the rest
REFINE_FACTOR = 10  # with an index that nobody tuned: sort this many times `limit` candidates by the stored vectors
NOT_SHOWN = (
    *("id", "vector", "_shard", "_unit", "_row", "_chunk", "_start", "_end", "_tokens", "_truncated", "_reason"),
    *("_detail", *(field.name for field in DIGEST_FIELDS)),
)


@dataclass(frozen=True)
class Query:
    """How to search. Raises ConfigError for what cannot be.

    limit: most hits. where: SQL filter over the table's columns, applied before the search. instruction: what to look
    for, in place of the table's own; "" leaves the prompt out. candidates: how many the first stage finds for the
    fusion and the reranker. exact: compare with every vector, whatever the index."""

    limit: int = 10
    where: str | None = None
    instruction: str | None = None
    mode: Mode = "vector"
    candidates: int = CANDIDATES
    exact: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"there is no search mode {self.mode!r}; there are {', '.join(get_args(Mode))}")
        for name in ("limit", "candidates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be at least 1")

    def depth(self, reranked: bool) -> int:
        """How many hits the first stage must find. Raises ConfigError when they are fewer than asked for."""
        if self.mode != "hybrid" and not reranked:
            return self.limit
        if self.candidates < self.limit:
            raise ConfigError(
                f"{self.limit} hits cannot be chosen from {self.candidates} candidates: set --candidates to "
                f"{self.limit} or more, several times that to let fusion and reranking choose"
            )
        return self.candidates


@dataclass(frozen=True)
class Hit:
    """One passage found.

    rank: place in this list, from 1; first_rank: that in the first stage. score: what the list is ordered by: the
    relevance if reranked, else the similarity, the BM25 score (mode text) or the sum of reciprocal ranks (hybrid).
    similarity: the cosine to the query, -1 to 1; None for what only the words found. relevance: by the reranker, 0 to
    1; None without one, NaN where it gave no number. chunk, start, end: which passage of its row, and its characters
    there. text: the passage, None if it cannot be had. columns: the table's own, beside id and text."""

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
    """Holds the table, as it is now, and the models open for many queries. Not thread-safe.

    embeds: False loads no embedder, for a Searcher that is only asked for mode "text" and given vectors.
    Raises TableError for a table that is missing, empty or of other weights, or whose texts cannot be had for the
    reranker; ModelError for weights that are missing or not what they must be."""

    def __init__(self, address: TableAddress, reranker: ModelSpec | None = None, embeds: bool = True):
        table = open_table(address, "embed")
        if table.count_rows() == 0:
            raise TableError(f"{address.location} is empty; run `vectormill embed` first")
        self._location = address.location
        self.metadata: TableMetadata = table.metadata
        # With Lance's own cache, which holds an index: that of a run, 64 MB, would read one anew for each query.
        with reading(address):
            self.dataset = lance.dataset(address.uri, table.version, storage_options=address.options)
        self._passages = Passages(table.schema, table.metadata)
        self._shown = [n for n in table.schema.names if n not in NOT_SHOWN and n != self._passages.stored]
        self._tuning = tuning_of(self.dataset)
        if reranker is not None and not self._passages.columns:
            raise self._without_texts()
        self._embedder = query_embedder(table.metadata, address.location, address.storage) if embeds else None
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
            raise VectormillError("the query is empty; give a text to search for")
        depth = query.depth(self.reranker is not None)
        if query.mode == "text":
            if query.instruction is not None and self.reranker is None:
                raise ConfigError("an instruction is for a model, and mode text asks none: leave it out, or rerank")
            hits = self._hits(self._matching(text, depth, query.where), "_score")
        else:
            instruction = query.instruction if self._takes_instruction() else None
            vector = self.embed_queries([text], instruction)[0]
            if query.mode == "vector":
                hits = self.nearest(vector, depth, query.where, query.exact)
            else:
                words = self._matching(text, depth, query.where)  # first: it may refuse, and costs less
                vectors = self._nearest(vector, depth, query.where, query.exact)
                hits = self._hits(fuse(vectors, words)[:depth], "_fused")
        if self.reranker is None:
            return hits[: query.limit]
        return self.rerank(text, hits, query.instruction, query.limit)

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Vectors float32 [N, D] of queries, of unit length, with the table's own model and dimensions.

        `instruction` is put in place of the table's own (see `TextTokenizer.encode_queries`)."""
        if self._embedder is None:
            raise VectormillError("this Searcher was made without an embedder; make it with embeds=True")
        if instruction is None:
            instruction = self.metadata.model["query_instruction"]
        return self._embedder.embed_queries(texts, instruction)

    def nearest(self, vector: np.ndarray, limit: int, where: str | None = None, exact: bool = False) -> list[Hit]:
        """The `limit` records whose vectors have the largest cosine to `vector`, float32 [D]; those without a vector
        are never found. `exact` compares with every vector. Raises VectormillError as `search` does."""
        return self._hits(self._nearest(vector, limit, where, exact), "_similarity")

    def rerank(
        self, text: str, hits: Sequence[Hit], instruction: str | None = None, limit: int | None = None
    ) -> list[Hit]:
        """The hits in the order of their relevance to `text`, the first `limit` of them; equal ones keep their order.

        `instruction` is what to judge by; None is the table's own or, if it has none, the reranker's.
        Raises VectormillError if there is no reranker, or a hit has no text."""
        if self.reranker is None:
            raise VectormillError("there is no reranker; make the Searcher with one, or give --rerank WEIGHTS")
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

    def unindexed(self, mode: Mode) -> dict[str, int]:
        """Rows outside the indexes that a search in this mode goes through, by kind of index. They are searched too,
        one by one, so many of them make it slow. Absent: an index that does not exist."""
        kinds = {"vector": ("vector",), "text": ("full-text",), "hybrid": ("vector", "full-text")}[mode]
        fragments = {f.fragment_id: f.metadata.num_rows for f in self.dataset.get_fragments()}
        found: dict[str, int] = {}
        for index in self._indices:
            kind = "full-text" if index.index_type == "Inverted" else "vector"
            if kind not in kinds or (kind == "vector" and index.field_names != ["vector"]):
                continue
            held = {number for segment in index.segments for number in segment.fragment_ids}
            outside = sum(rows for number, rows in fragments.items() if number not in held)
            found[kind] = max(found.get(kind, 0), outside)
        return found

    # ------------------------------------------------------------------ the first stage

    @cached_property
    def _indices(self) -> list[Any]:
        return list(self.dataset.describe_indices())

    def _nearest(self, vector: np.ndarray, limit: int, where: str | None, exact: bool) -> list[dict[str, Any]]:
        """Records, nearest first, each with its `_rowid` and `_similarity`."""
        nearest: dict[str, Any] = {
            "column": "vector",
            "q": vector,
            "k": limit,
            "metric": "cosine",
            "use_index": not exact,
            "refine_factor": REFINE_FACTOR,
        }
        if self._tuning is not None:
            nearest["refine_factor"] = self._tuning.refine_factor
            # A minimum: with `nprobes` Lance never looks further, and a filter that few rows of those partitions pass
            # gives too few hits, or none. Effort 0 begins at the minimum. Left out, it begins with more, which a filter
            # needs: the nearest that pass it lie further away than the nearest.
            nearest["minimum_nprobes"] = self._tuning.nprobes
            nearest["search_effort"] = None if where else 0.0
        records = self._scan("_distance", where, nearest=nearest)
        found = [{**r, "_similarity": 1.0 - r["_distance"]} for r in records if r["_distance"] is not None]
        return _best_first(found, "_similarity")

    def _matching(self, text: str, limit: int, where: str | None) -> list[dict[str, Any]]:
        """Records that have words of the text, best first, each with its `_rowid` and `_score`."""
        columns = [index.field_names[0] for index in self._indices if index.index_type == "Inverted"]
        if not columns:
            raise TableError(
                f"{self._location} has no full-text index, which modes text and hybrid need: build one with "
                "`vectormill optimize TABLE --full-text auto`, or search with --mode vector"
            )
        query = MatchQuery(text, columns[0]) if len(columns) == 1 else MultiMatchQuery(text, columns)
        found = self._scan("_score", where, full_text_query=query, limit=limit)
        # An index on a carried column holds rows without a vector too. Few, so they are dropped here.
        return _best_first([record for record in found if record["_reason"] is None], "_score")

    def _scan(self, score: str, where: str | None, **search: Any) -> list[dict[str, Any]]:
        columns = [*("id", "_chunk", "_start", "_end", "_reason"), *self._shown, *self._passages.columns]
        try:
            scanner = self.dataset.scanner(
                columns=[*dict.fromkeys(columns), score],
                filter=where or None,
                prefilter=True,
                with_row_id=True,
                **search,
            )
            return scanner.to_table().to_pylist()
        except (ValueError, RuntimeError, OSError, pa.ArrowException) as bad:
            message = f"the search failed: {_without_rust(bad)}"
            if where:
                message += f"\n--where was {where!r}; the columns are {', '.join(self.dataset.schema.names)}"
            raise VectormillError(message) from bad

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


def _best_first(records: Sequence[dict[str, Any]], score: str) -> list[dict[str, Any]]:
    """Equal ones in the order of the table: Lance gives them in any."""
    return sorted(records, key=lambda record: (-record[score], record["_rowid"]))


def _without_rust(error: BaseException) -> str:
    """The error's first line, without the place in Lance's source where it arose."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r", \S+\.rs:\d+.*", "", lines[0])
