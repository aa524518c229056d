"""A table knows who it is: a run commits to the table that it began with, or not at all.

A table may be dropped, made anew, overwritten, restored or switched to another model while a driver is alive. Its next
commit would land all the same, if its number is free: on top of somebody else's table, or alone where a dropped one
was. So before each commit the newest version must be of the table that the run began with (`check`), and after it the
version below (`check_landed`). A run that finds it landed elsewhere takes its own manifest back, while that is the
newest; one that is killed before that leaves it, and the next run that begins does it (`heal`). What stays open between
check and commit is under "Not promised" in docs/guarantees.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import lance
import pyarrow as pa

from pipelines.errors import StoreUnavailable, Superseded, TableChanged, TableError
from pipelines.storage.faults import STORE_ERRORS, translate
from pipelines.storage.files import entries, remove_file
from pipelines.storage.retry import with_backoff
from pipelines.table.files import RUN_PROPERTY, Commit, Handle, TableAddress, commit_of
from pipelines.table.schema import METADATA_KEY, result_of

DROPPED = "the table was dropped while this run went on. What was in it is gone; the same command makes it anew."
_LARGEST = 2**64 - 1
_MANIFEST = re.compile(r"(\d+)\.manifest")


@dataclass(frozen=True)
class Identity:
    """table: the number that it was given when it was made; "" of a table of format 2. fingerprint: of its results.
    columns: names and Lance's ids of the fields that a run writes."""

    table: str
    fingerprint: str
    columns: frozenset[tuple[str, int]]

    @classmethod
    def of(cls, dataset: lance.LanceDataset, columns: frozenset[str] | None = None) -> Identity:
        """columns: which of them count; None: all."""
        said = _said(dataset.schema)
        fields = {(field.name(), field.id()) for field in dataset.lance_schema.fields()}
        return cls(
            said.get("table", ""),
            said.get("fingerprint", ""),
            frozenset(one for one in fields if columns is None or one[0] in columns),
        )

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.columns)


def _said(schema: pa.Schema) -> dict[str, Any]:
    """What vectormill noted in a schema; {} where it noted nothing."""
    raw = (schema.metadata or {}).get(METADATA_KEY)
    if raw is None:
        return {}
    field = schema.field(name).metadata if (name := result_of(schema)) in schema.names else None
    return {**json.loads(raw), **json.loads((field or {}).get(METADATA_KEY, b"{}"))}


def check(handle: Handle, mine: Identity) -> lance.LanceDataset:
    """Before a commit; gives the newest version. Raises Superseded unless that is of the table that the run began with,
    TableError where a commit could land unseen (`check_history`)."""
    location = handle.address.location
    newest = with_backoff("looking at the table", location, handle.address.find)
    compare(handle, newest, mine)
    assert newest is not None
    check_history(handle.address, newest)
    return newest


def compare(handle: Handle, newest: lance.LanceDataset | None, mine: Identity) -> None:
    """Raises Superseded unless this version is of the table that the run began with, and no older than it saw."""
    location = handle.address.location
    if newest is None:
        raise Superseded(f"{location}: {DROPPED}")
    found = Identity.of(newest, mine.names)
    if found != mine:
        raise Superseded(f"{location}: {_what_happened(mine, found)} This run has stopped.")
    if newest.version < handle.dataset.version:
        raise Superseded(
            f"{location}: its newest version is {newest.version} now, and was {handle.dataset.version}: somebody put "
            "an older copy in its place. The same command goes on from there."
        )


def _what_happened(mine: Identity, found: Identity) -> str:
    if not found.table and not found.fingerprint:
        return "somebody overwrote the table while this run went on; it is none of vectormill's any more."
    if found.table != mine.table:
        return "the table was dropped and made anew while this run went on; nothing was added to the new one."
    if found.fingerprint != mine.fingerprint:
        return "the table holds results of another model since this run began."
    changed = sorted({name for name, _ in mine.columns ^ found.columns})
    return f"columns that this run writes were dropped, renamed or replaced since it began: {', '.join(changed)}."


def check_landed(address: TableAddress, version: int, mine: Identity) -> None:
    """After a commit that made this version. Raises Superseded if the version below is of another table, and takes the
    commit back, unless somebody has built on it."""
    below = _below(address, version)
    if below is None:
        happened = None if _has_its_files(address, version) else DROPPED
    else:
        found = Identity.of(below, mine.names)
        is_fine = found == mine or _may_be_older(below, found, address, version, mine)
        happened = None if is_fine else f"{_what_happened(mine, found)} This run has stopped."
    if happened is not None:
        taken = _take_back(address, version)
        end = "Its last commit was taken back." if taken else "Somebody has committed on top of its last commit."
        raise Superseded(f"{address.location}: {happened} {end}")


def _may_be_older(
    below: lance.LanceDataset, found: Identity, address: TableAddress, version: int, mine: Identity
) -> bool:
    """Whether the version below, which differs, may be one of this table, or of what its owner once put in its place,
    of which those between were removed: then a version that is whole must not be taken back. Another number is another
    table, and what was committed there has landed."""
    has_other_number = bool(found.table) and found.table != mine.table
    return below.version < version - 1 and not has_other_number and _has_its_files(address, version)


