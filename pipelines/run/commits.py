"""When receipts become a commit.

Receipts wait until `every_seconds` have passed since the first of them or `every_rows` rows wait, then all of them go
into one transaction: often enough that a crash costs little, seldom enough that neither versions nor fragments pile
up. What comes here has been told from what an engine gave twice (engine/in_hand.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from pipelines.engine.stage import Receipt

Commit = Callable[[Sequence[str], Mapping[str, str]], None]  # what was written, and properties for observers


class Committer:
    """Collects receipts and commits them. `properties` (called at each commit) describe the run for observers."""

    def __init__(
        self,
        commit: Commit,
        every_seconds: float,
        every_rows: int,
        properties: Callable[[], Mapping[str, str]],
    ):
        self._commit = commit
        self._every_seconds = every_seconds
        self._every_rows = every_rows
        self._properties = properties
        self._waiting: list[Receipt] = []
        self.rows_waiting = 0
        self._first_at = 0.0
        self.commits = 0
        self.longest_commit_seconds = 0.0

    def offer(self, receipt: Receipt) -> None:
        if not self._waiting:
            self._first_at = time.monotonic()
        self._waiting.append(receipt)
        self.rows_waiting += sum(unit.rows for unit in receipt.bundle)

    def seconds_until_due(self) -> float | None:
        """None while nothing waits."""
        if not self._waiting:
            return None
        if self.rows_waiting >= self._every_rows:
            return 0.0
        return max(0.0, self._first_at + self._every_seconds - time.monotonic())

    def commit(self) -> list[Receipt]:
        """Commit all that waits and return it. Raises what the commit raises.

        The receipts are given up first: if the commit fails or is interrupted it may still have landed, and a second
        try with the same fragments would double their rows. The next run asks the table."""
        if not self._waiting:
            return []
        taken, self._waiting = self._waiting, []
        self.rows_waiting = 0
        started = time.monotonic()
        self._commit([f for receipt in taken for f in receipt.fragments], self._properties())
        self.longest_commit_seconds = max(self.longest_commit_seconds, time.monotonic() - started)
        self.commits += 1
        return taken
