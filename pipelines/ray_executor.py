"""Ray Data as executor: the only file that knows Ray.

The dataset is a stream of parcels, not of rows: each parcel travels as one row that holds the Arrow IPC bytes of its
table, so the engine can neither split nor merge nor half-deliver a unit. Public API only. Ray's own sinks and
checkpoints are not used: with Lance they lose or double rows.

What the engine must not decide is set here: retries are bounded (Ray's defaults retry for ever), a failed task
drops its parcel instead of the job (the driver notices the missing receipt and narrows down), and stages that must
overlap get different resources, because stages with the same resources are fused into one task.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import signal
import socket
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError, SystemException

from actors.spec import ReplicaBroken
from pipelines.errors import ConfigError, VectormillError
from pipelines.executor import Parcel, Reader, Stage, StageFunction, call
from pipelines.plan import Span, Unit

T = TypeVar("T")
R = TypeVar("R")

TASK_RETRIES = 2  # of a task whose process died; 3 attempts in all
CPUS_BESIDE_REPLICAS = 3  # for read, tokenise and write tasks: with none left a stage waits for ever
PROBE_SECONDS = 10.0
WIRE = pa.schema([pa.field("head", pa.string()), pa.field("rows", pa.large_binary())])


class RayExecutor:
    """Runs stages on a Ray cluster: the one at `address`, or one started here and stopped by `close`.

    replicas: how many a local Ray must have room for."""

    def __init__(self, address: str | None, replicas: int = 1):
        self._own = address is None
        log_level = logging.ERROR
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": log_level, "include_dashboard": False}
        if self._own:
            options |= {"address": "local", "num_cpus": max(CPUS_BESIDE_REPLICAS + replicas, os.cpu_count() or 1)}
        else:
            packages = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "actors")]
            options |= {"address": address, "runtime_env": {"py_modules": packages}}
            options.pop("include_dashboard")
        options.setdefault("runtime_env", {})["env_vars"] = {"TOKENIZERS_PARALLELISM": "false"}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if address is not None and address != "auto":
            _probe(address)
        try:
            ray.init(**options)
        except (ConnectionError, TimeoutError, RuntimeError, ValueError) as bad:
            hint = "run.address: null starts Ray on this machine" if address else "is there enough shared memory?"
            raise VectormillError(f"cannot start or reach Ray (run.address: {address}): {bad}; {hint}") from bad
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which exits without a commit
        logging.getLogger("ray").setLevel(log_level)
        logging.getLogger("ray.data").setLevel(log_level)

    @property
    def gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    def threads(self, replicas: int) -> int:
        if self._own:  # its logical CPUs may be more than there are
            return max(1, (os.cpu_count() or 1) // replicas)
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        return max(1, max(nodes) // -(-replicas // len(nodes)))

    def describe(self) -> dict[str, Any]:
        resources = ray.cluster_resources()
        return {
            "engine": "ray",
            "ray": ray.__version__,
            "nodes": sum(1 for node in ray.nodes() if node["Alive"]),
            "cpus": resources.get("CPU", 0),
            "gpus": resources.get("GPU", 0),
        }

    def require(self, replicas: int) -> None:
        """Raise ConfigError if the cluster can never hold so many replicas: their stage would wait for ever."""
        have, what = (
            (self.gpus, "GPUs") if self.gpus else (int(ray.cluster_resources().get("CPU", 0)) - 1, "spare CPUs")
        )
        if replicas > have:
            raise ConfigError(
                f"run.replicas is {replicas} but the cluster has {have} {what}; lower it, or add nodes first"
            )

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        shared = ray.put(function)
        task = functools.partial(ray.remote(max_retries=TASK_RETRIES)(_call_one).remote, shared)
        at_once = 2 * int(ray.cluster_resources().get("CPU", 1))
        waiting = iter(items)
        running = [task(item) for _, item in zip(range(at_once), waiting, strict=False)]
        while running:
            done, running = ray.wait(running, num_returns=1)
            for item in waiting:
                running.append(task(item))
                break
            try:
                yield ray.get(done[0])
            except ray.exceptions.RayTaskError as bad:
                raise (bad.cause if isinstance(bad.cause, VectormillError) else bad) from None

    def run(self, read: Reader, stages: Sequence[Stage], spans: Sequence[Span]) -> Iterator[Parcel]:
        if not spans:
            return
        _set_context()
        heads = [{"span": json.dumps([_bundle_to_json(b) for b in span])} for span in spans]
        stream = ray.data.from_items(heads, override_num_blocks=len(heads)).map_batches(
            functools.partial(_read_task, read),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            max_retries=TASK_RETRIES,
        )
        for stage in stages:
            stream = _apply(stream, stage)
        try:
            for batch in stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from _decode(batch)
        except (ray.exceptions.RayError, ExecutionTimeoutError, SystemException) as bad:
            raise VectormillError(
                f"the engine failed: {type(bad).__name__}: {str(bad).strip().splitlines()[0]}. What is committed "
                "stays; the same command goes on from there."
            ) from bad

    def close(self) -> None:
        # A pipe that breaks while Ray's processes end must not take the place of why the run ended.
        with contextlib.suppress(OSError, ray.exceptions.RayError):
            ray.shutdown()


def _probe(address: str) -> None:
    """Raise ConfigError unless something listens there: ray.init would wait for minutes without a word."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS):
            pass
    except (OSError, ValueError) as bad:
        raise ConfigError(
            f"run.address: nothing answers at {address} ({bad}); give the head node's host:port (6379 by default), "
            "auto on a node of the cluster, or null to start Ray here"
        ) from None


