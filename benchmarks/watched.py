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
    """One call of a replica: seconds on the clock, CPU seconds of its process in between, and that process."""

    begin: float
    end: float
    cpu_seconds: float
    niceness: int
    process: int


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
            began, cpu = time.monotonic(), time.process_time()
            done = list(function(parcels))
            spent = time.process_time() - cpu
            with open(log, "a") as lines:
                note = Call(began, time.monotonic(), spent, os.getpriority(os.PRIO_PROCESS, 0), os.getpid())
                lines.write(json.dumps(note) + "\n")
            return done

        return noted

    return replace(stage, make=make)
