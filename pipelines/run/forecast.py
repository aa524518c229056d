"""`vectormill plan`: what a run would do, before a GPU is paid for."""

from __future__ import annotations

from typing import Any

from actors.weights.locate import locate
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.run import sizing
from pipelines.run.prepare import open_executor, prepare, sample, uses_gpu
from pipelines.table import contents
from pipelines.table.checkpoint import Checkpoint, count_pending
from pipelines.table.files import TableAddress, reading
from pipelines.table.schema import result_bytes
from pipelines.table.table import LanceTable


def forecast(job: JobConfig, display: Display) -> dict[str, Any]:
    """Counts are exact; tokens and hours are estimates from a sample of rows and the model's size."""
    address = TableAddress(job.table.location, job.storage)
    with display.engine_output(), open_executor(job) as executor, reading(address):
        prepared = prepare(job, executor)
        size = prepared.metadata.rows_per_unit
        table = LanceTable.open(prepared.address)
        state = contents.checkpoint(table, prepared.by_id()) if table else Checkpoint()
        todo_units = count_pending(prepared.shards, state.done, size)
        todo_rows = prepared.rows - state.rows_done
        per_row, passages = sample(prepared.task, prepared.corpus, prepared.shards, prepared.carried, prepared.spec)
        flops = 0.0 if job.model.weights.startswith("fake") else sizing.flops_per_token(locate(prepared.spec))
        speed = sizing.tokens_per_second(flops, uses_gpu(job, executor))
        result = prepared.task.result
        width = result_bytes(prepared.schema)
        return {
            "corpus": job.corpus.uri,
            "shards": len(prepared.shards),
            "rows": prepared.rows,
            "task": prepared.task.name,
            "rows_to_embed": todo_rows,
            "units_to_embed": todo_units,
            "rows_per_unit": size,
            "tokens_per_row_estimate": round(per_row, 1),
            "tokens_estimate": round(todo_rows * per_row),
            f"{result}s_estimate": round(todo_rows * passages),
            f"{result}_bytes_estimate": round(todo_rows * passages * width),
            "replica_hours_estimate": None if speed is None else round(todo_rows * per_row / speed / 3600, 3),
            "stale_rows": sum(state.stale.values()),
            "table": prepared.address.location,
            "fingerprint": prepared.metadata.fingerprint,
        }
