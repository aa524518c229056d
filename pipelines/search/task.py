"""The task of `bulk-search`: each query of the corpus becomes its hits in another table, one record each.

The table is searched as it was when the first run began, at that version, so that a search that was stopped goes on
over the same rows. Beside the columns of the searched table a record has

| column | type | meaning |
|---|---|---|
| hit_id, chunk, start, end | string, int32 | the row that was found, which passage, and its place in the text |
| similarity | float32 | cosine to the query; null for what only its words found |
| relevance | float32 | by the reranker, 0..1; null without one, or where it gave no number |
| first_rank | int32 | in the first stage, from 1 |

and its `_chunk` is its rank from 0, its `id` the query's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from actors.replica.columns import set_where
from actors.replica.model_thread import ModelThread, Turn
from actors.reranker import recipe
from actors.spec import ModelError, ModelSpec
from pipelines.engine.stage import Item, Parcel, Stage, StageFunction, Tally
from pipelines.errors import TooLarge, VectormillError
from pipelines.rows import REASONS
from pipelines.search.query import Hit, Query
from pipelines.search.searcher import Searcher
from pipelines.table.files import TableAddress
from pipelines.table.schema import TableMetadata, table_schema
from pipelines.tasks.replica import Pool, replica
from pipelines.tasks.task import Words
from pipelines.tasks.write import Results
from pipelines.units import UNIT_BYTES_MOST

QUERIES_AT_ONCE = 128  # whose hits are held as Python objects
QUERY_TOKENS, PASSAGE_TOKENS = 32, 256  # estimates, for the size of a unit
SEARCHED = pa.schema(
    [
        ("hit_id", pa.string()), ("similarity", pa.float32()), ("relevance", pa.float32()), ("first_rank", pa.int32()),
        ("chunk", pa.int32()), ("start", pa.int32()), ("end", pa.int32()),
    ]
)  # fmt: skip
OWN = frozenset({"query_id", "rank", "id", "reason", *SEARCHED.names})


@dataclass(frozen=True)
class Searched:
    """What is searched. address: at the version that it is pinned to. identity: of the table's model."""

    address: TableAddress
    metadata: TableMetadata
    schema: pa.Schema
    transaction: str | None  # that made the version: another table in the same place has another

    @property
    def carried(self) -> tuple[str, ...]:
        """The columns of the table that a hit carries."""
        return tuple(n for n in self.schema.names if n not in ("id", "vector") and not n.startswith("_"))

    @property
    def shown(self) -> pa.Schema:
        """The same in the results: one that has the name of a result is called carried_NAME there."""
        names = {name: f"carried_{name}" if name in OWN else name for name in self.carried}
        return pa.schema([pa.field(new, self.schema.field(name).type) for name, new in names.items()])


