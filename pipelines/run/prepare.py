"""Everything that is decided before a replica starts: shards and counts, the model's recipe, schema, identity, unit
size. Shared by `embed`, `rerank`, `plan` and `verify`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import pyarrow as pa

from actors.device.auto import resolve_dtype
from actors.spec import ModelSpec
from actors.weights.locate import locate, revision_of
from pipelines.config import JobConfig, ReplicaRange
from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE, BrokenFile, named
from pipelines.corpus.corpus import NOTHING, Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.lazy import LazyExecutor
from pipelines.engine.nodes import ModelSize
from pipelines.engine.open import Capacity, capacity
from pipelines.engine.stage import Executor
from pipelines.errors import CorpusError, FingerprintMismatch, TableError, VectormillError
from pipelines.run import sizing
from pipelines.table.files import TableAddress
from pipelines.table.schema import CARRIED_MARK, NEW_FIELDS, TEXT_MARK, TableMetadata, has_mark
from pipelines.table.table import LanceTable
from pipelines.tasks.registry import task_of
from pipelines.tasks.task import Task
from pipelines.units import Shard, Unit

PLANNING = Capacity(on_gpu=False, replicas=ReplicaRange(min=1, max=1), threads=None)  # nobody has been asked
ESTIMATED_FROM_ROWS, ESTIMATED_FROM_BYTES = 256, 8 << 20


@dataclass(frozen=True)
class Sample:
    """What some rows of a corpus come to: tokens that a model reads, records in the table, bytes of the rows as they
    were read, with what is carried."""

    rows: int = 0
    tokens: int = 0
    records: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Estimate:
    """What the rows of a corpus cost, by the first rows of its middle shard, or of the next that can be read, few where
    they are long; they are read when they are asked for."""

    task: Task
    corpus: Corpus
    shards: Sequence[Shard]
    carried: pa.Schema
    spec: ModelSpec

    @property
    def tokens_per_row(self) -> float:
        return self.sample.tokens / self.sample.rows

    @property
    def records_per_row(self) -> float:
        """Vectors or scores."""
        return self.sample.records / self.sample.rows

    @property
    def bytes_per_row(self) -> float:
        """As rows are read, with what is carried."""
        return self.sample.bytes / self.sample.rows

    @cached_property
    def sample(self) -> Sample:
        filled = [shard for shard in self.shards if shard.rows]
        middle = len(filled) // 2
        failure: VectormillError | None = None
        for shard in [*filled[middle:], *filled[:middle]]:
            try:
                return self._sample(shard)
            except OF_ONE_FILE as bad:  # a damaged file is no reason to know nothing of the others
                if isinstance(bad, OF_THE_STORE):
                    raise
                failure = failure or bad
        assert failure is not None, "a corpus without rows was refused"
        raise failure

    def _sample(self, shard: Shard) -> Sample:
        stop = min(shard.rows, ESTIMATED_FROM_ROWS)
        ends = sorted({min(1 << power, stop) for power in range(stop.bit_length() + 1)})
        units = [Unit(shard.id, shard.path, first, end, shard.size, shard.stamp) for first, end in pairwise([0, *ends])]
        found = Sample()
        try:
            with contextlib.closing(self.corpus.read(units, self.carried)) as tables:
                for rows in tables:
                    tokens, records = self.task.estimate(self.spec, rows.drop_columns(self.carried.names))
                    tokens, records = found.tokens + tokens, found.records + records
                    found = Sample(found.rows + len(rows), tokens, records, found.bytes + rows.nbytes)
                    if found.bytes > ESTIMATED_FROM_BYTES:
                        break
        except CorpusError:  # also TooLarge, of twice as many rows as there are by then
            if not found.rows:
                raise
        return found


@dataclass(frozen=True)
class Prepared:
    """All that is decided before a replica starts. shards: that could be counted; broken: the files that could not.
    notes: what the user should be told, a line each."""

    job: JobConfig
    task: Task
    corpus: Corpus
    shards: Sequence[Shard]
    carried: pa.Schema
    spec: ModelSpec
    capacity: Capacity
    size: ModelSize
    estimate: Estimate
    metadata: TableMetadata
    schema: pa.Schema
    address: TableAddress
    broken: tuple[BrokenFile, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @cached_property
    def by_id(self) -> Mapping[int, Shard]:
        return {shard.id: shard for shard in self.shards}

    def for_rows(self, rows: int) -> Prepared:
        """The same for so many rows to do, with no more replicas on CPUs than have a unit each, and ten seconds of
        work: units may be as short as the job says."""
        given = self.capacity.for_work(rows // self.metadata.rows_per_unit)
        if given.threads_alone is not None and given.replicas.max > 1:
            speed = sizing.tokens_per_second(self.size.flops_per_token, given.on_gpu, given.threads or 1)
            assert speed is not None, "a model that costs nothing has one replica"
            seconds = rows * self.estimate.tokens_per_row / speed
            given = given.for_work(int(seconds / sizing.SECONDS_PER_UNIT))
        return replace(self, capacity=given, spec=replace(self.spec, threads=given.threads))

    def on(self, given: Capacity) -> Prepared:
        """The same, for replicas of this capacity. None of what the table has decided depends on it."""
        spec = replace(self.spec, device="cuda" if given.on_gpu else "cpu", threads=given.threads)
        return replace(self, capacity=given, spec=spec, estimate=replace(self.estimate, spec=spec))


def model_spec(job: JobConfig, on_gpu: bool, table: TableMetadata | None, in_process: bool = False) -> ModelSpec:
    """The job's model as the model layer wants it, with `auto` resolved. in_process: this process computes.

    What the job leaves open an existing table has settled: it must depend neither on the machine that resumes nor on
    what a branch has become since. For a new table on CPUs the driver's decides the dtype, by its instructions."""
    budget = job.run.token_budget
    dtype, force_float16 = job.model.dtype, job.model.force_float16
    if table is not None and dtype == "auto":
        dtype, force_float16 = table.identity["dtype"], True
    spec = ModelSpec(
        weights=job.model.weights,
        revision=_revision(job, table),
        dimensions=job.model.dimensions,
        max_tokens=job.model.max_tokens,
        dtype=dtype,
        prompt=job.model.prompt,
        query_prompt=job.model.query_prompt,
        token_budget=None if budget == "auto" else int(budget),
        device="cuda" if on_gpu else "cpu",
        s3=job.storage.for_weights(),
        force_float16=force_float16,
    )
    return replace(spec, dtype=resolve_dtype(spec, sees_device=in_process))


