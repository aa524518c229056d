"""What a job's task makes of a row: what its results depend on, what they look like, and the stages between reading and
writing. All else of a run is the same for every task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from actors.embedder import recipe
from actors.reranker import recipe as rerank_recipe
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from pipelines.config import JobConfig, ReplicaRange
from pipelines.engine.stage import Stage
from pipelines.errors import ConfigError
from pipelines.table.schema import TableMetadata, scores_schema, table_schema
from pipelines.tasks.embed import Tokenise, embedder
from pipelines.tasks.pairs import TokenisePairs, reranker

ANOTHER_TABLE = "Use a new table.name, or restore these fields in the job file."


@dataclass(frozen=True)
class Pool:
    """The replicas of a run. careful: one call at a time for each, so that one that kills it is alone to blame."""

    replicas: ReplicaRange
    num_cpus: float
    num_gpus: float
    careful: bool
    timeout_seconds: float | None


class Task(Protocol):
    """name: the command that runs it. result: what a record holds, in one word. space, remedy: what a table made with
    other facts holds, and what to do then, for the message that refuses it."""

    name: str
    result: str
    space: str
    remedy: str

    def settle(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        """The spec with what the weights decide filled in, and all that a result depends on, for the fingerprint.

        Raises ModelError, ConfigError for what does not fit together."""

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        """Of the table."""

    def weigh(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        """How many tokens a replica reads for these rows of the corpus, and how many records they give."""

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        """From rows as they were read to rows that can be written."""


def task_of(job: JobConfig) -> Task:
    return EmbedTask(job) if job.task == "embed" else RerankTask(job)


@dataclass(frozen=True)
class EmbedTask:
    """A row's text, or each of its passages, becomes a vector."""

    job: JobConfig
    name = "embed"
    result = "vector"
    space = "another embedding space"
    remedy = ANOTHER_TABLE

    def settle(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
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
        if job.model.query_instruction is not None:  # now rather than at the first search
            TextTokenizer(spec).encode_queries(["test"], job.model.query_instruction)
        return spec, facts

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        table = self.job.table
        return table_schema(carried, metadata.identity["dimensions"], table.vector_dtype, table.text_column, metadata)

    def weigh(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        tokenised, tokens, _ = self._tokenise(spec).tokenise(rows)
        return tokens, len(tokenised)

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        return [_tokenising(self._tokenise(spec), pool), replicas("embed", lambda: embedder(spec), pool)]

    def _tokenise(self, spec: ModelSpec) -> Tokenise:
        return Tokenise(spec, self.job.chunking, self.job.table.text_column)


@dataclass(frozen=True)
class RerankTask:
    """A row's document, or each of its candidates, becomes a score: how relevant it is to the row's query."""

    job: JobConfig
    name = "rerank"
    result = "score"
    space = "other scores"
    remedy = ANOTHER_TABLE

    def settle(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        corpus = self.job.corpus
        facts = {"task": self.name, **rerank_recipe.identity(spec, self.job.model.instruction)}
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
        return scores_schema(carried, self.job.table.text_column, metadata)

    def weigh(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        tokenised, tokens, _ = self._tokenise(spec).tokenise(rows)
        return tokens, len(tokenised)

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        return [_tokenising(self._tokenise(spec), pool), replicas("rerank", lambda: reranker(spec), pool)]

    def _tokenise(self, spec: ModelSpec) -> TokenisePairs:
        return TokenisePairs(spec, self.job.model.instruction, self.job.table.text_column)


def _tokenising(tokenise: Tokenise | TokenisePairs, pool: Pool) -> Stage:
    return Stage("tokenise", lambda: tokenise, num_cpus=0.5, timeout_seconds=pool.timeout_seconds)


def replicas(name: str, make: Any, pool: Pool) -> Stage:
    return Stage(
        name,
        make,
        replicas=pool.replicas,
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus,
        in_flight=1 if pool.careful else None,
        timeout_seconds=pool.timeout_seconds,
    )
