"""The fence: of several runs over one table only the newest adds rows.

The commit is the checkpoint. Workers write data files (files.write_rows) that nobody can see; one committer makes many
units visible in one transaction. Each such transaction is

    Update(removed_fragment_ids=[FENCE_ID], new_fragments=...)

where FENCE_ID is an id no fragment ever has. Two transactions that "remove" the same id always conflict and are never
rebased, so every commit of a run is a compare-and-swap against the commits of every other run, while appends, deletes,
index builds and compaction by others still rebase. A new run first commits an empty fence, then reads which units are
in the table; from then on an older run's commits fail (`Superseded`). tests/pipelines/table/test_fence.py pins this on
the installed pylance. A plain Append duplicates rows when a driver is killed or a commit's answer is lost.
"""

from __future__ import annotations

import contextlib
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import lance
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from pipelines.errors import StorageError, StoreUnavailable, Superseded, TableChanged, TableError
from pipelines.storage.faults import STORE_ERRORS, translate
from pipelines.storage.retry import Backoff, with_backoff
from pipelines.table.files import RUN_PROPERTY, Handle, commit_of, reading
from pipelines.table.identity import Identity, check, check_landed, commit_if_there, compare

FENCE_ID = 2**31 - 1
ENDS_A_RUN = {"Restore": "restored an older version of", "Overwrite": "overwrote"}
COMMIT_ATTEMPTS = 6
FENCE_ATTEMPTS = 40  # each time another run came first; of those that were there before, each but one stops then


