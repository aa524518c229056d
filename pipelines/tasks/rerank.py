"""The task `rerank`: a row's document, or each of its candidates, becomes a score: how relevant it is to the row's
query. Rows to pairs, pairs to token ids, ids to scores.

| column | type | meaning |
|---|---|---|
| score | float32 | relevance of the document to the query, 0..1 |
| logit | float32 | what the score is the sigmoid of; order by it: scores near 1 are soon the same |

`_chunk` is the candidate's place in its list.

Legend: N rows or records.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from actors.checks.layouts import LOGIT_TOLERANCE
from actors.replica.pairs import with_ids
from actors.reranker import recipe
from actors.reranker.prompt import RerankEncoded, RerankPrompt
from actors.reranker.recipe import scores_of
from actors.spec import ModelSpec
from pipelines.config import DOCUMENT, QUERY, JobConfig
from pipelines.content import row_digests
from pipelines.engine.stage import Stage, StageFunction
from pipelines.rows import REASONS
from pipelines.table.schema import TableMetadata, table_schema, with_text
from pipelines.tasks.replica import Pool, replica, tokenise_stage
from pipelines.tasks.task import ANOTHER_TABLE, Again, Drawn, Soundness, Words
from pipelines.tasks.write import Results

SCORE, LOGIT = "score", "logit"
SCORE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RerankTask:
    """A row's document, or each of its candidates, becomes a score: how relevant it is to the row's query."""

    job: JobConfig
    name = "rerank"
    words = Words("score", "scores", "scored", "other scores", ANOTHER_TABLE)
    results = Results((SCORE, LOGIT))

    def resolve(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        corpus = self.job.corpus
        facts = {"task": self.name, **recipe.identity(spec, self.job.model.instruction)}
        spec = replace(
            spec,
            max_tokens=facts["max_tokens"],
            digest=facts["weights"],  # a replica whose files differ refuses to work
            tokenizer_digest=facts["tokenizer"],
        )
        for name in ("id", "query", "document", "candidates"):
            facts[name] = getattr(corpus, name)
        return spec, facts

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        scores = [pa.field(name, pa.float32()) for name in self.results.columns]
        return table_schema(with_text(carried, self.job.table.text_column), scores, [], metadata)

    def estimate(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        tokenised, tokens, _ = self._tokenise(spec)(rows)
        return tokens, len(tokenised)

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        tokenise = tokenise_stage(self._tokenise(spec), pool, 4 * len(self.results.columns))
        return [tokenise, pool.stage("rerank", lambda: reranker(spec))]

    def passages(self, spec: ModelSpec, rows: pa.Table) -> pa.Table:
        return self._tokenise(spec)(rows)[0]

    def _tokenise(self, spec: ModelSpec) -> TokenisePairs:
        return TokenisePairs(spec, self.job.model.instruction, self.job.table.text_column)

    def soundness(self, schema: pa.Schema, metadata: TableMetadata) -> Soundness:
        return Soundness("scores finite and those of their logits", "scores", "from", _scores)

    def again(self, drawn: Drawn, spec: ModelSpec, metadata: TableMetadata) -> Again:
        from actors.reranker.reference import RerankReference  # torch

        several = [one_a_candidate(row) for row in drawn.rows]
        pairs: list[tuple[str, str]] = []
        there: list[bool] = []
        for candidates, r in zip(several, drawn.records, strict=True):
            there.append(r["_chunk"] < len(candidates) and candidates["_reason"][r["_chunk"]].as_py() is None)
            place = r["_chunk"] if there[-1] else 0
            query, document = (candidates[name][place].as_py() or "" for name in (QUERY, DOCUMENT))
            pairs.append((query, document))
        logits_N = RerankReference(spec).logits(pairs, self.job.model.instruction)
        stored_N = np.array([r[LOGIT] for r in drawn.records], np.float32)
        errors_N = np.nan_to_num(np.abs(stored_N - logits_N), nan=np.inf)
        most = LOGIT_TOLERANCE[metadata.identity["dtype"]]
        return Again(
            f"largest error of a logit {errors_N.max():.6f} (at most {most})",
            {
                "are not the scores of their pairs": ~(np.array(there) & (errors_N <= most)),
                "are of rows with more or fewer candidates": [
                    len(siblings) != len(candidates)
                    for siblings, candidates in zip(drawn.siblings, several, strict=True)
                ],
            },
        )

    def reason_of(self, row: pa.Table, chunk: int) -> str | None:
        candidates = one_a_candidate(row)
        reason: str | None = candidates["_reason"][chunk].as_py() if chunk < len(candidates) else None
        return reason


def _scores(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Of the records that have both numbers."""
    there = pc.and_(batch[SCORE].is_valid(), batch[LOGIT].is_valid())
    scores_N, logits_N = (batch[name].filter(there).to_numpy(zero_copy_only=False) for name in (SCORE, LOGIT))
    return scores_N, np.isfinite(logits_N) & (np.abs(scores_N - scores_of(logits_N)) <= SCORE_TOLERANCE)


