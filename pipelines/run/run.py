"""One run over one table: takes the fence, works off what is pending, and accounts for it.

open or create the table, ask it what is done → take the fence → work off what is pending: read, what the task is,
write, commit (workload.py) → account for every row
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from actors.device import cpu
from actors.spec import ModelError
from pipelines import __version__
from pipelines.corpus.broken import named
from pipelines.engine.stage import Executor
from pipelines.errors import VectormillError
from pipelines.progress import Progress
from pipelines.run.bad_rows import BadRows
from pipelines.run.certificate import Certificate, account
from pipelines.run.commits import Committer
from pipelines.run.exchange import exchange
from pipelines.run.little import settled
from pipelines.run.metrics import RunMetrics
from pipelines.run.prepare import Prepared, check_same_space
from pipelines.run.sizing import bundles, rows_per_commit
from pipelines.run.unit_attempts import UnitAttempts
from pipelines.run.upgrade import upgrade
from pipelines.run.workload import Workload
from pipelines.table import contents
from pipelines.table.checkpoint import Checkpoint, count_pending, pending
from pipelines.table.fence import Fence
from pipelines.table.files import COMPUTED_WITH
from pipelines.table.orphans import remove_orphans
from pipelines.table.sink import AppendRows
from pipelines.table.table import LanceTable


class Run:
    """Whole when it is made: `open` has the table, and what of the corpus is in it."""

    def __init__(
        self, prepared: Prepared, executor: Executor, progress: Progress, table: LanceTable, state: Checkpoint
    ):
        self.id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self.prepared = prepared
        self.job = prepared.job
        self.executor = executor
        self.progress = progress
        self.table = table
        replicas = prepared.capacity.replicas
        self.metrics = RunMetrics(prepared.rows, replicas=replicas.min, replicas_max=replicas.max)
        self.attempts = UnitAttempts(progress.say, prepared.corpus.name)
        self._begin_from(state)

    @classmethod
    def open(cls, prepared: Prepared, executor: Executor, progress: Progress) -> Run:
        """Open the table, or create it, and settle which engine does what is left of the job.

        Raises FingerprintMismatch, TableError, StorageError, and what starting an engine raises."""
        table = LanceTable.open_or_create(prepared.address, prepared.schema)
        check_same_space(table, prepared.task, prepared.metadata, prepared.schema)
        for note in prepared.notes:
            progress.say(note)
        if prepared.broken:
            progress.say(
                f"{len(prepared.broken):,} file(s) of the corpus cannot be read; their rows are not counted, those of "
                f"the others go on:\n{named(prepared.broken)}"
            )
        state = contents.checkpoint(table, prepared.by_id)
        prepared, executor = settled(prepared, executor, table, state, progress)
        return cls(prepared.for_rows(prepared.rows - state.rows_done), executor, progress, table, state)

    @property
    def rows_to_do(self) -> int:
        return self.prepared.rows - self.state.rows_done

    def work(self) -> Certificate:
        """Work off what is pending and return the account. Raises Superseded, StorageError, ModelError, Incomplete."""
        if self.rows_to_do or self._deletes or self.table.metadata.format == 2:
            seen = self.table.version
            fence = self.table.take_fence(self.id, self._properties(), self.prepared.schema.names)
            if self.table.metadata.format == 2:
                upgrade(self.prepared, self.table, fence, self.executor, self.progress)
            if self.table.version != seen + 1:  # somebody committed before the fence, perhaps an older run
                self._begin_from(contents.checkpoint(self.table, self.prepared.by_id))
            self._remove_orphans(fence)
            self._work_off(fence)
            self._delete_stale(fence)
        self.bad_rows.check(self.metrics)
        return self._account()

    def _begin_from(self, state: Checkpoint) -> None:
        self.state = state
        self.metrics.rows_before = state.rows_done
        self.metrics.units_before = state.units
        self.exchange = exchange(state, self.prepared.shards)
        pending_units = count_pending(self.prepared.shards, state.done, self.prepared.metadata.rows_per_unit)
        self.metrics.units_total = state.units + pending_units
        before = contents.count_bad(self.table, self.prepared.by_id) if state.units else 0
        self.bad_rows = BadRows(self.job.run.max_bad_rows, self.prepared.rows, before, self.prepared.task.words.result)

    def _account(self) -> Certificate:
        found = account(self.prepared, self.table, tuple(self.attempts.failures), self.attempts.broken)
        if self.exchange is not None:
            found = replace(found, exchange=self.exchange.to_dict())
        most = self.job.run.max_duplicate_ids
        if not found.duplicate_ids:
            return found
        said = f"{found.duplicate_ids:,} ids name several rows each; `vectormill verify` names some of them"
        self.progress.say(said)
        if most is None or found.duplicate_ids <= most:
            return found
        return replace(found, failures=(*found.failures, f"{said}. run.max_duplicate_ids is {most}"))

    def _remove_orphans(self, fence: Fence) -> None:
        found = remove_orphans(fence)
        if found.paths:
            self.progress.say(f"removed {len(found.paths)} orphan file(s) of earlier runs")
        if found.unjudged:
            self.progress.say(
                f"{found.unjudged} old file(s) may be orphans; telling would take long with so many old versions. "
                "`vectormill optimize` removes those versions"
            )

    def _work_off(self, fence: Fence) -> None:
        self._say_what_was_found()
        prepared, run = self.prepared, self.job.run
        sink = AppendRows(prepared.address, prepared.schema, self.id)
        rows = run.commit_every_rows or rows_per_commit(prepared.capacity.replicas.max)
        committer = Committer(partial(sink.commit, fence), run.commit_every_seconds, rows, self._properties)
        workload = Workload(
            prepared, self.executor, sink, committer, self.attempts, self.metrics, self.bad_rows, self.progress
        )
        rows_per_unit = prepared.metadata.rows_per_unit
        with self.progress.running():
            try:
                workload.work_off(bundles(pending(prepared.shards, self.state.done, rows_per_unit), rows_per_unit))
            except (KeyboardInterrupt, VectormillError, ModelError) as stop:
                workload.commit()  # what is written need not be done again
                if not isinstance(stop, KeyboardInterrupt):
                    fence.check_not_superseded()  # a newer run removes files that this one is writing: its orphans
                raise

    def _say_what_was_found(self) -> None:
        state = self.state
        todo = self.metrics.units_total - state.units
        rows = self.prepared.rows
        if state.units:
            self.progress.say(
                f"{state.units:,} of {self.metrics.units_total:,} units are in the table, {todo:,} to go "
                f"({rows - state.rows_done:,} of {rows:,} rows)"
            )
        else:
            self.progress.say(f"{rows:,} rows in {len(self.prepared.shards):,} shard(s), {todo:,} units to do")
        if state.stale:
            self.progress.say(
                f"{len(state.stale):,} shard(s) in the table are no longer in the corpus (changed, removed"
                f"{', or in a file that cannot be read' if self.prepared.broken else ''}), "
                f"{sum(state.stale.values()):,} rows; run.stale_rows is {self.job.run.stale_rows!r}"
            )
        if self.exchange is not None:
            self.progress.say(str(self.exchange))

    @property
    def _deletes(self) -> bool:
        return bool(self.state.stale) and self.job.run.stale_rows == "delete"

    def _delete_stale(self, fence: Fence) -> None:
        """The old rows go only when all of the new ones are in."""
        if not self._deletes:
            return
        if not self._account().adds_up:
            self.progress.say("stale rows are kept until every row of the corpus is in the table")
            return
        gone = fence.delete_shards(sorted(self.state.stale), self._properties())
        self.progress.say(f"deleted {gone:,} records of {len(self.state.stale)} shard(s) no longer in the corpus")

    def _properties(self) -> Mapping[str, str]:
        """Stored with each commit for observers; not the checkpoint."""
        return {
            "vectormill.version": __version__,
            "vectormill.rows_total": str(self.prepared.rows),
            "vectormill.units_total": str(self.metrics.units_total),
            **({COMPUTED_WITH: json.dumps(facts)} if (facts := self.metrics.facts) else {}),
        }

    def record(self, outcome: str, certificate: Certificate | None) -> dict[str, Any]:
        """The run record: what ran, how long each stage took, what came out. No text, no credentials."""
        return {
            "run": self.id,
            "outcome": outcome,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "vectormill": __version__,
            "engine": self.executor.describe(),
            "host_cpus": cpu.cores(),
            "replica_threads": self.prepared.spec.threads,
            "job": self.job.model_dump(mode="json"),
            "model": dict(self.prepared.metadata.identity),
            "rows_per_unit": self.prepared.metadata.rows_per_unit,
            "metrics": self.metrics.to_dict(),
            "certificate": certificate.to_dict() if certificate else None,
        }
