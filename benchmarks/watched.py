"""An executor that notes when its replicas work and when receipts come, on the machine's one monotonic clock."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.engine.stage import Executor, Item, Parcel, Reader, Receipt, Result, Stage
from pipelines.units import Span


class Call(NamedTuple):
    """One call of a replica, on the clock; the CPU seconds that its process had spent then and then, and that process.

    seconds: that the model worked on it. A replica may have two calls at a time, of which one waits: from begin to end
    is longer."""

    begin: float
    end: float
    seconds: float
    cpu_begin: float
    cpu_end: float
    niceness: int
    process: int


def cores_used(calls: Iterable[Call]) -> float:
    """CPU seconds of the replicas for each second in which they had a call; what overlaps counts once."""
    cpu = seconds = 0.0
    until: dict[int, Call] = {}  # of the calls so far the one that ends last, by process
    for call in sorted(calls):
        last = until.get(call.process, call)
        if call.end >= last.end:
            until[call.process] = call
            after = last if last is not call and last.end > call.begin else None
            seconds += call.end - (after.end if after else call.begin)
            cpu += call.cpu_end - (after.cpu_end if after else call.cpu_begin)
    return cpu / seconds


class Watched:
    """`executor`, watched. log: a file that its replicas, whatever their process, add their calls to."""

    def __init__(self, executor: Executor, log: Path):
        self._executor = executor
        self._log = log
        self.receipts: list[tuple[float, int]] = []  # when, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def run(self, read: Reader, stages: Sequence[Stage], spans: Iterable[Span]) -> Iterator[Result]:
        noted = [_noting(stage, str(self._log)) if stage.name == "embed" else stage for stage in stages]
        for result in self._executor.run(read, noted, spans):
            if isinstance(result, Receipt):
                self.receipts.append((time.monotonic(), result.tally.tokens))
            yield result

    def calls(self) -> list[Call]:
        """What the replicas did, in order."""
        return sorted(Call(*json.loads(line)) for line in self._log.read_text().splitlines())


def _noting(stage: Stage, log: str) -> Stage:
    def make() -> Any:
        function = stage.make()

        def noted(parcels: list[Parcel]) -> list[Item]:
            began, cpu, before = time.monotonic(), time.process_time(), _seconds(stage, parcels)
            done = list(function(parcels))
            worked = _seconds(stage, done) - before
            nice = os.getpriority(os.PRIO_PROCESS, 0)
            note = Call(began, time.monotonic(), worked, cpu, time.process_time(), nice, os.getpid())
            with open(log, "a") as lines:
                lines.write(json.dumps(note) + "\n")
            return done

        return noted

    return replace(stage, make=make)


def _seconds(stage: Stage, items: Iterable[Item]) -> float:
    return sum(item.tally.seconds.get(stage.name, 0.0) for item in items if isinstance(item, Parcel))