def _revision(job: JobConfig, table: TableMetadata | None) -> str | None:
    model = job.model
    if table is None or (table.model["weights"], table.model["revision"]) != (model.weights, model.revision):
        return model.revision
    return table.model["resolved_revision"] or model.revision


def prepare(job: JobConfig, executor: Executor, fresh_counts: bool = False, other: Task | None = None) -> Prepared:
    """List and count the corpus, read the model's recipe, and derive schema, identity and unit size. `other`: a task
    that no job file names.

    Raises CorpusError, ModelError, FingerprintMismatch or TableError; nothing is written but the count cache."""
    address = TableAddress(job.table.location, job.storage)
    table = LanceTable.open(address)
    task = other or task_of(job)
    _check_task(task, table)
    corpus = Corpus(job.corpus, job.storage)
    # What a table has decided needs no engine to be planned for; `little.py` settles where the work is done.
    given = PLANNING if table is not None and isinstance(executor, LazyExecutor) else capacity(job, executor)
    known_model = table.metadata if table is not None else None
    spec = model_spec(job, given.on_gpu, known_model, executor.in_process)
    if given is PLANNING and job.run.device != "cpu":
        spec = replace(spec, device=None)  # this process's own, if something is computed here
    resolved = None if spec.is_fake else revision_of(locate(spec, tokenizer_only=True))
    # A branch that moves now gives all nodes the same weights.
    spec, facts = task.resolve(replace(spec, revision=resolved or spec.revision))
    size = model = ModelSize() if spec.is_fake else sizing.model_size(locate(spec), spec.dtype)
    if other is not None:  # a replica that searches holds an index too: how many a node's memory holds nobody knows
        size = ModelSize()
    if given is not PLANNING:
        given = capacity(job, executor, size)
    spec = replace(spec, threads=given.threads)
    broken: list[BrokenFile] = []
    shards = scan_all(corpus, job.table.side_folder, job.storage, executor.map, fresh_counts, broken.append)
    _check_rows(job, shards, broken)
    # A table's types were decided once; later shards are cast to them.
    known = table.schema.remove_metadata() if table is not None else NOTHING
    carried = corpus.carried([shard.listing for shard in shards if shard.rows], known)
    estimate = Estimate(task, corpus, shards, carried, spec)
    asked = job.model.model_dump(include={"weights", "revision", "query_prompt", "query_instruction"})
    rows = _rows_per_unit(job, table, estimate, given, model)
    metadata = TableMetadata(facts, {**asked, "resolved_revision": resolved}, rows)
    if table is not None and table.metadata.table:
        metadata = replace(metadata, table=table.metadata.table)
    schema = task.schema(carried, metadata)
    if table is not None:
        check_same_space(table, task, metadata, schema)
    decided = (job, task, corpus, shards, carried, spec, given, size, estimate, metadata, schema, address)
    return Prepared(*decided, broken=tuple(broken), notes=(*_notes(job, table), *_chosen(job, given, spec)))


