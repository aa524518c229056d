"""The engine that a job asks for. Ray is imported, and started, only here, and not before it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from actors.device.auto import resolve_device
from actors.spec import ModelSpec
from pipelines.config import JobConfig, ReplicaRange
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.lazy import LazyExecutor
from pipelines.engine.stage import Executor
from pipelines.errors import ConfigError


@contextmanager
def open_executor(job: JobConfig) -> Iterator[Executor]:
    """Until the block ends. What it raises for want of a cluster it raises when that is first needed."""
    if job.run.engine == "inline":
        with_gpu = job.run.device != "cpu" and resolve_device(ModelSpec(job.model.weights)) == "cuda"
        executor: Executor = InlineExecutor(gpus=int(with_gpu))
    else:
        executor = LazyExecutor(partial(_ray, job))
    try:
        yield executor
    finally:
        executor.close()


def _ray(job: JobConfig) -> Executor:
    """Started here, or the cluster at run.address. Raises EngineError, ConfigError."""
    # Before Ray is imported: a thread that still waits for results after `close` would start another Ray, and that
    # one's end decided the exit code of a run that was stopped.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    from pipelines.engine.ray import RayExecutor

    wanted = job.run.replicas
    most = 1 if wanted == "auto" else wanted.max if isinstance(wanted, ReplicaRange) else wanted
    return RayExecutor(job.run.address, most)


@dataclass(frozen=True)
class Capacity:
    """What a job gets of its engine, asked once a run. on_gpu: whether replicas compute on GPUs. replicas: how many
    copies of the model. threads: CPU threads of each; None on a GPU: the model's own choice."""

    on_gpu: bool
    replicas: ReplicaRange
    threads: int | None


def capacity(job: JobConfig, executor: Executor) -> Capacity:
    """Raises ConfigError if the engine has no room for the replicas that are asked for."""
    gpus = executor.gpus
    on_gpu = gpus > 0 if job.run.device == "auto" else job.run.device == "cuda"
    replicas = _replicas(job, executor, gpus, on_gpu)
    return Capacity(on_gpu, replicas, None if on_gpu else executor.threads(replicas.max))


def _replicas(job: JobConfig, executor: Executor, gpus: int, on_gpu: bool) -> ReplicaRange:
    """As the job says, or one per GPU, or one."""
    wanted = job.run.replicas
    on_demand = job.run.device == "cuda" and gpus == 0  # its GPU nodes may come up later
    if wanted == "auto":
        if on_demand:
            raise ConfigError("run.device is cuda but there is no GPU yet to count: set run.replicas")
        count = gpus if on_gpu else 1
        return ReplicaRange(min=count, max=count)
    pool = wanted if isinstance(wanted, ReplicaRange) else ReplicaRange(min=wanted, max=wanted)
    if not on_demand:
        executor.require(pool.min)
    return pool
