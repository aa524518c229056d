"""How many rows may end without a result."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.errors import Incomplete
from pipelines.run.metrics import RunMetrics


@dataclass(frozen=True)
class BadRows:
    """allowed: below 1 a share of the rows, else a count (run.max_bad_rows). before: in the table when the run began.
    result: what they lack, in one word."""

    allowed: float
    rows: int
    before: int
    result: str

    def check(self, metrics: RunMetrics) -> None:
        """Raises Incomplete when there are more than are allowed."""
        limit = self.allowed * self.rows if self.allowed < 1 else self.allowed
        bad = self.before + metrics.tally.bad_rows
        if bad > limit:
            reasons = ", ".join(f"{n:,} {reason}" for reason, n in sorted(metrics.tally.reasons.items()))
            raise Incomplete(
                f"{bad:,} rows have no {self.result}, more than run.max_bad_rows ({self.allowed:g}) allows"
                f"{f'; in this run {reasons}' if reasons else ''}. See them with `vectormill status`; fix the corpus "
                "or raise the limit. What is committed stays."
            )
