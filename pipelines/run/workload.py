"""Brings bundles of units through an engine until each unit is committed or has failed for good.

All of it is one run of the engine, because replicas are started anew with each: it draws bundles as it gets on with
them. What fails is drawn again; only what is lost, and what fails at the very end, takes another run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from pipelines.engine.in_hand import InHand
from pipelines.engine.stage import Executor, Failed, Receipt, Result, Stage
from pipelines.engine.ticks import with_ticks
from pipelines.errors import EngineError
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
class Workload:
    """Where rows go, who commits them, what is tried again, what is counted."""

    prepared: Prepared
    executor: Executor
    sink: Sink
    committer: Committer
    attempts: UnitAttempts
    metrics: RunMetrics
    bad_rows: BadRows
    progress: Progress
    _again: deque[Bundle] = field(init=False, default_factory=deque)
    _retries: deque[Span] = field(init=False, default_factory=deque)  # of the same, as they are to be read
    _is_drawn: bool = field(init=False, default=False)  # all that was to do

    def work_off(self, packed: Iterable[Bundle]) -> None:
        """Raises VectormillError for what no other unit will get past, Incomplete for too many bad rows, and what a
        commit raises."""
        self.progress.update(self.metrics.snapshot())
        rest = self._spans(packed)
        while not self._is_drawn:
            narrowing = self._round(rest)
            while self._again or self._retries:
                narrowing = self._round(iter(()), narrowing)

    def commit(self) -> None:
        """Commit the receipts that wait."""
        if done := self.committer.commit():
            self.metrics.committed(done)
            self.progress.update(self.metrics.snapshot())

    def _round(self, rest: Iterator[Span], isolated: bool = False) -> bool:
        """One run of the engine, over what is to be tried again and then `rest`; whether what is left has to be run
        unit by unit, so that those to blame are found."""
        in_hand = InHand(self._todo(rest, isolated))
        for result in self._results(in_hand, isolated):
            if isinstance(result, Failed):
                self._again.extend(self.attempts.after_failure(result))
                self.metrics.failures = self.attempts.given_up
        if not in_hand.is_exhausted and not in_hand.answers and not in_hand.units:
            raise EngineError("the engine ended before it took up any work. What is committed stays.")
        # No receipt and no failure: their process died, again and again. Narrow down to the row that does it.
        parts, single_rows = self.attempts.after_loss(in_hand.lost, in_hand.suspects)
        for unit, reason in single_rows:
            self._record_lost(unit, reason)
        self._again.extend(parts)
        self._commit()
        return isolated or bool(parts)

    def _todo(self, rest: Iterator[Span], isolated: bool) -> Iterator[Span]:
        """What has to be tried again comes first: a fault of the set-up shows at once, and little of it piles up. It is
        sorted, to be read in few passes. Runs in the engine's thread."""
        while True:
            if self._again:
                bundles = [self._again.popleft() for _ in range(len(self._again))]
                bundles.sort(key=lambda bundle: (bundle[0].path, bundle[0].start))
                self._retries.extend(((bundle,) for bundle in bundles) if isolated else sizing.spans(bundles))
            if self._retries:
                yield self._retries.popleft()
            elif (span := next(rest, None)) is not None:
                yield span
            else:
                return

    def _spans(self, packed: Iterable[Bundle]) -> Iterator[Span]:
        yield from sizing.spans(packed)
        self._is_drawn = True

    def _results(self, in_hand: InHand, isolated: bool) -> Iterator[Result]:
        """Run spans and commit their receipts on time; yields what came back, receipts and failures, once."""
        read = reader(self.prepared.corpus, self.prepared.carried, self.prepared.job.run.stage_timeout_seconds)
        stream = self.executor.run(read, self._stages(isolated), in_hand)
        taken = (first for result in stream if (first := in_hand.answered(result)) is not None)
        self.metrics.begin()
        for result in with_ticks(taken, self.committer.seconds_until_due):
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
        if SLOWER not in self.metrics.facts:  # said once, however many replicas there are
            for slower in sorted(value for name, value in receipt.tally.facts if name == SLOWER):
                self.progress.say(f"slower than it could be: {slower}")
        self.committer.offer(receipt)
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
        self.committer.offer(receipt)
        self.metrics.received(receipt)
