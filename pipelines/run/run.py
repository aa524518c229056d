"""The main job: a corpus in, an exactly-once table out. Reads like the README.

list and count shards → open or create the table, compare fingerprints → take the fence, ask the table what is
done → for each wave of pending units: read, tokenise, embed (or what else the task is), write; commit receipts →
account for every row
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from pipelines import __version__
from pipelines.cli.display import Display
from pipelines.config import JobConfig
from pipelines.engine.stage import Executor, InlineExecutor, Parcel, Stage
from pipelines.errors import ConfigError, Incomplete, VectormillError
from pipelines.run import sizing
from pipelines.run.account import account
from pipelines.run.certificate import Certificate
from pipelines.run.commits import Committer, with_ticks
from pipelines.run.metrics import RETRY, RunMetrics
from pipelines.run.prepare import Prepared, check_same_space, open_executor, prepare, replicas, uses_gpu
from pipelines.run.unit_attempts import Retries
from pipelines.storage.conditional_put import check_conditional_put
from pipelines.storage.files import write_json
from pipelines.storage.retry import log
from pipelines.table import contents
from pipelines.table.checkpoint import Checkpoint, count_pending, pending
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import Write, lost_row, reader
from pipelines.tasks.task import Pool, Task
from pipelines.units import Bundle, Unit, bundles, spans, waves

# A replica: half a minute's work of 512 replicas must not be forty commits, each of which rewrites the whole manifest.
COMMIT_EVERY_ROWS = 1_000_000


class EmbedRun:
    """One run: takes the fence, works off what is pending, and accounts for it."""

    def __init__(self, prepared: Prepared, executor: Executor, display: Display):
        self.prepared = prepared
        self.job = prepared.job
        self.executor = executor
        self.display = display
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self.replicas = replicas(self.job, executor)
        self.metrics = RunMetrics(prepared.rows, replicas=self.replicas.min, replicas_max=self.replicas.max)
        self.retries = Retries(display.say)

    def run(self) -> Certificate:
        """Embed what is pending and return the account. Raises Superseded, StorageError, ModelError, Incomplete."""
        self.table = LanceTable.open_or_create(self.prepared.address, self.prepared.schema)
        check_same_space(self.table, self.prepared.task, self.prepared.metadata, self.prepared.schema)
        for note in self.prepared.notes:
            self.display.say(note)
        state = self._checkpoint()
        if state.rows_done < self.prepared.rows or self._deletes(state):
            seen = self.table.version
            self.table.take_fence(self.id, self._properties())
            if self.table.version != seen + 1:  # somebody committed before the fence, perhaps an older run
                state = self._checkpoint()
            self._remove_orphans()
            self._embed_pending(state)
            self._delete_stale(state)
        self._check_bad_rows()
        return account(self.prepared, self.table, tuple(self.retries.failures))

    def _remove_orphans(self) -> None:
        found = self.table.remove_orphans(self.job.run.remove_orphans_after_seconds)
        if found.paths:
            self.display.say(f"removed {len(found.paths)} orphan file(s) of earlier runs")
        if found.unjudged:
            self.display.say(
                f"{found.unjudged} old file(s) may be orphans; telling would take long with so many old versions. "
                "`vectormill optimize` removes those versions"
            )

    def _deletes(self, state: Checkpoint) -> bool:
        return bool(state.stale) and self.job.run.stale_rows == "delete"

    def _delete_stale(self, state: Checkpoint) -> None:
        """The old rows go only when all of the new ones are in."""
        if not self._deletes(state):
            return
        if not account(self.prepared, self.table, tuple(self.retries.failures)).adds_up:
            self.display.say("stale rows are kept until every row of the corpus is in the table")
            return
        gone = self.table.delete_shards(sorted(state.stale), self._properties())
        self.display.say(f"deleted {gone:,} records of {len(state.stale)} shard(s) no longer in the corpus")

    # ------------------------------------------------------------------ what is to do

    def _checkpoint(self) -> Checkpoint:
        state = contents.checkpoint(self.table, self.prepared.by_id())
        self.metrics.rows_before = state.rows_done
        self.metrics.units_before = state.units
        pending_units = count_pending(self.prepared.shards, state.done, self.prepared.metadata.rows_per_unit)
        self.metrics.units_total = state.units + pending_units
        self._bad_before = contents.count_bad(self.table, self.prepared.by_id()) if state.units else 0
        return state

    def _pending(self, state: Checkpoint) -> Iterator[Unit]:
        return pending(self.prepared.shards, state.done, self.prepared.metadata.rows_per_unit)

    def _embed_pending(self, state: Checkpoint) -> None:
        self._say_what_was_found(state)
        packed = bundles(self._pending(state), self.prepared.metadata.rows_per_unit)
        committer = self._committer()
        with self.display.running(self.metrics):
            try:
                for wave in waves(packed, sizing.bundles_per_wave(self.replicas.max), sizing.UNITS_PER_WAVE):
                    self._wave(wave, committer)
            except (KeyboardInterrupt, VectormillError) as stop:
                if done := committer.commit():  # what is written need not be embedded again
                    self.metrics.committed(done)
                if isinstance(stop, VectormillError):
                    self.table.check_not_superseded()  # a newer run removes files that this one is writing: its orphans
                raise

    def _say_what_was_found(self, state: Checkpoint) -> None:
        todo = self.metrics.units_total - state.units
        rows = self.prepared.rows
        if state.units:
            self.display.say(
                f"{state.units:,} of {self.metrics.units_total:,} units are in the table, {todo:,} to go "
                f"({rows - state.rows_done:,} of {rows:,} rows)"
            )
        else:
            self.display.say(f"{rows:,} rows in {len(self.prepared.shards):,} shard(s), {todo:,} units to do")
        if state.stale:
            self.display.say(
                f"{len(state.stale):,} shard(s) in the table are no longer in the corpus (changed or removed), "
                f"{sum(state.stale.values()):,} rows; run.stale_rows is {self.job.run.stale_rows!r}"
            )

    # ------------------------------------------------------------------ doing it

    def _wave(self, todo: list[Bundle], committer: Committer) -> None:
        """Run the units through the engine until each is committed or has failed for good."""
        narrowing = False
        while todo:
            open_units = {unit.id: unit for bundle in todo for unit in bundle}
            again: list[Bundle] = []
            for parcel in self._receipts(todo, committer, careful=narrowing):
                for unit in parcel.bundle:
                    open_units.pop(unit.id, None)
                if parcel.failure is not None:
                    again += self.retries.after_failure(parcel)
            # No receipt and no failure: their process died, again and again. Narrow down to the row that does it.
            parts, single_rows = self.retries.after_loss(list(open_units.values()), todo)
            for unit, reason in single_rows:
                self._record_lost(unit, reason, committer)
            narrowing = narrowing or bool(parts)
            self.metrics.failures = len(self.retries.failures)
            todo = again + parts
        self._commit(committer)
        committer.forget()

    def _receipts(self, todo: list[Bundle], committer: Committer, careful: bool) -> Iterator[Parcel]:
        """Run bundles and commit their receipts on time; yields what came back, receipts and failures."""
        stages = self._stages(careful)
        read = reader(self.prepared.corpus, self.prepared.carried, self.job.run.stage_timeout_seconds)
        stream = self.executor.run(read, stages, [(b,) for b in todo] if careful else list(spans(todo)))
        self.metrics.begin()
        for parcel in with_ticks(stream, committer.seconds_until_due):
            if parcel is not None and parcel.failure is None and committer.offer(parcel):
                self.metrics.received(parcel)
                self._say_retries(parcel)
            if committer.seconds_until_due() == 0:
                self._commit(committer)
            if parcel is not None:
                yield parcel
        self._commit(committer)

    def _say_retries(self, receipt: Parcel) -> None:
        """What workers of an engine tried again is in their own logs; here a line for each receipt."""
        if isinstance(self.executor, InlineExecutor):
            return  # it was said in this process
        for name, times in receipt.counts.items():
            if name.startswith(RETRY):
                log.warning("retry: %s: %s; tried again %d time(s)", receipt.bundle[0], name.removeprefix(RETRY), times)

    def _stages(self, careful: bool) -> list[Stage]:
        """`careful`: one bundle at a time everywhere, so that one that kills its process is alone to blame."""
        job, prepared = self.job, self.prepared
        on_gpu = uses_gpu(job, self.executor)
        per_write = sizing.parcels_per_fragment(
            prepared.metadata.rows_per_unit, job.run.commit_every_seconds, self.replicas.min
        )
        limit = job.run.stage_timeout_seconds
        pool = Pool(self.replicas, 0 if on_gpu else 1, on_gpu, careful, limit)
        write = Write(prepared.address, prepared.schema)
        return [
            *prepared.task.stages(prepared.spec, pool),
            Stage("write", lambda: write, parcels_per_call=1 if careful else per_write, timeout_seconds=limit),
        ]

    def _committer(self) -> Committer:
        rows = self.job.run.commit_every_rows or COMMIT_EVERY_ROWS * self.replicas.max
        return Committer(self.table, self.job.run.commit_every_seconds, rows, self._properties)

    def _commit(self, committer: Committer) -> None:
        done = committer.commit()
        if done:
            self.metrics.committed(done)
        self._check_bad_rows()

    def _check_bad_rows(self) -> None:
        allowed = self.job.run.max_bad_rows
        limit = allowed * self.prepared.rows if allowed < 1 else allowed
        bad = self._bad_before + self.metrics.bad_rows
        if bad > limit:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in self.metrics.reasons.items())
            raise Incomplete(
                f"{bad:,} rows have no {self.prepared.task.result}, more than run.max_bad_rows ({allowed:g}) allows"
                f"{f'; in this run {reasons}' if reasons else ''}. See them with `vectormill status`; fix the corpus "
                "or raise the limit. What is committed stays."
            )

    def _record_lost(self, unit: Unit, reason: str, committer: Committer) -> None:
        """The row that kills or hangs its process keeps its place, with a reason."""
        receipt = lost_row(unit, reason, self.prepared.schema, self.prepared.address)
        if committer.offer(receipt):
            self.metrics.received(receipt)

    def _properties(self) -> Mapping[str, str]:
        """Stored with each commit for observers; not the checkpoint."""
        return {
            "vectormill.version": __version__,
            "vectormill.rows_total": str(self.prepared.rows),
            "vectormill.units_total": str(self.metrics.units_total),
        }

    def record(self, outcome: str, certificate: Certificate | None) -> dict[str, Any]:
        """The run record: what ran, how long each stage took, what came out. No text, no credentials."""
        return {
            "run": self.id,
            "outcome": outcome,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "vectormill": __version__,
            "engine": self.executor.describe(),
            "host_cpus": os.cpu_count(),
            "job": self.job.model_dump(mode="json"),
            "model": dict(self.prepared.metadata.identity),
            "rows_per_unit": self.prepared.metadata.rows_per_unit,
            "metrics": self.metrics.to_dict(),
            "certificate": certificate.to_dict() if certificate else None,
        }


def embed(job: JobConfig, display: Display) -> Certificate:
    """`vectormill embed`: run or resume the job. The account adds up, or Incomplete is raised with it."""
    _check_command(job, "embed")
    return run_job(job, display)


def rerank(job: JobConfig, display: Display) -> Certificate:
    """`vectormill rerank`: as `embed`, for a job of pairs."""
    _check_command(job, "rerank")
    return run_job(job, display)


def _check_command(job: JobConfig, command: str) -> None:
    if job.task != command:
        raise ConfigError(
            f"this job has task: {job.task}, and `vectormill {command}` runs jobs of task: {command}; run it with "
            f"`vectormill {job.task}`"
        )


def run_job(
    job: JobConfig, display: Display, task: Task | None = None, check: Callable[[Prepared], None] = lambda _: None
) -> Certificate:
    """Run or resume a job; `task`: other than the job file's. `check` may raise before anything is written."""
    check_conditional_put(job.table.uri, job.storage)
    with display.engine_output(), open_executor(job) as executor:
        display.say(f"counting the rows of {job.corpus.uri}")
        prepared = prepare(job, executor, task=task)
        check(prepared)
        run = EmbedRun(prepared, executor, display)
        certificate = None
        outcome = "failed"
        try:
            certificate = run.run()
            outcome = "complete" if certificate.adds_up else "incomplete"
        except KeyboardInterrupt:
            outcome = "stopped"
            raise
        finally:
            _save_record(run, outcome, certificate)
    return certificate


def _save_record(run: EmbedRun, outcome: str, certificate: Certificate | None) -> None:
    folder = run.job.table.side_folder
    try:
        write_json(f"{folder}/runs/{run.id}.json", run.record(outcome, certificate), run.job.storage)
        if certificate is not None:
            write_json(f"{folder}/certificate.json", certificate.to_dict(), run.job.storage)
    except VectormillError as bad:  # the table is what counts, and another error may be on its way
        run.display.say(f"the run record could not be written: {bad}")
