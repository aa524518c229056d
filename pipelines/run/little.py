"""A night with little to do needs no cluster: the run does it in its own process, and Ray is not started or reached.

    what is left, by the table → nothing: no engine → little, and this process has the device for it: inline → else Ray

Starting Ray costs 10 CPU seconds and more, so that is where "little" ends. A row that kills or hangs its process would
end each such run at the same place, with no engine to find it. So a marker lies beside the table while one works; a run
that finds one goes through Ray, which narrows down to the row and records it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime

from actors.device import gpu
from actors.device.cpu import cores
from actors.weights.locate import locate
from pipelines.config import JobConfig, ReplicaRange
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.lazy import LazyExecutor
from pipelines.engine.nodes import Node, on_cpus
from pipelines.engine.open import Capacity, capacity, sees_gpu
from pipelines.engine.stage import Executor
from pipelines.errors import EngineError, StorageError
from pipelines.progress import Progress
from pipelines.run import sizing
from pipelines.run.prepare import PLANNING, Prepared
from pipelines.storage.files import head, remove_file, write_json
from pipelines.table import contents
from pipelines.table.checkpoint import Checkpoint, pending
from pipelines.table.table import LanceTable

LITTLE_SECONDS = 20.0
ROW_SECONDS = 5e-4  # of one core, for all but the model: mostly tokenising (docs/scale.md)
LOADED_BYTES_PER_SECOND = 500e6
BYTES_MOST, WEIGHTS_MOST = 64 << 20, 2 << 30  # of files to read, of weights to load in the driver's process
MARKER = "inline.json"


def settled(
    prepared: Prepared, executor: Executor, table: LanceTable, state: Checkpoint, progress: Progress
) -> tuple[Prepared, Executor]:
    """Where the run is done: the executor as it is if it was opened by somebody, else inline or the job's engine.

    Raises what starting the engine raises."""
    if not isinstance(executor, LazyExecutor):
        return prepared, executor
    rows = prepared.rows - state.rows_done
    old = table.metadata.format == 2  # it is brought over by the engine
    if not rows and not old:
        return prepared, InlineExecutor(why="nothing to do")
    device = None if old or executor.started else _device_if_little(prepared, table, state)
    if device is not None and (found := _marker_if_there(prepared.job)):
        progress.say(
            f"an earlier run that worked in its own process did not come to its end ({found}); this one goes through "
            "Ray, which finds the row if one was to blame"
        )
        device = None
    if device is None:
        return prepared.on(capacity(prepared.job, executor, prepared.size)), executor
    progress.say(f"{rows:,} rows to do: in this process, without Ray (run.engine: ray)")
    with_gpu = device != "cpu"
    here = InlineExecutor(gpus=int(with_gpu), why=f"{rows:,} rows to do")
    given = capacity(prepared.job, here)
    return prepared.on(replace(given, replicas=ReplicaRange(min=1, max=1))), here


def planned(prepared: Prepared, executor: Executor) -> Capacity:
    """What the job's replicas would be. Asks the engine only where nothing else can tell."""
    job, one = prepared.job, ReplicaRange(min=1, max=1)
    if prepared.capacity is not PLANNING or not prepared.size.flops_per_token:  # whose tokens cost nothing anywhere
        return prepared.capacity
    if job.run.device == "cuda" or (job.run.address is None and sees_gpu(job)):
        return Capacity(True, one, None)
    if job.run.address is not None:
        return capacity(job, executor, prepared.size)
    asked = None if job.run.threads == "auto" else job.run.threads
    return Capacity(False, one, on_cpus([Node(cores(), cores() + 1)], prepared.size, asked).threads)


def _device_if_little(prepared: Prepared, table: LanceTable, state: Checkpoint) -> str | None:
    """That of this process, for what is left to do; None where the engine is to do it."""
    job = prepared.job
    rows = prepared.rows - state.rows_done
    if job.run.engine != "auto" or rows * ROW_SECONDS > LITTLE_SECONDS:
        return None
    units = pending(prepared.shards, state.done, prepared.metadata.rows_per_unit)
    if sum(unit.share for unit in units) > BYTES_MOST:
        return None
    dtype = table.metadata.identity.get("dtype")
    device = device_here(job, str(dtype)) if dtype is not None else None
    if device is None:
        return None
    seconds = _seconds(prepared, table, rows, device)
    return device if seconds is not None and seconds <= LITTLE_SECONDS else None


def device_here(job: JobConfig, dtype: str) -> str | None:
    """The device of this process that does the work of the job's engine as well, for a table of this dtype; None if it
    is not sure to. An engine that is started here has this machine's. What a cluster computes in half precision is for
    a GPU: a CPU may take a hundred times as long for it."""
    run = job.run
    device = "cuda" if sees_gpu(job) else "cpu"
    if run.device == "cuda" and device == "cpu":
        return None
    if run.address is None or dtype == "float32":
        return device
    return device if device != "cpu" and gpu.computes_in(device, dtype) else None


def _seconds(prepared: Prepared, table: LanceTable, rows: int, device: str) -> float | None:
    """What the rows take here, about, if they are like those in the table; None where nobody can say."""
    tokens_per_row = contents.tokens_per_row(table)
    if tokens_per_row is None:
        return None
    others = rows * ROW_SECONDS
    spec = prepared.spec
    if spec.is_fake:
        return others + (rows * tokens_per_row / speed if (speed := spec.tokens_per_second()) else 0.0)
    size = sum(file.stat().st_size for file in locate(spec).glob("*.safetensors"))
    speed = sizing.tokens_per_second(prepared.size.flops_per_token, device != "cpu", cores())
    if size > WEIGHTS_MOST or speed is None:
        return None
    return others + size / LOADED_BYTES_PER_SECOND + rows * tokens_per_row / speed


def _marker_of(job: JobConfig) -> str:
    return f"{job.table.side_folder}/{MARKER}"


def _marker_if_there(job: JobConfig) -> str | None:
    return _marker_of(job) if head(_marker_of(job), job.storage) is not None else None


@contextmanager
def marked(job: JobConfig, executor: Executor, rows: int, run: str) -> Iterator[None]:
    """The marker, while a run with so many rows to do works in this process and might have gone through an engine. It
    stays where the process dies, where a call hangs or a replica breaks, and where somebody stops the run: perhaps
    because it hangs. The next run to come to its end removes it. Raises StorageError."""
    if rows and executor.in_process and job.run.engine == "auto":
        now = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(_marker_of(job), {"run": run, "process": os.getpid(), "since": now}, job.storage)
    stays = False
    try:
        yield
    except (KeyboardInterrupt, EngineError):
        stays = True
        raise
    finally:
        if not stays:
            with suppress(StorageError):  # the next run goes through Ray then
                remove_file(_marker_of(job), job.storage)
