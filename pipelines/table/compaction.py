"""Fewer, larger fragments, and old versions removed. A run's commits rebase over both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pipelines.table.files import TableAddress
from pipelines.table.index import segments

ROWS_PER_FRAGMENT = 1 << 20
KEEP_VERSIONS_FOR = timedelta(hours=1)  # a run resolves lost commits by reading recent versions


@dataclass(frozen=True)
class CleanedUp:
    versions: int
    bytes: int


def compact(address: TableAddress) -> int:
    """Rewrite small fragments into larger ones; how many it replaced."""
    found = address.open().optimize.compact_files(
        target_rows_per_fragment=ROWS_PER_FRAGMENT, compaction_mode="try_binary_copy"
    )
    return int(found.fragments_removed)


def clean_up(address: TableAddress) -> CleanedUp:
    """Remove versions older than KEEP_VERSIONS_FOR and what they alone refer to, files of no version that are older
    than 7 days, and what is left of indexes that were being measured when their process was killed."""
    found = address.open().cleanup_old_versions(older_than=KEEP_VERSIONS_FOR, error_if_tagged_old_versions=False)
    segments.sweep(address, KEEP_VERSIONS_FOR)
    return CleanedUp(found.old_versions, found.bytes_removed)
