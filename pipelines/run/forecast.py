"""`vectormill plan`: what a run would do, before a GPU is paid for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.config import JobConfig
from pipelines.corpus.broken import BrokenFile
from pipelines.engine.open import open_executor
from pipelines.progress import Progress
from pipelines.run import sizing
from pipelines.run.exchange import Exchange, exchange
from pipelines.run.little import planned
from pipelines.run.prepare import prepare
from pipelines.table import contents
from pipelines.table.checkpoint import Checkpoint, count_pending
from pipelines.table.files import TableAddress, reading
from pipelines.table.schema import bytes_of
from pipelines.table.table import LanceTable
from pipelines.tasks.task import Words


@dataclass(frozen=True)
class Forecast:
    """Counts are exact; tokens, records, bytes and hours are estimates from a sample of rows and the model's size.
    replica_hours: None for a model whose speed nobody knows. broken_files: whose rows are in no number here. exchange:
    shards that went and came with the same rows."""

    corpus: str
    shards: int
    rows: int
    task: str
    words: Words
    rows_to_do: int
    units_to_do: int
    rows_per_unit: int
    tokens_per_row: float
    tokens: int
    records: int
    record_bytes: int
    replica_hours: float | None
    stale_rows: int
    broken_files: tuple[BrokenFile, ...]
    table: str
    fingerprint: str
    exchange: Exchange | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "corpus": self.corpus,
            "shards": self.shards,
            "rows": self.rows,
            "task": self.task,
            "rows_to_embed": self.rows_to_do,
            "units_to_embed": self.units_to_do,
            "rows_per_unit": self.rows_per_unit,
            "tokens_per_row_estimate": self.tokens_per_row,
            "tokens_estimate": self.tokens,
            f"{self.words.results}_estimate": self.records,
            f"{self.words.result}_bytes_estimate": self.record_bytes,
            "replica_hours_estimate": self.replica_hours,
            "stale_rows": self.stale_rows,
            "broken_files": [asdict(file) for file in self.broken_files],
            "table": self.table,
            "fingerprint": self.fingerprint,
            "exchange": self.exchange.to_dict() if self.exchange else None,
        }


def forecast(job: JobConfig, progress: Progress) -> Forecast:
    """Raises what `prepare` raises; embeds nothing."""
    address = TableAddress(job.table.location, job.storage)
    with progress.engine_output(), open_executor(job) as executor, reading(address):
        prepared = prepare(job, executor)
        table = LanceTable.open(prepared.address)
        state = contents.checkpoint(table, prepared.by_id) if table else Checkpoint()
        size = prepared.metadata.rows_per_unit
        todo = prepared.rows - state.rows_done
        estimate = prepared.estimate
        given = planned(prepared, executor)
        speed = sizing.tokens_per_second(prepared.size.flops_per_token, given.on_gpu, given.threads or 1)
        width = bytes_of(prepared.schema, prepared.task.results.columns)
        return Forecast(
            corpus=job.corpus.uri,
            shards=len(prepared.shards),
            rows=prepared.rows,
            task=prepared.task.name,
            words=prepared.task.words,
            rows_to_do=todo,
            units_to_do=count_pending(prepared.shards, state.done, size),
            rows_per_unit=size,
            tokens_per_row=round(estimate.tokens_per_row, 1),
            tokens=round(todo * estimate.tokens_per_row),
            records=round(todo * estimate.records_per_row),
            record_bytes=round(todo * estimate.records_per_row * width),
            replica_hours=None if speed is None else round(todo * estimate.tokens_per_row / speed / 3600, 3),
            stale_rows=sum(state.stale.values()),
            broken_files=prepared.broken,
            table=prepared.address.location,
            fingerprint=prepared.metadata.fingerprint,
            exchange=exchange(state, prepared.shards),
        )
