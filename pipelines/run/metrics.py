"""What a run counts while it goes on: fed by receipts and commits, read by whoever watches and by the run record."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.stage import Receipt, Tally
from pipelines.progress import Snapshot

RATE_WINDOW = 32  # receipts over which tokens/s is averaged


@dataclass
class RunMetrics:
    """rows_before: in the table when the run began. rows_written: have a receipt. rows_committed: visible.
    replicas: in the pool from the start; it may grow to replicas_max (0: it does not)."""

    rows_total: int
    rows_before: int = 0
    units_before: int = 0
    units_total: int = 0
    replicas: int = 0
    replicas_max: int = 0
    rows_written: int = 0
    rows_committed: int = 0
    units_committed: int = 0
    commits: int = 0
    failures: int = 0
    started: float = field(default_factory=time.monotonic)
    began: float = 0.0
    tally: Tally = field(default_factory=Tally)
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def begin(self) -> None:
        """The replicas start to work now: rates count from here."""
        if not self.began:
            self.began = time.monotonic()
            self._recent.append((self.began, 0))

    def received(self, receipt: Receipt) -> None:
        self.rows_written += sum(unit.rows for unit in receipt.bundle)
        self.tally += receipt.tally
        self._recent.append((time.monotonic(), self.tally.tokens))

    def committed(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            self.rows_committed += sum(unit.rows for unit in receipt.bundle)
            self.units_committed += len(receipt.bundle)
        self.commits += 1

    @property
    def replicas_seen(self) -> dict[str, int]:
        """Replicas that gave results, each process counted, by node; empty in an engine that has no processes."""
        return dict(Counter(node for node, _ in self.tally.replicas))

    @property
    def facts(self) -> dict[str, list[str]]:
        """What the replicas compute with, by name: one value, or several where they differ."""
        found: dict[str, list[str]] = {}
        for name, value in sorted(self.tally.facts):
            found.setdefault(name, []).append(value)
        return found

    @property
    def tokens_per_second(self) -> float:
        """Real tokens (no padding, special ones included) of the last receipts over the time they took."""
        if len(self._recent) < 2:
            return 0.0
        (start, before), (end, after) = self._recent[0], self._recent[-1]
        return (after - before) / max(end - start, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """None until the first receipt."""
        if not self.rows_written:
            return None
        rate = self.rows_written / max(self._recent[-1][0] - self.began, 1e-9)
        return (self.rows_total - self.rows_before - self.rows_written) / rate

    def snapshot(self) -> Snapshot:
        return Snapshot(
            rows_total=self.rows_total,
            rows_before=self.rows_before,
            rows_written=self.rows_written,
            rows_committed=self.rows_committed,
            units_total=self.units_total,
            units_before=self.units_before,
            units_committed=self.units_committed,
            tokens_per_second=self.tokens_per_second,
            seconds_left=self.seconds_left,
            replicas=self.replicas,
            replicas_max=max(self.replicas, self.replicas_max),
            commits=self.commits,
            bad_rows=self.tally.bad_rows,
            failures=self.failures,
            working=bool(self.began),
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(time.monotonic() - self.started, 3),
            "seconds_embedding": round(time.monotonic() - self.began, 3) if self.began else 0.0,
            "rows_total": self.rows_total,
            "rows_before": self.rows_before,
            "rows_written": self.rows_written,
            "rows_committed": self.rows_committed,
            "units_committed": self.units_committed,
            "commits": self.commits,
            "failures": self.failures,
            "replicas": self.replicas,
            "replicas_max": max(self.replicas, self.replicas_max),
            "replicas_seen": self.replicas_seen,
            "replicas_compute_with": self.facts,
            "tokens": self.tally.tokens,
            "records": self.tally.records,
            "truncated": self.tally.truncated,
            "bytes": self.tally.bytes,
            "reasons": dict(sorted(self.tally.reasons.items())),
            "retries": dict(sorted(self.tally.retries.items())),
            "tokens_per_second": round(self.tokens_per_second, 1),
            "stage_seconds": {name: round(spent, 3) for name, spent in sorted(self.tally.seconds.items())},
        }