class Fence:
    """One run's turn as the committer of a table, from `take` until a newer run takes it over."""

    def __init__(self, handle: Handle, run: str, columns: Iterable[str] | None = None):
        self.handle = handle
        self.run = run
        self._location = handle.address.location
        self._columns = frozenset(columns) if columns is not None else None
        self._landed: tuple[int, str] | None = None  # this run's last commit: version, transaction
        self.identify()

    def identify(self) -> None:
        """From here on the table is the one that it is now."""
        self._identity = Identity.of(self.handle.dataset, self._columns)

    @classmethod
    def take(
        cls, handle: Handle, run: str, properties: Mapping[str, str], columns: Iterable[str] | None = None
    ) -> Fence:
        """Become the committer: from here on commits of every older run fail. Read the done-set only after this.
        columns: that the run writes; None: all."""
        fence = cls(handle, run, columns)
        address = handle.address
        backoff = Backoff("taking the fence", address.location)
        conflicts = 0
        while conflicts < FENCE_ATTEMPTS:
            try:
                fence._check()
                fence._commit(fence._transaction([], properties))
                return fence
            except CommitConflictError:
                conflicts += 1
                time.sleep(random.uniform(0, min(0.02 * 2**conflicts, 1)))  # several that start together take turns
            except STORE_ERRORS as bad:
                backoff.failed(bad)
            # An older run committed first; its units will be in the done-set. Or a lost answer: then once more.
            handle.dataset = with_backoff("opening the table", address.location, address.open)
        raise TableChanged(f"{address.location}: other runs keep committing; stop them and run again")

    def commit(self, fragments: Iterable[str], properties: Mapping[str, str]) -> None:
        """Make fragments (JSON from `write_rows`) visible, all or none.

        A lost answer or a rebase failure is resolved by reading the transactions since: our own uuid means done, a
        newer run's fence means `Superseded`, anything else is tried again from the newest version."""
        metadata = [FragmentMetadata.from_json(fragment) for fragment in fragments]
        self._commit_fenced(lambda: self._transaction(metadata, properties))

    def prove(self) -> None:
        """Commit nothing. Raises Superseded if a newer run has taken over."""
        self._commit_fenced(lambda: self._transaction([], {}))

    def check_not_superseded(self) -> None:
        """Raises Superseded if a newer run has taken over, or the table is another one by now; says nothing when the
        store cannot be asked."""
        with contextlib.suppress(*STORE_ERRORS, StorageError, TableError):
            compare(self.handle, self.handle.address.find(), self._identity)
            self._landed_since(self.handle.dataset.version, set())

    def delete_shards(self, shards: Sequence[int], properties: Mapping[str, str]) -> int:
        """Remove all rows of these shards in one fenced transaction; returns the number of records removed."""
        predicate = f"_shard IN ({', '.join(str(s) for s in shards)})"
        before = self.handle.dataset.count_rows()

        def transaction() -> lance.Transaction:
            updated, removed = [], []
            for fragment in self.handle.dataset.get_fragments():
                if fragment.count_rows(predicate) == 0:
                    continue
                left = fragment.delete(predicate)
                if left is None:
                    removed.append(fragment.fragment_id)
                else:
                    updated.append(left.metadata if hasattr(left, "metadata") else left)
            return self._transaction([], properties, updated, removed)

        with reading(self.handle.address):
            self._commit_fenced(transaction)
        return before - self.handle.dataset.count_rows()

    def _check(self) -> None:
        """Raises Superseded unless the table is still the one that this run began with, TableError if a commit could
        land unseen."""
        newest = check(self.handle, self._identity)
        if self._landed is not None:
            version, transaction = self._landed
            last = commit_if_there(self.handle.address, newest, version)
            if last is not None and last.uuid not in (None, transaction):
                raise Superseded(
                    f"{self._location}: version {version}, which this run made, is another one now: somebody put a "
                    "copy in the table's place. This run has stopped; the same command goes on from there."
                )

    def _commit(self, transaction: lance.Transaction) -> None:
        self.handle.dataset = lance.LanceDataset.commit(self.handle.dataset, transaction)
        self._landed = self.handle.dataset.version, transaction.uuid
        check_landed(self.handle.address, self.handle.dataset.version, self._identity)

    def _transaction(
        self,
        new: list[FragmentMetadata],
        properties: Mapping[str, str],
        updated: Sequence[FragmentMetadata] = (),
        removed: Sequence[int] = (),
    ) -> lance.Transaction:
        operation = lance.LanceOperation.Update(
            removed_fragment_ids=[FENCE_ID, *removed], updated_fragments=list(updated), new_fragments=new
        )
        stamped = {**properties, RUN_PROPERTY: self.run, "vectormill.time": datetime.now(UTC).isoformat()}
        return lance.Transaction(
            self.handle.dataset.version, operation, str(uuid.uuid4()), transaction_properties=stamped
        )

    def _commit_fenced(self, make: Callable[[], lance.Transaction]) -> None:
        tried: set[str] = set()
        backoff = Backoff("committing", self._location)
        for conflicts in range(COMMIT_ATTEMPTS):
            failure = self._attempt(make, tried, backoff)
            if failure is None:
                return
            if conflicts == COMMIT_ATTEMPTS - 1:
                raise translate(failure, self._location) from failure
            time.sleep(min(0.1 * 2**conflicts, 5))

    def _attempt(self, make: Callable[[], lance.Transaction], tried: set[str], backoff: Backoff) -> Exception | None:
        """Commit until it is in, or fails for another reason than a store that is unavailable: that is returned."""
        while True:
            version = self.handle.dataset.version
            try:
                self._check()
                transaction = make()
                tried.add(transaction.uuid)
                self._commit(transaction)
                return None
            except STORE_ERRORS as bad:  # CommitConflictError is one
                failure = bad
            try:
                if self._landed_since(version, tried):
                    return None
            except STORE_ERRORS:
                pass  # the next attempt finds out: from an old version it conflicts with one that landed
            if not isinstance(translate(failure, self._location), StoreUnavailable):
                return failure
            backoff.failed(failure)

    def _landed_since(self, version: int, tried: set[str]) -> bool:
        """Look at what was committed after `version`. True: one of our attempts is in.

        Moves the handle to the newest version, but never past another run's commit: the next commit must conflict
        with that one."""
        latest = self.handle.address.open()
        landed = None
        for number in range(version + 1, latest.version + 1):
            commit = commit_if_there(self.handle.address, latest, number)
            if commit is None:
                raise TableChanged(
                    f"{self._location}: version {number} was removed while this run waited, so it cannot tell "
                    "whether a newer run took over. Stopped; run the same command again."
                )
            if commit.uuid in tried:
                landed = number
            elif commit.properties.get(RUN_PROPERTY, self.run) != self.run:
                if landed is not None:
                    self.handle.dataset = latest.checkout_version(landed)
                    return True
                raise Superseded(
                    f"{self._location}: superseded by run {commit.properties[RUN_PROPERTY]} (since "
                    f"{commit.properties.get('vectormill.time')}). Nothing to repair: that run goes on where this one "
                    "stopped."
                )
            elif commit.kind in ENDS_A_RUN:
                raise Superseded(
                    f"{self._location}: somebody {ENDS_A_RUN[commit.kind]} the table while this run went on (version "
                    f"{number}). This run has stopped; the same command goes on from what is there."
                )
        if landed is not None:
            self._landed = landed, commit_of(latest, landed).uuid or ""
            check_landed(self.handle.address, landed, self._identity)
        self.handle.dataset = latest
        return landed is not None
