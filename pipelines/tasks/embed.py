"""The task `embed`: a row's text, or each of its passages, becomes a vector.

| column | type | meaning |
|---|---|---|
| vector | fixed_size_list<float32 or float16>[D] | unit length |
| _start, _end | int32 | where the passage begins and ends in the row's text, in characters |

Legend: N records, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.embedder import recipe
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from pipelines.config import ChunkingConfig, JobConfig
from pipelines.content import text_digests
from pipelines.engine.stage import Stage, StageFunction
from pipelines.errors import ConfigError
from pipelines.table.schema import TableMetadata, table_schema, with_text
from pipelines.tasks.chunking import passages
from pipelines.tasks.replica import Pool, replica, tokenise_stage
from pipelines.tasks.task import ANOTHER_TABLE, Again, Drawn, Soundness, Words
from pipelines.tasks.write import Results

VECTOR = "vector"
NORM_TOLERANCE = {"float32": 1e-3, "float16": 5e-3}
LEAST_COSINE = {("float32", "float32"): 0.9999, ("float32", "float16"): 0.9995}
# Between two implementations of many layers, each with its own rounding; another row's or model's vector is far below.
LEAST_COSINE_HALF = {"bfloat16": 0.995, "float16": 0.995, "float8": 0.95}
LENGTH_TOLERANCE = 0.02  # matters for models that do not normalise


@dataclass(frozen=True)
class EmbedTask:
    """A row's text, or each of its passages, becomes a vector."""

    job: JobConfig
    name = "embed"
    words = Words("vector", "vectors", "embedded", "another embedding space", ANOTHER_TABLE)
    results = Results((VECTOR,))

    def resolve(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        job = self.job
        facts = dict(recipe.identity(spec))
        spec = replace(
            spec,
            dimensions=facts["dimensions"],
            max_tokens=facts["max_tokens"],
            digest=facts["weights"],  # a replica whose files differ refuses to work
            tokenizer_digest=facts["tokenizer"],
        )
        facts["vector_dtype"] = job.table.vector_dtype
        facts["id"] = job.corpus.id
        facts["text"] = job.corpus.text
        facts["chunking"] = job.chunking.model_dump() if job.chunking else None
        if job.chunking and job.chunking.max_tokens > facts["max_tokens"]:
            raise ConfigError(
                f"chunking.max_tokens is {job.chunking.max_tokens} but the model takes {facts['max_tokens']} tokens: "
                f"passages would be truncated. Set chunking.max_tokens to {facts['max_tokens']} or less."
            )
        asked = (job.model.query_prompt, job.model.query_instruction)
        if any(words is not None for words in asked):  # now rather than at the first search
            TextTokenizer(spec).encode_queries(["test"], job.model.query_instruction)
        return spec, facts

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        table = self.job.table
        columns = with_text(carried, table.text_column)
        return vectors_schema(columns, metadata.identity["dimensions"], table.vector_dtype, metadata)

    def estimate(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        tokenised, tokens, _ = self._tokenise(spec)(rows)
        return tokens, len(tokenised)

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        assert spec.dimensions is not None, "resolved"
        tokenise = tokenise_stage(self._tokenise(spec), pool, 4 * spec.dimensions)
        return [tokenise, pool.stage("embed", lambda: embedder(spec))]

    def passages(self, spec: ModelSpec, rows: pa.Table) -> pa.Table:
        return self._tokenise(spec)(rows)[0]

    def _tokenise(self, spec: ModelSpec) -> Tokenise:
        return Tokenise(spec, self.job.chunking, self.job.table.text_column)

    def soundness(self, schema: pa.Schema, metadata: TableMetadata) -> Soundness:
        unit_length = metadata.identity["normalise"]
        name = "vectors finite" + (" and of unit length" if unit_length else "")
        what = f"vectors of {schema.field(VECTOR).type.list_size} dimensions"
        return Soundness(name, what, "lengths", partial(_lengths, unit_length=unit_length))

    def again(self, drawn: Drawn, spec: ModelSpec, metadata: TableMetadata) -> Again:
        from actors.embedder.reference import EmbedReference  # torch

        texts = [row["text"][0].as_py() or "" for row in drawn.rows]
        cut = [text[r["_start"] : r["_end"]] for text, r in zip(texts, drawn.records, strict=True)]
        vectors_ND = EmbedReference(spec).embed(cut)
        stored_ND = np.array([r[VECTOR] for r in drawn.records], np.float32)
        with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector or one of NaN has no cosine: not alike
            lengths_N, wanted_N = np.linalg.norm(stored_ND, axis=1), np.linalg.norm(vectors_ND, axis=1)
            cosine_N = np.nan_to_num(np.sum(stored_ND * vectors_ND, axis=1) / (lengths_N * wanted_N), nan=-1.0)
            alike_N = np.abs(lengths_N / wanted_N - 1) < LENGTH_TOLERANCE
        dtype = metadata.identity["dtype"]
        least = LEAST_COSINE_HALF.get(dtype) or LEAST_COSINE[dtype, metadata.identity["vector_dtype"]]
        ends = [max(sibling["_end"] for sibling in siblings) for siblings in drawn.siblings]
        return Again(
            f"lowest cosine {cosine_N.min():.6f} (at least {least})",
            {
                "are not the vectors of their rows": ~(alike_N & (cosine_N >= least)),
                "are of rows whose passages do not reach the end of the text": [
                    end != len(text) for end, text in zip(ends, texts, strict=True)
                ],
            },
        )

    def reason_of(self, row: pa.Table, chunk: int) -> str | None:
        reason: str | None = row["_reason"][0].as_py()
        return reason


def vectors_schema(
    columns: Iterable[pa.Field], dimensions: int, vector_dtype: str, metadata: TableMetadata
) -> pa.Schema:
    """Of a table of vectors; columns: the carried ones and the text's, if it is stored."""
    element = pa.float16() if vector_dtype == "float16" else pa.float32()
    vector = pa.field(VECTOR, pa.list_(element, dimensions))
    offsets = [pa.field(name, pa.int32()) for name in ("_start", "_end")]
    return table_schema(columns, [vector], offsets, metadata)


def _lengths(batch: pa.RecordBatch, unit_length: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of the vectors that are not null."""
    vector = batch[VECTOR]
    stored = "float16" if vector.type.value_type == pa.float16() else "float32"
    values = vector.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    norms_N = np.linalg.norm(values.reshape(-1, vector.type.list_size), axis=1)
    right_N = np.abs(norms_N - 1.0) <= NORM_TOLERANCE[stored] if unit_length else (norms_N > 0) & np.isfinite(norms_N)
    return norms_N, right_N


@dataclass(frozen=True)
class Tokenise:
    """Cut rows into passages (if asked) and turn text into token ids, so that ids, not text, go to the GPU.

    Takes tables of rows.row_schema, without what is carried; gives them with _chunk, _passages, _start, _end, _passage,
    _tokens, _truncated, _unknown and `_ids` (list<int32>, null where there is a reason), and the text under
    `text_column` or not at all."""

    spec: ModelSpec
    chunking: ChunkingConfig | None
    text_column: str | None

    def __call__(self, rows: pa.Table) -> tuple[pa.Table, int, int]:
        """The table for the embed stage, its token count and how many texts were truncated."""
        tokenizer = _tokenizer(self.spec)
        rows = self._chunked(rows, tokenizer) if self.chunking else _one_chunk_a_row(rows)
        good = rows["_reason"].is_null().to_numpy()
        texts = rows["text"].filter(pa.array(good)).to_pylist()
        encoded = tokenizer.encode(texts)
        lengths, unknown = np.zeros((2, rows.num_rows), np.int32)
        lengths[good], unknown[good] = np.diff(encoded.offsets), tokenizer.unknown(encoded)
        truncated = np.zeros(rows.num_rows, bool)
        truncated[good] = encoded.truncated
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(encoded.ids, pa.int32()), mask=pa.array(~good))
        made = {"_tokens": pa.array(lengths), "_truncated": pa.array(truncated), "_unknown": pa.array(unknown)}
        for name, column in {**made, "_passage": text_digests(rows["text"]), "_ids": ids}.items():
            rows = rows.append_column(name, column)
        if self.text_column is None:
            rows = rows.drop_columns(["text"])
        elif self.text_column != "text":
            rows = rows.rename_columns([self.text_column if n == "text" else n for n in rows.column_names])
        return rows, int(lengths.sum()), int(truncated.sum())

    def _chunked(self, rows: pa.Table, tokenizer: TextTokenizer) -> pa.Table:
        assert self.chunking is not None
        room = self.chunking.max_tokens - tokenizer.special_tokens
        take, chunk, count, start, end, pieces = [], [], [], [], [], []
        for row, text in enumerate(rows["text"].to_pylist()):
            cut = (
                [(0, 0)]
                if text is None
                else passages(text, tokenizer.token_offsets(text), room, self.chunking.overlap_tokens)
            )
            for number, (first, last) in enumerate(cut):
                take.append(row)
                chunk.append(number)
                count.append(len(cut))
                start.append(first)
                end.append(last)
                pieces.append(None if text is None else text[first:last])
        place = rows.column_names.index("text")
        rows = rows.drop_columns(["text"]).take(pa.array(take, pa.int64()))  # not a whole text for each of its passages
        rows = rows.add_column(place, "text", pa.array(pieces, pa.string()))
        return _with_places(rows, chunk, count, start, end)


def _one_chunk_a_row(rows: pa.Table) -> pa.Table:
    zeros = np.zeros(rows.num_rows, np.int32)
    ends = pc.fill_null(pc.utf8_length(rows["text"]), 0).cast(pa.int32())
    return _with_places(rows, zeros, zeros + 1, zeros, ends)


def _with_places(rows: pa.Table, *places: object) -> pa.Table:
    for name, values in zip(("_chunk", "_passages", "_start", "_end"), places, strict=True):
        column = values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.int32())
        rows = rows.append_column(name, column)
    return rows


@cache
def _tokenizer(spec: ModelSpec) -> TextTokenizer:
    return TextTokenizer(spec)


def embedder(spec: ModelSpec) -> StageFunction:
    """One replica of an embedder."""

    def load() -> Callable[[pa.Table], pa.Table]:
        from actors.replica.embed import EmbedActor  # torch: only where vectors are made

        return EmbedActor(spec)

    return replica("embed", load)
