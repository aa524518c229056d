"""The stages of a rerank job between reading and writing: rows to pairs, pairs to token ids, ids to scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from actors.replica.pairs import with_ids
from actors.reranker.prompt import RerankEncoded, RerankPrompt
from actors.reranker.recipe import load_prompt
from actors.spec import ModelSpec
from pipelines.config import DOCUMENT, QUERY
from pipelines.engine.stage import Parcel, StageFunction
from pipelines.table.schema import REASONS
from pipelines.tasks.embed import replica, tokenised


def one_a_candidate(rows: pa.Table) -> pa.Table:
    """One record a pair, with `_chunk`: a row whose document is a list gives one for each candidate, numbered; any
    other row is its own. A candidate that is null, empty or white space keeps its place with a reason."""
    documents = rows[DOCUMENT].combine_chunks()
    if not pt.is_list(documents.type):
        return rows.append_column("_chunk", pa.array(np.zeros(len(rows), np.int32)))
    sizes_N = pc.fill_null(pc.list_value_length(documents), 0).to_numpy()
    records_N = np.maximum(sizes_N, 1)  # a row with a reason has no list; it stays one record
    take = np.repeat(np.arange(len(rows)), records_N)
    chunks = np.arange(len(take)) - np.repeat(np.cumsum(records_N) - records_N, records_N)
    texts = np.full(len(take), None, dtype=object)
    texts[np.repeat(sizes_N > 0, records_N)] = documents.flatten().to_numpy(zero_copy_only=False)
    document = pa.array(texts, pa.string())
    place = rows.column_names.index(DOCUMENT)
    out = rows.drop_columns([DOCUMENT]).take(pa.array(take)).add_column(place, DOCUMENT, document)
    out = out.append_column("_chunk", pa.array(chunks, pa.int32()))
    blank = pc.fill_null(pc.or_(pc.utf8_is_space(document), pc.equal(pc.binary_length(document), 0)), True)
    return _without_blank(out, pc.and_(out["_reason"].combine_chunks().is_null(), blank))


def _without_blank(rows: pa.Table, blank: pa.BooleanArray) -> pa.Table:
    if not pc.any(blank).as_py():
        return rows
    places = pc.binary_join_element_wise(rows["id"], rows["_chunk"].cast(pa.string()), " candidate ")
    said = pc.binary_join_element_wise(places, pa.scalar(REASONS["no_document"]), ": ")
    for name, value in (("_reason", pa.scalar("no_document")), ("_detail", said), (DOCUMENT, pa.scalar(None))):
        kept = pc.if_else(blank, value.cast(pa.string()), rows[name])
        rows = rows.set_column(rows.column_names.index(name), name, kept)
    return rows


@dataclass(frozen=True)
class TokenisePairs:
    """Make pairs of rows and turn them into token ids, so that ids, not text, go to the GPU.

    Takes tables of schema.row_schema; gives them with _chunk, _tokens, _truncated and the columns of
    actors.replica.pairs, without the query, and the document under `text_column` or not at all."""

    spec: ModelSpec
    instruction: str | None
    text_column: str | None

    def __call__(self, parcels: list[Parcel]) -> Iterable[Parcel]:
        return tokenised(self.tokenise, parcels)

    def tokenise(self, rows: pa.Table) -> tuple[pa.Table, int, int]:
        """The table for the rerank stage, its token count and how many pairs were truncated. The count is of whole
        pairs, as a model reads them that shares nothing between them."""
        rows = one_a_candidate(rows)
        good_N = rows["_reason"].is_null().to_numpy()
        queries, documents = (rows[name].filter(pa.array(good_N)).to_pylist() for name in (QUERY, DOCUMENT))
        encoded = self._encoded(queries, documents)
        lengths_N, truncated_N = np.zeros(len(rows), np.int32), np.zeros(len(rows), bool)
        lengths_N[good_N] = np.diff(encoded.heads_offsets)[encoded.query_of] + np.diff(encoded.tails_offsets)
        truncated_N[good_N] = encoded.truncated
        rows = rows.append_column("_tokens", pa.array(lengths_N)).append_column("_truncated", pa.array(truncated_N))
        rows = with_ids(rows, encoded, good_N).drop_columns([QUERY])
        if self.text_column is None:
            rows = rows.drop_columns([DOCUMENT])
        else:
            rows = rows.rename_columns([self.text_column if n == DOCUMENT else n for n in rows.column_names])
        return rows, int(lengths_N.sum()), int(truncated_N.sum())

    def _encoded(self, queries: list[str], documents: list[str]) -> RerankEncoded:
        places: dict[str, int] = {}
        query_of = np.array([places.setdefault(query, len(places)) for query in queries], np.int64)
        return _prompt(self.spec).encode(list(places), documents, query_of, self.instruction)


@cache
def _prompt(spec: ModelSpec) -> RerankPrompt:
    return load_prompt(spec)  # type: ignore[return-value]  # or the fake's, which has the same surface


def reranker(spec: ModelSpec) -> StageFunction:
    """One replica, as `stages.embedder`."""
    from actors.replica.rerank import RerankActor  # torch: only where scores are made

    return replica("rerank", partial(RerankActor, spec))