def one_a_candidate(rows: pa.Table) -> pa.Table:
    """One record a pair, with `_chunk`: a row whose document is a list gives one for each candidate, numbered; any
    other row is its own. The queries become a dictionary, so that each is there once for all its candidates. A
    candidate that is null, empty or white space keeps its place with a reason."""
    queries = rows[QUERY].combine_chunks().dictionary_encode()
    rows = rows.set_column(rows.column_names.index(QUERY), QUERY, queries)
    documents = rows[DOCUMENT].combine_chunks()
    if not pt.is_list(documents.type):
        zeros_N = np.zeros(len(rows), np.int32)
        return rows.append_column("_chunk", pa.array(zeros_N)).append_column("_passages", pa.array(zeros_N + 1))
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
    out = out.append_column("_passages", pa.array(np.repeat(records_N, records_N), pa.int32()))
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

    Takes tables of rows.row_schema, without what is carried; gives them with _chunk, _passages, _passage, _tokens,
    _truncated and the columns of actors.replica.pairs, without the query, and the document under `text_column` or not
    at all."""

    spec: ModelSpec
    instruction: str | None
    text_column: str | None

    def __call__(self, rows: pa.Table) -> tuple[pa.Table, int, int]:
        """The table for the rerank stage, its token count and how many pairs were truncated. The count is of whole
        pairs, as a model reads them that shares nothing between them."""
        rows = one_a_candidate(rows)
        good_N = rows["_reason"].is_null().to_numpy()
        queries, documents = (rows[name].filter(pa.array(good_N)).combine_chunks() for name in (QUERY, DOCUMENT))
        encoded = self._encoded(queries, documents.to_pylist())
        lengths_N, truncated_N = np.zeros(len(rows), np.int32), np.zeros(len(rows), bool)
        lengths_N[good_N] = np.diff(encoded.heads_offsets)[encoded.query_of] + np.diff(encoded.tails_offsets)
        truncated_N[good_N] = encoded.truncated
        rows = rows.append_column("_tokens", pa.array(lengths_N)).append_column("_truncated", pa.array(truncated_N))
        rows = rows.append_column("_passage", row_digests(rows.select([QUERY, DOCUMENT]), len(rows)))
        rows = with_ids(rows, encoded, good_N).drop_columns([QUERY])
        if self.text_column is None:
            rows = rows.drop_columns([DOCUMENT])
        else:
            rows = rows.rename_columns([self.text_column if n == DOCUMENT else n for n in rows.column_names])
        return rows, int(lengths_N.sum()), int(truncated_N.sum())

    def _encoded(self, queries: pa.DictionaryArray, documents: list[str]) -> RerankEncoded:
        used, first, query_of = np.unique(queries.indices.to_numpy(), return_index=True, return_inverse=True)
        by_use = np.argsort(first)
        texts = queries.dictionary.take(pa.array(used[by_use])).to_pylist()
        return _prompt(self.spec).encode(texts, documents, np.argsort(by_use)[query_of], self.instruction)


@cache
def _prompt(spec: ModelSpec) -> RerankPrompt:
    return recipe.load_prompt(spec)  # type: ignore[return-value]  # or the fake's, which has the same surface


def reranker(spec: ModelSpec) -> StageFunction:
    """One replica of a reranker."""

    def load() -> Callable[[pa.Table], pa.Table]:
        from actors.replica.rerank import RerankActor  # torch: only where scores are made

        return RerankActor(spec)

    return replica("rerank", load)
