"""Data files that no version of a table refers to: what a killed run wrote and never committed.

Every manifest lists all files of its version, so reading the manifests of all versions costs (versions x files): after
10,000 commits of 15 fragments 760 million names, more than a driver has memory for (docs/scale.md). Almost none of it
is needed. What the newest version refers to is no orphan. A file is written before the manifest that first refers to
it, so for any other file only the versions since it was written count; and a run that was killed left its orphans near
the end of the history. The bytes of manifests that are read have a bound; files too old to be judged within it are
left alone and counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.storage.files import remove_file
from pipelines.storage.retry import with_backoff
from pipelines.table.fence import Fence
from pipelines.table.files import FILE_PREFIX, reading
from pipelines.table.identity import version_of

MANIFEST_BYTES_READ = 1 << 30  # half a minute of CPU, during which the replicas wait
CLOCKS = timedelta(minutes=1)  # by which the times of two files of one store may be wrong to each other


@dataclass(frozen=True)
class Orphans:
    """paths: below the table's folder. unjudged: files that may be orphans; to tell, more than MANIFEST_BYTES_READ of
    old manifests would have to be read."""

    paths: list[str]
    unjudged: int = 0


def find_orphans(dataset: Any, bytes_read: int = MANIFEST_BYTES_READ) -> Orphans:
    """Data files of runs that belong to no version that is kept."""
    present = dataset.all_files().read_all()  # before any manifest: what is committed in between is no orphan
    data = present.filter(pc.starts_with(present["path"], f"data/{FILE_PREFIX}"))
    current = _tracked(dataset, dataset.version)
    is_current = pc.is_in(data["path"], value_set=current)
    suspects = data.filter(pc.invert(is_current))
    if suspects.num_rows == 0:
        return Orphans([])
    written = dict(zip(suspects["path"].to_pylist(), suspects["last_modified"].to_pylist(), strict=True))
    newest_data = pc.max(data.filter(is_current)["last_modified"]).as_py()
    judged, first_version = _judged(_manifests(present), written, newest_data, bytes_read)
    kept = set(judged)
    if kept:
        for batch in dataset.tracked_files(min_version=first_version):
            kept.difference_update(batch["path"].to_pylist())
    return Orphans(sorted(kept), unjudged=len(written) - len(judged))


def _tracked(dataset: Any, version: int) -> pa.Array:
    return dataset.tracked_files(min_version=version).read_all()["path"].combine_chunks()


def _manifests(present: pa.Table) -> list[tuple[int, datetime, int]]:
    """(version, when written, bytes), newest version first."""
    found = []
    columns = (present[name].to_pylist() for name in ("path", "last_modified", "size_bytes"))
    for path, modified, size in zip(*columns, strict=True):
        folder, _, name = path.rpartition("/")
        if folder == "_versions" and (number := version_of(name)) is not None:
            found.append((number, modified, size))
    return sorted(found, reverse=True)


def _judged(
    manifests: list[tuple[int, datetime, int]],
    written: dict[str, datetime],
    newest_data: datetime | None,
    bytes_read: int,
) -> tuple[list[str], int]:
    """(files that the versions from some version on can tell about, that version)."""
    # Times do not tell in a copy of a table that did not keep them.
    times_tell = all(new[1] >= old[1] - CLOCKS for new, old in pairwise(manifests)) and (
        newest_data is None or newest_data <= manifests[0][1] + CLOCKS
    )
    since = min(written.values()) - CLOCKS
    spent, first_version = 0, manifests[0][0]
    for version, modified, size in manifests:
        if times_tell and modified < since:
            return list(written), first_version
        if spent + size > bytes_read:
            sure = [path for path, when in written.items() if times_tell and when - CLOCKS > modified]
            return sure, first_version
        spent, first_version = spent + size, version
    return list(written), 0


def remove_orphans(fence: Fence) -> Orphans:
    """Delete data files that runs wrote and that no version refers to; returns what was found. Only with the fence, and
    before this run writes: what an older run wrote can then never be committed. Files of others (their names say so: a
    compaction's, an append's) are not looked at, whatever their age; Lance's own clean-up knows them.

    A run may have taken over before the files were listed, and some of them be its own, about to be committed or
    committed already. So the fence is proved once more after the listing. Raises Superseded."""
    address = fence.handle.address

    def look() -> Orphans:
        with reading(address):
            return find_orphans(fence.handle.dataset)

    found = with_backoff("looking for orphan files", address.location, look)
    if found.paths:
        fence.prove()
    for name in found.paths:
        uri = f"{address.location}/{name}"
        with_backoff(f"removing {name}", address.location, partial(remove_file, uri, address.storage))
    return found
