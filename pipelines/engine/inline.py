"""The engine that defines what is correct: every stage in this process, one span after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from actors.device import cpu
from actors.spec import ReplicaBroken
from pipelines.engine.nodes import Node
from pipelines.engine.stage import Failed, Item, Parcel, Reader, Result, Stage, StageFunction, call
from pipelines.errors import EngineError
from pipelines.units import Span

T = TypeVar("T")
R = TypeVar("R")


class InlineExecutor:
    """gpus: what this process may use. why: it is used in the place of the job's engine; for the run record."""

    in_process = True

    def __init__(self, gpus: int = 0, why: str | None = None):
        self.gpus = gpus
        self._why = why

    @property
    def nodes(self) -> list[Node]:
        return [Node(cpu.cores(), cpu.cores(), self.gpus, cpu.free_memory())]

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return (function(item) for item in items)

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        stream: Iterator[Item] = (item for span in spans for item in read(span))
        for stage in stages:
            stream = _through(stream, stage)
        try:
            for item in stream:
                assert not isinstance(item, Parcel), "the last stage writes"
                yield item
        except ReplicaBroken as bad:
            raise EngineError(
                f"{bad}. This process cannot go on. What is committed stays; the same command goes on from there. "
                "run.engine ray replaces such a process, and records a row that breaks it each time with a reason."
            ) from bad

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"engine": "inline"} | ({"why": self._why} if self._why else {})


def _through(stream: Iterator[Item], stage: Stage) -> Iterator[Item]:
    function = stage.make()
    held: list[Item] = []
    for item in stream:
        held.append(item)
        if len(held) == stage.parcels_per_call:
            yield from _call(stage, function, held)
            held = []
    if held:
        yield from _call(stage, function, held)


def _call(stage: Stage, function: StageFunction, items: list[Item]) -> list[Item]:
    done = call(stage, function, items)
    for item in done:
        if isinstance(item, Failed) and item.hung:
            raise EngineError(
                f"{', '.join(map(str, item.bundle))}: {item.why}. This process cannot go on. What is committed stays; "
                "the same command goes on from there. run.engine ray replaces such a process, and records a row that "
                "hangs it each time with a reason."
            )
    return done
