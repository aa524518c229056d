"""Ray Data as executor: the only file that knows Ray.

The dataset is a stream of parcels, not of rows: each parcel travels as one row that holds the Arrow IPC bytes of its
table, so the engine can neither split nor merge nor half-deliver a unit. Public API only. Ray's own sinks and
checkpoints are not used: with Lance they lose or double rows.

What the engine must not decide is set here: retries are bounded (Ray's defaults retry for ever), a failed task
drops its parcel instead of the job (the driver notices the missing receipt and narrows down), and stages that must
overlap get different resources, because stages with the same resources are fused into one task. And nothing is waited
for that cannot come: a head node that is gone ends the run, and calls that Ray keeps for a replica whose node is gone
are made anew elsewhere (`watch.py`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import ray
import ray.data
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.device import cpu
from actors.spec import ModelError
from pipelines.config import ReplicaRange
from pipelines.engine.feed import Feed
from pipelines.engine.in_hand import InHand
from pipelines.engine.nodes import Node
from pipelines.engine.reach import answers, in_time, meant, must_answer, must_be_somewhere
from pipelines.engine.stage import Parcel, Reader, Result, Stage
from pipelines.engine.ticks import with_ticks
from pipelines.engine.watch import ReplicasGone, Watch
from pipelines.engine.wire import decode
from pipelines.engine.workers import Replica, feed_task, read_task, stage_task
from pipelines.errors import EngineError, VectormillError
from pipelines.units import Span

T = TypeVar("T")
R = TypeVar("R")

TASK_RETRIES = 2  # of a task whose process died; 3 attempts in all
CPUS_BESIDE_REPLICAS = 3  # for read, tokenise and write tasks: with none left a stage waits for ever
INIT_DEATHS = 3  # of replicas that die while they start, one after the other, before the run ends
MOST_EXECUTIONS = 6  # in a row that bring nothing: one more each time that a node was lost, and units with it
NOTICED_SECONDS = 60.0  # for Ray to notice that a node died
LOOK_SECONDS = 5.0  # between two looks at the cluster while nothing comes
IN_WORKERS = {"TOKENIZERS_PARALLELISM": "false"}  # a stage is one thread's work; others have the other cores
# Ray puts the driver's working directory first on its workers' path: what is there by the names of ours must not win.
OWN_PACKAGES = "vectormill.own"
PRELOAD = "RAY_preload_python_modules"
HEAD_LOST_SECONDS = 40.0  # without an answer; after 60 Ray ends the process, without a word


class RayExecutor:
    """Runs stages on a Ray cluster: the one at `address`, or one started here and stopped by `close`.

    replicas: how many a local Ray must have room for."""

    in_process = False

    _left_open = False  # by the last executor of this process, see close

    def __init__(self, address: str | None, replicas: int = 1):
        self._address = address
        self._own = address is None
        self._head_lost = False
        self._unfinished = 0  # executions whose results were not all taken
        self._dead: set[str] | None = None  # nodes, before the last execution
        if self._own:
            cpus = max(CPUS_BESIDE_REPLICAS + replicas, cpu.cores())
            options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
            # A runtime_env would waste the workers that Ray starts beforehand.
            for name, value in IN_WORKERS.items():
                os.environ.setdefault(name, value)
            modules = [name for name in os.environ.get(PRELOAD, "").split(",") if name not in ("", OWN_PACKAGES)]
            os.environ[PRELOAD] = ",".join([OWN_PACKAGES, *modules])
        else:
            packages = [str(Path(__file__).parents[2] / name) for name in ("vectormill", "pipelines", "actors")]
            runtime_env = {
                "py_modules": packages,
                "env_vars": IN_WORKERS,
                "worker_process_setup_hook": f"{OWN_PACKAGES}.install",
            }
            options = {"address": address, "runtime_env": runtime_env}
        self._options: dict[str, Any] = options
        if RayExecutor._left_open:
            ray.shutdown()
            RayExecutor._left_open = False
        self._connect()

    def _connect(self) -> None:
        """Begin a job on the cluster. Raises EngineError, ConfigError for what will not do better."""
        log_level = logging.ERROR
        on_sigterm = signal.getsignal(signal.SIGTERM)
        if self._address == "auto":
            must_be_somewhere()
        elif self._address is not None:
            must_answer(self._address)
        begin = functools.partial(ray.init, log_to_driver=False, logging_level=log_level, **self._options)
        try:
            # What Ray starts here ends with the thread that started it; that must be the one that stays.
            begin() if self._own else in_time(begin)
        except Exception as bad:  # a node that is not up within 30 s is a plain Exception of Ray's
            raise meant(self._address, bad) from bad
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which exits without a commit
        logging.getLogger("ray").setLevel(log_level)
        logging.getLogger("ray.data").setLevel(log_level)
        self._head: str = ray.get_runtime_context().gcs_address

    def _as_a_new_job(self) -> None:
        """Ray may keep the replicas of an execution that is over but lost a node, and restart them, for nobody, on the
        GPUs that the next one waits for. They end with their job. Not done while a thread may still ask, see close."""
        if not self._own and not self._unfinished:
            ray.shutdown()
            try:
                self._connect()
            except EngineError:
                self._head_is_lost()

    @property
    def gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0))

    @property
    def nodes(self) -> list[Node]:
        found = []
        for node in ray.nodes():
            has = node["Resources"]
            cpus, memory = int(has.get("CPU", 0)), int(has["memory"]) if "memory" in has else None
            # Of its own its logical CPUs may be more than there are; of others Ray knows the container's limit.
            if node["Alive"]:
                found.append(Node(cpu.cores() if self._own else cpus, cpus, int(has.get("GPU", 0)), memory))
        return found

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"engine": "ray", "ray": ray.__version__}
        if self._head_lost:  # there is nobody to ask
            return facts
        resources, nodes = ray.cluster_resources(), sum(1 for node in ray.nodes() if node["Alive"])
        return facts | {"nodes": nodes, "cpus": resources.get("CPU", 0), "gpus": resources.get("GPU", 0)}

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
                raise (bad.cause if isinstance(bad.cause, (VectormillError, ModelError)) else bad) from None

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        rest, in_vain = iter(spans), 0
        while in_vain < MOST_EXECUTIONS:
            in_hand = InHand(rest)
            dead = _dead_nodes()
            if self._dead is not None and not dead <= self._dead:
                self._as_a_new_job()
            self._dead = dead
            try:
                all_fed = yield from self._stream(read, stages, in_hand, self._watch(stages))
                if all_fed and (not in_hand.units or _dead_nodes() <= dead):
                    return
            except ReplicasGone:
                stages = [_fitting(stage) for stage in stages]
            # What was on a node that died, or not handed out yet, is no row's fault.
            rest = chain(in_hand.left(), rest)
            in_vain = 0 if in_hand.answers else in_vain + 1

    def _stream(
        self, read: Reader, stages: Sequence[Stage], in_hand: InHand, watch: Watch
    ) -> Generator[Result, None, bool]:
        """One execution by Ray Data; whether all that is in hand was handed out. Raises ReplicasGone if what is left
        would wait for replicas that are gone."""
        _set_context(watch)
        feed = Feed(in_hand, stages, lambda: Queue(actor_options={"num_cpus": 0, **_here()}))
        if not feed.heads:
            return True
        stream = _source(feed).map_batches(
            _named("read", functools.partial(read_task, read, stages[0].timeout_seconds if stages else None)),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=1,
            max_retries=TASK_RETRIES,
        )
        for stage in stages:
            stream = _apply(stream, stage)
        all_fed = feed.queue is None
        self._unfinished += 1
        try:
            for batch in self._batches(stream):
                if batch is not None:
                    watch.came()
                    for item in decode(batch):
                        assert not isinstance(item, Parcel), "the last stage writes"
                        if item.bundle:
                            in_hand.answered(item)
                            yield item
                        else:  # ALL_FED
                            all_fed = True
                with _if_it_lives():
                    feed.fill(is_last=watch.is_time_to_look(feed.is_full))
            self._unfinished -= 1
        except ReplicasGone:  # from the execution's own loop, which has ended with it
            self._unfinished -= 1
            raise
        except (ray.exceptions.RayError, ExecutionTimeoutError, SystemException) as bad:
            if not answers(self._head):
                self._head_is_lost()
            raise EngineError(
                f"the engine failed: {type(bad).__name__}: {str(bad).strip().splitlines()[0]}. What is committed "
                "stays; the same command goes on from there."
            ) from bad
        return all_fed

    def _batches(self, stream: Any) -> Iterator[Any]:
        """What comes of a dataset, and None while nothing does. Raises EngineError if the head does not answer."""
        heard = time.monotonic()
        batches = stream.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        for batch in with_ticks(batches, lambda: LOOK_SECONDS):
            if batch is not None or answers(self._head):
                heard = time.monotonic()
            elif time.monotonic() - heard > HEAD_LOST_SECONDS:
                self._head_is_lost()
            yield batch

    def _watch(self, stages: Sequence[Stage]) -> Watch:
        pool = next((stage for stage in stages if stage.replicas is not None), None)
        if pool is None or pool.replicas is None:
            return Watch()
        return Watch(pool.replicas.max, functools.partial(_room, pool), LOOK_SECONDS)

    def _head_is_lost(self) -> NoReturn:
        self._head_lost = True
        what = "Ray on this machine" if self._own else f"the cluster's head node at {self._head}"
        raise EngineError(
            f"{what} does not answer any more. What is committed stays; the same command goes on from there"
            f"{'' if self._own else ', on a cluster that is up (run.address)'}."
        )

    def close(self) -> None:
        """Shut Ray down, if nothing is left to come of it.

        After a run that failed or was stopped, threads of Ray Data still ask for its results. One that finds Ray shut
        down ends this process on the spot, with 1 for an exit code and not a word of why. So Ray goes with the process
        then, or when the next executor is made here."""
        if self._unfinished:
            RayExecutor._left_open = True
            return
        # A pipe that breaks while Ray's processes end must not take the place of why the run ended.
        with contextlib.suppress(OSError, ray.exceptions.RayError):
            ray.shutdown()


def _named(name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Ray names its processes after the functions they run: `ray::MapBatches(tokenise)`."""

    def call(batch: Any) -> Any:
        return function(batch)

    call.__name__ = name
    return call


