"""Brings bundles of units through an engine, in waves, until each unit is committed or has failed for good.

A wave is one execution of the engine; at its end the replicas run dry and are started anew, so waves are long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pipelines.engine.stage import Executor, Failed, Receipt, Result, Stage
from pipelines.engine.ticks import with_ticks
from pipelines.progress import Progress
from pipelines.run import sizing
from pipelines.run.bad_rows import BadRows
from pipelines.run.commits import Committer
from pipelines.run.metrics import RunMetrics
from pipelines.run.prepare import Prepared
from pipelines.run.unit_attempts import UnitAttempts
from pipelines.storage.retry import log
from pipelines.table.sink import Sink
from pipelines.tasks.read import reader
from pipelines.tasks.replica import Pool
from pipelines.tasks.write import Write, lost_row
from pipelines.units import Bundle, Span, Unit

SLOWER = "slower"  # the fact of a replica that lacks something


@dataclass
class Waves:
    """What the waves of a run share: where rows go, who commits them, what is tried again, what is counted."""

    prepared: Prepared
    executor: Executor
    sink: Sink
    committer: Committer
    attempts: UnitAttempts
    metrics: RunMetrics
    bad_rows: BadRows
    progress: Progress

    def work_off(self, packed: Iterable[Bundle]) -> None:
        """Raises VectormillError for what no other unit will get past, Incomplete for too many bad rows, and what a
        commit raises."""
        self.progress.update(self.metrics.snapshot())
        most = sizing.bundles_per_wave(self.prepared.capacity.replicas.max)
        for wave in sizing.waves(packed, most, sizing.UNITS_PER_WAVE):
            self._wave(wave)

    def commit(self) -> None:
        """Commit the receipts that wait."""
        if done := self.committer.commit():
            self.metrics.committed(done)
            self.progress.update(self.metrics.snapshot())

    def _wave(self, todo: list[Bundle]) -> None:
        """Run the units through the engine until each is committed or has failed for good."""
        narrowing = False
        while todo:
            open_units = {unit.id: unit for bundle in todo for unit in bundle}
            again: list[Bundle] = []
            spans = [(bundle,) for bundle in todo] if narrowing else list(sizing.spans(todo))
            for result in self._results(spans, isolated=narrowing):
                for unit in result.bundle:
                    open_units.pop(unit.id, None)
                if isinstance(result, Failed):
                    again += self.attempts.after_failure(result)
            # No receipt and no failure: their process died, again and again. Narrow down to the row that does it.
            parts, single_rows = self.attempts.after_loss(list(open_units.values()), spans)
            for unit, reason in single_rows:
                self._record_lost(unit, reason)
            narrowing = narrowing or bool(parts)
            self.metrics.failures = self.attempts.given_up
            todo = sorted(again + parts, key=lambda bundle: (bundle[0].path, bundle[0].start))  # to read in few passes
        self._commit()
        self.committer.forget()

    def _results(self, spans: Sequence[Span], isolated: bool) -> Iterator[Result]:
        """Run spans and commit their receipts on time; yields what came back, receipts and failures."""
        read = reader(self.prepared.corpus, self.prepared.carried, self.prepared.job.run.stage_timeout_seconds)
        stream = self.executor.run(read, self._stages(isolated), spans)
        self.metrics.begin()
        for result in with_ticks(stream, self.committer.seconds_until_due):
            if isinstance(result, Receipt):
                self._take(result)
            if self.committer.seconds_until_due() == 0:
                self._commit()
            if result is not None:
                yield result
        self._commit()

    def _stages(self, isolated: bool) -> list[Stage]:
        """`isolated`: one bundle at a time everywhere, so that one that kills its process is alone to blame."""
        prepared, run = self.prepared, self.prepared.job.run
        given = prepared.capacity
        rows_per_unit = prepared.metadata.rows_per_unit
        per_write = sizing.parcels_per_fragment(rows_per_unit, run.commit_every_seconds, given.replicas.min)
        pool = Pool(given.replicas, given.cpus, given.on_gpu, isolated, run.stage_timeout_seconds, given.memory)
        write = Write(self.sink, prepared.task.results)
        return [
            *prepared.task.stages(prepared.spec, pool),
            Stage(
                "write",
                lambda: write,
                parcels_per_call=1 if isolated else per_write,
                timeout_seconds=run.stage_timeout_seconds,
            ),
        ]

    def _take(self, receipt: Receipt) -> None:
        if not self.committer.offer(receipt):
            return
        if SLOWER not in self.metrics.facts:  # said once, however many replicas there are
            for slower in sorted(value for name, value in receipt.tally.facts if name == SLOWER):
                self.progress.say(f"slower than it could be: {slower}")
        self.metrics.received(receipt)
        self.progress.update(self.metrics.snapshot())
        if not self.executor.in_process:  # what a worker tried again is in its own log; here a line for each receipt
            for what, times in receipt.tally.retries.items():
                log.warning("retry: %s: %s; tried again %d time(s)", receipt.bundle[0], what, times)

    def _commit(self) -> None:
        self.commit()
        self.bad_rows.check(self.metrics)

    def _record_lost(self, unit: Unit, reason: str) -> None:
        """The row that kills or hangs its process keeps its place, with a reason."""
        receipt = lost_row(unit, reason, self.sink, self.prepared.task.results)
        if self.committer.offer(receipt):
            self.metrics.received(receipt)