def _has_its_files(address: TableAddress, version: int) -> bool:
    """Whether the oldest data of a version is there: not where the table was dropped under the commit that made it."""
    dataset = _version(address, version)
    fragments = dataset.get_fragments() if dataset is not None else []
    oldest = min(fragments, key=lambda one: one.fragment_id, default=None)
    there = {name for name, _ in _entries(address, "data")}
    return oldest is None or {file.path for file in oldest.data_files()} <= there


def check_history(address: TableAddress, newest: lance.LanceDataset) -> None:
    """Raises TableError where a stale commit could land unseen. The fence of a run that took over lies in a version;
    where versions were removed while a tag or a branch keeps older ones readable, a commit that was prepared on one of
    those meets no fence. While there is a tag every version since the oldest one must be there; a branch is refused."""
    if branches := with_backoff("looking for branches", address.location, newest.branches.list):
        raise TableError(
            f"{address.location}: the table has branches ({', '.join(sorted(branches))}), and rows cannot be added "
            "safely to one that has. Remove them (delete_branch of the Lance dataset), or work on a copy"
        )
    tags = with_backoff("looking for tags", address.location, newest.tags.list)
    if not tags:
        return
    oldest, there = min(int(tag["version"]) for tag in tags.values()), versions(address)
    if lacking := [number for number in range(oldest, newest.version + 1) if number not in there]:
        raise TableError(
            f"{address.location}: the tags {', '.join(sorted(tags))} keep old versions, and {len(lacking)} versions "
            f"since then were removed (the first is {lacking[0]}); rows cannot be added safely to such a table. Remove "
            f"the tags on versions before {lacking[-1] + 1}, or work on a copy"
        )


def heal(address: TableAddress) -> list[int]:
    """Take back what runs committed on top of a table that was another one, newest first; returns those versions.

    Raises TableChanged for one on which somebody else has built, TableError where it may be the right one after all,
    StorageError."""
    gone: list[int] = []
    with_backoff("looking at the newest versions", address.location, lambda: _heal(address, gone))
    return gone


def _heal(address: TableAddress, gone: list[int]) -> None:
    while versions(address):
        newest = with_backoff("looking at the table", address.location, address.open)
        below = _below(address, newest.version)
        mine = Identity.of(newest)
        if below is None or not mine.table or (found := Identity.of(below)).table == mine.table:
            return
        if found.fingerprint and not found.table:  # of before tables had a number: it was given to this one since
            return
        if RUN_PROPERTY not in commit_of(newest, newest.version).properties:
            return
        if _may_be_older(below, found, address, newest.version, mine):
            raise TableError(
                f"{address.location}: version {newest.version} is of this table and whole, and the one below it that "
                f"is there, {below.version}, is of another; those between were removed. If {newest.version} is the "
                f"right one, remove version {below.version} (and the tags on it); else restore that"
            )
        if not _take_back(address, newest.version):
            raise TableChanged(f"{address.location}: somebody is writing to it; run the same command again")
        gone.append(newest.version)


def _below(address: TableAddress, version: int) -> lance.LanceDataset | None:
    """The next older version that is there."""
    below = _version(address, version - 1)  # nearly always
    older = [] if below is not None else [number for number in versions(address) if number < version]
    return _version(address, max(older)) if older else below


def _version(address: TableAddress, number: int) -> lance.LanceDataset | None:
    one = replace(address, version=number)
    return with_backoff("looking at the table", address.location, one.find)


def _take_back(address: TableAddress, version: int) -> bool:
    """Remove this version, if it is the newest."""
    found = versions(address)
    if version not in found or version < max(found):
        return False
    remove_file(f"{address.location}/_versions/{found[version]}", address.storage)
    return True


def commit_if_there(address: TableAddress, dataset: lance.LanceDataset, version: int) -> Commit | None:
    """What made a version; None if that is gone. A store that does not let it be read says nothing of the kind: raises
    what Lance raised where another attempt may help, StorageError otherwise."""
    try:
        return commit_of(dataset, version)
    except STORE_ERRORS as bad:
        failure = translate(bad, address.location)
        if isinstance(failure, StoreUnavailable):
            raise
        if version in versions(address):
            raise failure from bad
        return None


def versions(address: TableAddress) -> dict[int, str]:
    """The versions that are there, each with its file's name."""
    names = (name for name, _ in _entries(address, "_versions"))
    return {number: name for name in names if (number := version_of(name)) is not None}


def _entries(address: TableAddress, folder: str) -> list[tuple[str, datetime]]:
    uri = f"{address.location}/{folder}"
    return with_backoff(f"looking at {folder}", address.location, lambda: entries(uri, address.storage))


def version_of(manifest: str) -> int | None:
    """The version that a file of `_versions` describes; None for a file of another kind."""
    found = _MANIFEST.fullmatch(manifest)
    if found is None:
        return None
    # Lance names them so that the newest version is listed first; it used to name them by the version.
    return _LARGEST - int(found[1]) if len(found[1]) == 20 else int(found[1])