def _room(stage: Stage) -> int:
    """How many of the stage's replicas the nodes that are up can hold."""
    kinds = {"GPU": stage.num_gpus, "CPU": stage.num_cpus, "memory": stage.memory}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(int(min(has.get(kind, 0) // each for kind, each in kinds.items() if each)) for has in nodes)


def _dead_nodes() -> set[str]:
    """Ray goes on for a while to take a node that died for alive; this waits until it has noticed."""
    deadline = time.monotonic() + NOTICED_SECONDS
    while True:
        nodes = ray.nodes()
        managers = [f"{n['NodeManagerAddress']}:{n['NodeManagerPort']}" for n in nodes if n["Alive"]]
        if all(map(answers, managers)) or time.monotonic() > deadline:
            return {node["NodeID"] for node in nodes if not node["Alive"]}
        time.sleep(1)


def _fitting(stage: Stage) -> Stage:
    """The stage with no more replicas to begin with than there is room for now."""
    if stage.replicas is None:
        return stage
    least = max(1, min(stage.replicas.min, _room(stage) - (not stage.num_gpus)))  # a CPU is for the tasks
    return replace(stage, replicas=ReplicaRange(min=least, max=stage.replicas.max))


def _node() -> str:
    return str(ray.get_runtime_context().get_node_id())


def _call_one(function: Callable[[T], R], item: T) -> R:
    return function(item)


def _set_context(watch: Watch) -> None:
    # `max_task_retries` and `max_retries` go by **ray_remote_args until 2.64; pyproject.toml keeps us below.
    warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\..*")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1  # a lost parcel is found by its missing receipt, not by an aborted job
    context.max_consecutive_actor_init_deaths = INIT_DEATHS
    context.execution_no_progress_timeout_s = -1  # silence is for `watch` and `run.stage_timeout_seconds` to judge
    context.custom_execution_callback_classes = [watch]
    context.execution_options.preserve_order = False
    context.target_max_block_size = 1  # else the parcels of one read task are merged into one block, one task, one fate


def _here() -> dict[str, Any]:
    """For what lives and dies with the driver: to be put on its node."""
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def _if_it_lives() -> contextlib.AbstractContextManager[None]:
    """A queue whose process died gives its task an error, which ends the feed and with it the execution."""
    return contextlib.suppress(ray.exceptions.RayActorError)


def _source(feed: Feed) -> Any:
    """A dataset of the spans that the feed gives, each a block of its own."""
    if feed.queue is None:
        return ray.data.from_items([{"span": span} for span in feed.heads], override_num_blocks=len(feed.heads))
    with _if_it_lives():
        feed.queue.put_nowait_batch(feed.heads)
    return ray.data.from_items([0], override_num_blocks=1).map_batches(
        _named("feed", functools.partial(feed_task, feed.queue.get)),
        batch_format="pyarrow",
        num_cpus=0,
        max_retries=0,  # a second one would give other spans in the place of those that the first one gave
        **_here(),
    )


def _apply(stream: Any, stage: Stage) -> Any:
    common: dict[str, Any] = {
        "batch_size": stage.parcels_per_call,
        "batch_format": "pyarrow",
        "num_cpus": stage.num_cpus,
    }
    if stage.replicas is None:
        call = functools.partial(stage_task, stage)
        return stream.map_batches(_named(stage.name, call), max_retries=TASK_RETRIES, **common)
    if stage.num_gpus:
        common["num_gpus"] = stage.num_gpus
    if stage.memory:
        common["memory"] = stage.memory
    return stream.map_batches(
        Replica,
        fn_constructor_args=(stage, _node),
        compute=ray.data.ActorPoolStrategy(
            min_size=stage.replicas.min,
            max_size=stage.replicas.max,
            max_tasks_in_flight_per_actor=stage.in_flight,
            max_concurrent_calls_per_actor=stage.at_once,
            enable_true_multi_threading=stage.at_once > 1,
        ),
        max_task_retries=TASK_RETRIES,
        **common,
    )