def _call_one(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _set_context() -> None:
    # `max_task_retries` and `max_retries` go by **ray_remote_args until 2.64; pyproject.toml keeps us below.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\..*")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a lost parcel is found by its missing receipt, not by an aborted job
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1  # else the parcels of one read task are merged into one block, one task, one fate


def _apply(stream: Any, stage: Stage) -> Any:
    common: dict[str, Any] = {
        "batch_size": stage.parcels_per_call,
        "batch_format": "pyarrow",
        "num_cpus": stage.num_cpus,
    }
    if stage.replicas is None:
        return stream.map_batches(functools.partial(_task, stage.name, stage.make), max_retries=TASK_RETRIES, **common)
    if stage.num_gpus:
        common["num_gpus"] = stage.num_gpus
    return stream.map_batches(
        _Replica,
        fn_constructor_args=(stage.name, stage.make),
        compute=ray.data.ActorPoolStrategy(size=stage.replicas, max_tasks_in_flight_per_actor=stage.in_flight),
        max_task_retries=TASK_RETRIES,
        **common,
    )


class _Replica:
    """One actor of a stage's pool."""

    def __init__(self, name: str, make: Callable[[], StageFunction]):
        self._name = name
        self._function = make()

    def __call__(self, batch: pa.Table) -> pa.Table:
        try:
            return _encode(call(self._name, self._function, _decode(batch)))
        except ReplicaBroken as bad:
            # An exception would leave this process in the pool. When it dies Ray starts another in its place and tries
            # its tasks again, TASK_RETRIES times; what is still lost then is narrowed down.
            print(f"vectormill: {self._name}: {bad}; this process ends to be replaced", file=sys.stderr, flush=True)
            os._exit(1)


def _read_task(read: Reader, batch: pa.Table) -> Iterator[pa.Table]:
    for head in batch["span"].to_pylist():
        for parcel in read(tuple(_bundle_from_json(b) for b in json.loads(head))):
            yield _encode([parcel])


def _task(name: str, make: Callable[[], StageFunction], batch: pa.Table) -> pa.Table:
    return _encode(call(name, make(), _decode(batch)))


# ---------------------------------------------------------------------- what travels


def _bundle_to_json(bundle: Sequence[Unit]) -> list[list[Any]]:
    return [[u.shard, u.path, u.start, u.stop, u.size, u.stamp, list(u.seek), u.stretch] for u in bundle]


def _bundle_from_json(data: list[list[Any]]) -> tuple[Unit, ...]:
    return tuple(
        Unit(shard, path, start, stop, size, stamp, (seek[0], seek[1]), stretch)
        for shard, path, start, stop, size, stamp, seek, stretch in data
    )


def _encode(parcels: Sequence[Parcel]) -> pa.Table:
    """One row a parcel."""
    heads, bodies = [], []
    for p in parcels:
        head = [_bundle_to_json(p.bundle), p.failure, p.fatal, p.seconds, p.counts, list(p.fragments)]
        heads.append(json.dumps(head))
        bodies.append(pa.nulls(1, pa.large_binary()) if p.rows is None else _to_ipc(p.rows))
    return pa.table([pa.array(heads, pa.string()), pa.chunked_array(bodies, pa.large_binary())], schema=WIRE)


def _decode(batch: pa.Table) -> list[Parcel]:
    parcels = []
    for head, body in zip(batch["head"], batch["rows"], strict=True):
        bundle, failure, fatal, seconds, counts, fragments = json.loads(head.as_py())
        rows = pa.ipc.open_stream(body.as_buffer()).read_all() if body.is_valid else None
        parcels.append(Parcel(_bundle_from_json(bundle), rows, failure, fatal, seconds, counts, tuple(fragments)))
    return parcels


def _to_ipc(table: pa.Table) -> pa.Array:
    """The table's IPC bytes as an array of one value, without copying them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(struct.pack("<2q", 0, body.size)), body])