@dataclass(frozen=True)
class SearchTask:
    """A query becomes its hits. reranker: its weights, or None for one stage."""

    searched: Searched
    query: Query
    reranker: str | None
    name = "search"
    words = Words(
        "hit",
        "hits",
        "searched",
        "the results of another search",
        "Give another --out, or the options and the table as they were.",
    )
    results = Results(tuple(SEARCHED.names), may_be_null=("similarity", "relevance"))

    def resolve(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        """`spec` is the reranker's, or the embedder's where there is none."""
        searched, query = self.searched, self.query
        facts: dict[str, Any] = {"task": self.name, "dtype": spec.dtype, "reranker": None}
        asked = searched.metadata.model["query_instruction"] if query.instruction is None else query.instruction
        if self.reranker is not None:
            known = recipe.identity(spec, asked or None)
            spec = replace(
                spec,
                max_tokens=known["max_tokens"],
                digest=known["weights"],
                tokenizer_digest=known["tokenizer"],
            )
            facts["reranker"] = known
        facts |= {
            "table": searched.address.uri,
            "table_version": searched.address.version,
            "table_transaction": searched.transaction,
            "table_fingerprint": searched.metadata.fingerprint,
            "limit": query.limit,
            "candidates": query.depth(self.reranker is not None),
            "mode": query.mode,
            "where": query.where,
            "instruction": asked,
            "exact": query.exact,
        }
        if (prompt := searched.metadata.model.get("query_prompt")) is not None:
            facts["query_prompt"] = prompt
        return spec, facts

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        return table_schema([], [*SEARCHED, *self.searched.shown], [], metadata)

    def estimate(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        pairs = self.query.candidates if self.reranker is not None else 0
        return len(rows) * (QUERY_TOKENS + pairs * (QUERY_TOKENS + PASSAGE_TOKENS)), len(rows) * max(1, pairs)

    def passages(self, spec: ModelSpec, rows: pa.Table) -> pa.Table:
        return rows.append_column("_passage", rows["_text"])

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        task, reranker = self, spec if self.reranker is not None else None
        return [pool.stage("search", lambda: searching(task, reranker))]


def searching(task: SearchTask, reranker: ModelSpec | None) -> StageFunction:
    """One replica. What makes one query unsearchable makes all so (the filter, an index that is missing): then the run
    stops."""
    work = replica("search", lambda: SearchActor(task, reranker))

    def search(parcels: list[Parcel]) -> Iterable[Item]:
        for parcel in parcels:
            try:
                for done in work([parcel]):
                    if isinstance(done, Parcel):
                        done = replace(done, tally=done.tally + Tally(records=len(done.rows)))
                    yield done
            except TooLarge as bad:
                yield parcel.failed(str(bad), too_large=True)
            except VectormillError as bad:
                yield parcel.failed(str(bad), fatal=type(bad))

    return search


class SearchActor:
    """A table of queries in, their hits out."""

    def __init__(self, task: SearchTask, reranker: ModelSpec | None):
        self._task, self._query = task, task.query
        embeds = task.query.mode != "text"
        self._thread = ModelThread(lambda: Searcher(task.searched.address, reranker, embeds))
        self._searcher = self._thread.model
        self._reranks = reranker is not None
        self._instruction = self._thread.do(self._embedders_instruction)
        self.facts = self._searcher.facts

    def __call__(self, rows: pa.Table, turns: list[Turn] | None = None) -> pa.Table:
        """Takes tables of rows.row_schema; gives one record a hit, and one a query that has a reason or no hit. turns:
        gets this call's turns with the models. Raises TooLarge for several queries whose hits come to more than
        UNIT_BYTES_MOST."""
        parts: list[pa.Table] = []
        size = 0
        for at in range(0, len(rows), QUERIES_AT_ONCE):
            parts.append(self._searched(rows.slice(at, QUERIES_AT_ONCE), turns))
            size += parts[-1].nbytes
            if size > UNIT_BYTES_MOST and len(rows) > 1:
                raise TooLarge(f"the hits of {len(rows):,} queries come to more than {UNIT_BYTES_MOST >> 20} MiB")
        return pa.concat_tables(parts)

    def _searched(self, rows: pa.Table, turns: list[Turn] | None) -> pa.Table:
        good_N = rows["_reason"].is_null().to_numpy()
        queries = rows["text"].filter(pa.array(good_N)).to_pylist()
        found = iter(self._thread.do(lambda: self._hits(queries), turns))
        lists: list[list[Hit]] = [next(found) if good else [] for good in good_N]
        take = np.repeat(np.arange(len(rows)), [max(1, len(hits)) for hits in lists])
        hits: list[Hit | None] = [hit for several in lists for hit in (several or (None,))]
        out = rows.drop_columns(["text"]).take(pa.array(take))
        chunks = [number for several in lists for number in range(max(1, len(several)))]
        zeros = np.zeros(len(take), np.int32)
        columns = {
            "_chunk": pa.array(chunks, pa.int32()),
            "_passages": pa.array([max(1, len(several)) for several in lists], pa.int32()).take(pa.array(take)),
            "_passage": out["_text"],
            "_tokens": pa.array(zeros),
            "_truncated": pa.array(zeros != 0),
        }
        for field in SEARCHED:
            columns[field.name] = pa.array([_value(hit, field.name) for hit in hits], field.type)
        carried = _carried(hits)
        for name, field in zip(self._task.searched.carried, self._task.searched.shown, strict=True):
            if name in carried.column_names:
                columns[field.name] = carried[name].combine_chunks()
            else:  # the text column is none of a hit's columns: it is its text
                columns[field.name] = pa.array([hit and hit.text for hit in hits], field.type)
        for name, column in columns.items():
            out = out.append_column(name, column)
        nothing_N = good_N[take] & np.array([hit is None for hit in hits], dtype=bool)
        if nothing_N.any():
            out = set_where(out, "_reason", nothing_N, "nothing_found")
            out = set_where(out, "_detail", nothing_N, REASONS["nothing_found"])
        return out

    def _hits(self, texts: list[str]) -> list[list[Hit]]:
        query = self._query
        if query.mode != "vector":
            return [self._searcher.search(text, query) for text in texts]
        if not texts:
            return []
        vectors = self._searcher.embed_queries(texts, self._instruction)  # all at once: that is what a GPU is for
        depth = query.depth(self._reranks)
        found = [self._searcher.nearest(vector, depth, query.where, query.exact) for vector in vectors]
        if not self._reranks:
            return found
        return [
            self._searcher.rerank(text, hits, query.instruction, query.limit)
            for text, hits in zip(texts, found, strict=True)
        ]

    def _embedders_instruction(self) -> str | None:
        """The instruction, if the embedder takes one: it may be for the reranker alone."""
        if not self._reranks or self._query.instruction is None or self._query.mode != "vector":
            return self._query.instruction
        try:
            self._searcher.embed_queries(["test"], self._query.instruction)
        except ModelError:
            return None
        return self._query.instruction


def _carried(hits: list[Hit | None]) -> pa.Table:
    """The carried columns of each hit as the searched table has them, null where there is no hit."""
    rows = [hit.carried for hit in hits if hit is not None]
    if not rows:
        return pa.table({})
    there = np.array([hit is not None for hit in hits])
    return pa.concat_tables(rows).take(pa.array(np.cumsum(there) - 1, mask=~there))


def _value(hit: Hit | None, name: str) -> object:
    if hit is None:
        return None
    value = hit.id if name == "hit_id" else getattr(hit, name)
    return None if isinstance(value, float) and math.isnan(value) else value
