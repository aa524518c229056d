"""What a run counts while it goes on: fed by receipts and commits, read by the display and the run record."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.engine.stage import Parcel

RATE_WINDOW = 32  # receipts over which tokens/s is averaged
RETRY = "retry:"  # begins the names of counts that say what was tried again, and why


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
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW))

    def begin(self) -> None:
        """The replicas start to work now: rates count from here."""
        if not self.began:
            self.began = time.monotonic()
            self._recent.append((self.began, 0))

    def received(self, receipt: Parcel) -> None:
        self.rows_written += sum(unit.rows for unit in receipt.bundle)
        self.counts.update(receipt.counts)
        self.seconds.update(receipt.seconds)
        self._recent.append((time.monotonic(), self.counts["tokens"]))

    def committed(self, receipts: Iterable[Parcel]) -> None:
        for receipt in receipts:
            self.rows_committed += sum(unit.rows for unit in receipt.bundle)
            self.units_committed += len(receipt.bundle)
        self.commits += 1

    @property
    def reasons(self) -> dict[str, int]:
        return self._counted("reason:")

    @property
    def retries(self) -> dict[str, int]:
        """Reads and writes of workers that were tried again, by what went wrong."""
        return self._counted(RETRY)

    def _counted(self, prefix: str) -> dict[str, int]:
        return {k.removeprefix(prefix): n for k, n in sorted(self.counts.items()) if k.startswith(prefix)}

    @property
    def replicas_seen(self) -> dict[str, int]:
        """Replicas that gave vectors, each process counted, by node; empty in an engine that has no processes."""
        seen: Counter[str] = Counter()
        for name in self.counts:
            if name.startswith("replica:"):
                seen[name.split(":")[1]] += 1
        return dict(seen)

    @property
    def bad_rows(self) -> int:
        """Rows of which some record has a reason."""
        return self.counts["bad_rows"]

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
            "tokens": self.counts["tokens"],
            "records": self.counts["records"],
            "truncated": self.counts["truncated"],
            "bytes": self.counts["bytes"],
            "reasons": self.reasons,
            "retries": self.retries,
            "tokens_per_second": round(self.tokens_per_second, 1),
            "stage_seconds": {name: round(spent, 3) for name, spent in sorted(self.seconds.items())},
        }