def _check_rows(job: JobConfig, shards: Sequence[Shard], broken: Sequence[BrokenFile]) -> None:
    """Raises CorpusError for a corpus without rows."""
    if any(shard.rows for shard in shards):
        return
    if len(broken) == 1 and not shards:
        raise CorpusError(str(broken[0]))
    if broken:
        raise CorpusError(f"corpus.uri: no rows can be read from {job.corpus.uri}:\n{named(broken)}")
    raise CorpusError(f"corpus.uri: the {len(shards):,} file(s) in {job.corpus.uri} hold no rows")


def _check_task(task: Task, table: LanceTable | None) -> None:
    if table is not None and table.metadata.task != task.name:
        raise TableError(
            f"{table.address.location} holds the results of task: {table.metadata.task}, and this job has task: "
            f"{task.name}; nothing was written. Use another name."
        )


def _notes(job: JobConfig, table: LanceTable | None) -> tuple[str, ...]:
    if table is None:
        return ()
    ways = {
        "query_prompt": "give search --instruction '' and a text that begins with it",
        "query_instruction": "give search --instruction",
    }
    found = []
    for name, way in ways.items():
        mine, stored = getattr(job.model, name), table.metadata.model.get(name)
        if mine is not None and mine != stored:
            found.append(
                f"model.{name}: the table was created with {stored!r} and keeps it; for this job's {mine!r} {way}"
            )
    return tuple(found)


def _chosen(job: JobConfig, given: Capacity, spec: ModelSpec) -> tuple[str, ...]:
    """What `auto` is where one would expect something else."""
    if not given.on_gpu or job.model.dtype != "auto" or spec.dtype != "float32" or spec.is_fake:
        return ()
    return ("model.dtype: auto is float32, which the table has or this GPU needs: bfloat16 begins at Ampere",)


def check_same_space(table: LanceTable, task: Task, metadata: TableMetadata, schema: pa.Schema) -> None:
    if differences := table.metadata.differences(metadata):
        raise FingerprintMismatch.between(table.address.location, differences, task.words.space, task.words.remedy)
    lines = list(_other_columns(table, schema))
    if lines:
        raise TableError(
            f"{table.address.location} has other columns than this job; nothing was written:\n" + "\n".join(lines)
        )


def _other_columns(table: LanceTable, schema: pa.Schema) -> Iterator[str]:
    """What stands in the way of adding this job's rows, a line each, with what helps. Columns of others that may be
    null do not: new rows have none of theirs."""
    theirs = {field.name: field for field in table.schema}
    later = {field.name for field in NEW_FIELDS} if table.metadata.format == 2 else set()
    for field in schema:
        there = theirs.pop(field.name, None)
        if there is None and field.name not in later:
            yield (
                f"  {field.name}: {field.type} is not there. If it was never carried, leave it out of corpus.columns "
                "(or table.text_column); if it was dropped or renamed, put it back; or use a new table.name"
            )
        elif there is not None and there.type != field.type:
            yield (
                f"  {field.name}: {there.type}, where this job has {field.type}. Change it back, or use a new "
                "table.name"
            )
    for name, field in theirs.items():
        if has_mark(field, CARRIED_MARK):
            yield f"  {name}: earlier runs carried it. Put it back into corpus.columns, or use a new table.name"
        elif has_mark(field, TEXT_MARK):
            yield f"  {name}: holds the texts. Set table.text_column: {name}, or use a new table.name"
        elif not field.nullable:
            yield (
                f"  {name}: {field.type} may not be null, and this job's rows have none. Let it be null "
                f'(alter_columns({{"path": "{name}", "nullable": True}}) of the Lance dataset), or carry it'
            )


def _rows_per_unit(
    job: JobConfig, table: LanceTable | None, estimate: Estimate, given: Capacity, size: ModelSize
) -> int:
    if job.run.rows_per_unit != "auto":
        return int(job.run.rows_per_unit)
    if table is not None:
        return table.metadata.rows_per_unit
    speed = sizing.tokens_per_second(size.flops_per_token, given.on_gpu, given.threads or 1)
    rows = sizing.rows_per_unit(estimate.tokens_per_row, speed, given.replicas.max, estimate.records_per_row)
    return min(rows, sizing.rows_of_few_bytes(estimate.bytes_per_row))
