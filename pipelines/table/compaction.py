"""Fewer, larger fragments, and old versions removed. A run's commits rebase over both."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import TableError
from pipelines.table.files import TableAddress
from pipelines.table.index import segments
from pipelines.table.index.segments import one_at_a_time

NEEDED = ("data/", "_deletions/")  # by name, to read a table
ROWS_PER_FRAGMENT = 1 << 20
KEEP_VERSIONS_FOR = timedelta(hours=1)  # a run resolves lost commits by reading recent versions


@dataclass(frozen=True)
class CleanedUp:
    versions: int
    bytes: int


def compact(address: TableAddress) -> int:
    """Rewrite small fragments into larger ones; how many it replaced."""
    with one_at_a_time(address, "nothing was compacted"):
        found = address.open().optimize.compact_files(
            target_rows_per_fragment=ROWS_PER_FRAGMENT, compaction_mode="try_binary_copy"
        )
    return int(found.fragments_removed)


def check_files(address: TableAddress) -> None:
    """Raises TableError if the store lacks a file that the newest version needs: another program may have taken what
    was not committed yet for rubbish, and Lance does not look."""
    dataset = address.open()
    tracked = dataset.tracked_files(min_version=dataset.version).read_all()
    there = dataset.all_files().read_all()  # of this folder: a clone's others lie with what it was cloned from
    here = pc.is_in(tracked["base_uri"].cast(pa.string()), there["base_uri"].cast(pa.string()).unique())
    needed = tracked.filter(here)["path"].to_pylist()
    sizes = dict(zip(there["path"].to_pylist(), there["size_bytes"].to_pylist(), strict=True))
    gone = sorted(path for path in needed if path.startswith(NEEDED) and path not in sizes)
    for index in dataset.describe_indices():  # whose files the manifest does not name: it knows their bytes
        for segment in index.segments:
            folder = f"_indices/{segment.uuid}/"
            found = sum(size for path, size in sizes.items() if path.startswith(folder))
            if segment.base_id is None and found < (segment.size_bytes or 1):
                gone.append(folder)
    if gone:
        raise TableError(
            f"{address.location}: {len(gone):,} file(s) that version {dataset.version} needs are gone, {gone[0]} among "
            "them: another program removed them while this one worked. Stop what cleans up in this folder, and restore "
            "the version before, or the backup (docs/operations.md, Backups)"
        )


def clean_up(address: TableAddress) -> CleanedUp:
    """Remove versions older than KEEP_VERSIONS_FOR and what they alone refer to, files of no version that are older
    than 7 days, and what is left of indexes that were being measured when their process was killed.

    Where there are tags all versions since the oldest one stay: a run that was overtaken may commit on a tagged one,
    and must meet the fence that lies in one after it (`identity.check_history`)."""
    dataset = address.open()
    tagged = [int(tag["version"]) for tag in dataset.tags.list().values()]
    found = dataset.cleanup_old_versions(
        older_than=KEEP_VERSIONS_FOR,
        retain_versions=dataset.version - min(tagged) + 1 if tagged else None,
        error_if_tagged_old_versions=False,
    )
    segments.sweep(address, KEEP_VERSIONS_FOR)
    return CleanedUp(found.old_versions, found.bytes_removed)
