"""An engine that is started when it is needed: planning mostly does without, and so does a run with little to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from pipelines.engine.nodes import Node
from pipelines.engine.stage import Executor, Reader, Result, Stage
from pipelines.units import Span

T = TypeVar("T")
R = TypeVar("R")

FEW_ITEMS = 8  # of planning, which are some seconds of work each at most: done here, unless the engine has started


class LazyExecutor:
    """The executor that `start` gives, which is called once, by the first thing that only an engine can answer or do;
    raises what `start` raises."""

    in_process = False

    def __init__(self, start: Callable[[], Executor]):
        self._start = start
        self._engine: Executor | None = None

    @property
    def engine(self) -> Executor:
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    @property
    def started(self) -> bool:
        return self._engine is not None

    @property
    def gpus(self) -> int:
        return self.engine.gpus

    @property
    def nodes(self) -> Sequence[Node]:
        return self.engine.nodes

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        if not self.started and len(items) <= FEW_ITEMS:
            return (function(item) for item in items)
        return self.engine.map(function, items)

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        return self.engine.run(read, stages, spans)

    def describe(self) -> dict[str, Any]:
        return self.engine.describe()

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
