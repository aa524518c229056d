"""The engine that a job asks for. Ray is imported, and started, only here, and not before it is needed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from actors.device import gpu
from actors.device.cpu import asked_threads, cores
from actors.spec import ModelSpec
from pipelines.config import JobConfig, ReplicaRange
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.lazy import LazyExecutor
from pipelines.engine.nodes import CORES_OF_SMALL, ModelSize, Node, beside_gpus, fair_threads, on_cpus
from pipelines.engine.stage import Executor
from pipelines.errors import ConfigError

THREADS_ALONE = 8  # on little work more threads wait for each other


@contextmanager
def open_executor(job: JobConfig) -> Iterator[Executor]:
    """Until the block ends. What it raises for want of a cluster it raises when that is first needed."""
    if job.run.engine == "inline":
        executor: Executor = InlineExecutor(gpus=int(sees_gpu(job)))
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
    most = wanted.max if isinstance(wanted, ReplicaRange) else wanted
    if most == "auto":
        most = cores() // (CORES_OF_SMALL if job.run.threads == "auto" else job.run.threads)
    executor = RayExecutor(job.run.address, most)
    try:
        if job.run.address is None and not executor.gpus:
            sees_gpu(job)  # as little as Ray does
    except ConfigError:
        executor.close()
        raise
    return executor


@dataclass(frozen=True)
class Capacity:
    """What a job gets of its engine. on_gpu: whether replicas compute on GPUs. replicas: how many copies of the model.
    threads: CPU threads of each; None on a GPU: the model's own choice. cpus, memory (bytes): what the engine keeps for
    each. threads_alone: not None where the number of replicas was left to us, on CPUs: the most threads of each when
    there is work for fewer of them."""

    on_gpu: bool
    replicas: ReplicaRange
    threads: int | None
    cpus: float = 1
    memory: int = 0
    threads_alone: int | None = None

    def for_work(self, tens_of_seconds: int) -> Capacity:
        """The same for so few times ten seconds of one replica's work: one more would be started, which takes as long,
        for nothing."""
        count = max(1, tens_of_seconds)
        if self.threads_alone is None or self.threads is None or count >= self.replicas.max:
            return self
        threads = max(self.threads, min(self.threads_alone, self.threads * self.replicas.max // count))
        return replace(self, replicas=ReplicaRange(min=count, max=count), threads=threads)


def capacity(job: JobConfig, executor: Executor, size: ModelSize = ModelSize()) -> Capacity:  # noqa: B008 - frozen
    """Raises ConfigError if the engine has no room for the replicas that are asked for. Before a model's size is known,
    all but how many replicas CPUs are given."""
    nodes, asked = executor.nodes, None if job.run.threads == "auto" else job.run.threads
    if executor.gpus > 0 if job.run.device == "auto" else job.run.device == "cuda":
        return Capacity(True, _replicas(job, executor, on_gpu=True), asked, beside_gpus(nodes))
    most = asked or asked_threads()
    if job.run.replicas != "auto" or executor.in_process:
        replicas = _replicas(job, executor, on_gpu=False)
        fair = nodes[0].cores if executor.in_process else fair_threads(nodes, replicas.max)
        return Capacity(False, replicas, asked or min(fair, most or fair))
    share = on_cpus(nodes, size, asked)
    _require(share.replicas, nodes, on_gpu=False)
    alone = min(THREADS_ALONE, max(node.cores for node in nodes))
    return Capacity(
        False,
        ReplicaRange(min=share.replicas, max=share.replicas),
        min(share.threads, most or share.threads),
        share.cpus,
        share.memory,
        asked or min(alone, most or alone),
    )


def sees_gpu(job: JobConfig) -> bool:
    """Whether this machine has a GPU for the job. Raises ConfigError for one that is there and cannot be used: nobody
    who has paid for it wants to find out by the time that a CPU takes."""
    if job.run.device == "cpu" or ModelSpec(job.model.weights).is_fake:
        return False
    if why := gpu.unusable():
        raise ConfigError(f"run.device is {job.run.device}, and {why}")
    return gpu.usable()


def _replicas(job: JobConfig, executor: Executor, on_gpu: bool) -> ReplicaRange:
    """As the job says, or one per GPU, or one."""
    wanted = job.run.replicas
    on_demand = job.run.device == "cuda" and executor.gpus == 0  # its GPU nodes may come up later
    if wanted == "auto":
        if on_demand:
            raise ConfigError("run.device is cuda but there is no GPU yet to count: set run.replicas")
        count = executor.gpus if on_gpu else 1
        return ReplicaRange(min=count, max=count)
    pool = wanted if isinstance(wanted, ReplicaRange) else ReplicaRange(min=wanted, max=wanted)
    if not on_demand and not executor.in_process:
        _require(pool.min, executor.nodes, on_gpu)
    return pool


def _require(replicas: int, nodes: Sequence[Node], on_gpu: bool) -> None:
    """Raise ConfigError if the engine can never hold so many replicas: their stage would wait for ever."""
    have, what = (
        (sum(node.gpus for node in nodes), "GPUs") if on_gpu else (sum(node.cpus for node in nodes) - 1, "spare CPUs")
    )
    if replicas > have:
        raise ConfigError(
            f"the cluster has {have} {what}, and {replicas} replica(s) are to run on it; lower run.replicas, or add "
            "nodes first"
        )
