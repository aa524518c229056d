"""The table as a run sees it: creation, the fence and commits (contents.py reads what is in it).

The commit is the checkpoint. Workers write data files (files.write_rows) that nobody can see; one committer makes
many units visible in one transaction. Each such transaction is

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
from functools import partial

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from pipelines.errors import StoreUnavailable, Superseded, TableError
from pipelines.storage.clients import filesystem_for
from pipelines.storage.faults import STORE_ERRORS, translate
from pipelines.storage.retry import Backoff, with_backoff
from pipelines.table.files import TableAddress, reading, transaction_of
from pipelines.table.orphans import Orphans, find_orphans
from pipelines.table.schema import TableMetadata

FENCE_ID = 2**31 - 1
RUN_PROPERTY = "vectormill.run"
COMMIT_ATTEMPTS = 6
FENCE_ATTEMPTS = 40  # each time another run came first; of those that were there before, each but one stops then


def _opened(address: TableAddress) -> lance.LanceDataset | None:
    try:
        return address.open()
    except STORE_ERRORS as bad:
        if "was not found" in str(bad) or "Dataset at path" in str(bad):
            return None
        raise


class LanceTable:
    """One open table. Not thread-safe; one committer, one handle."""

    def __init__(self, address: TableAddress, dataset: lance.LanceDataset, metadata: TableMetadata):
        self.address = address
        self.metadata = metadata
        self._dataset = dataset
        self._run: str | None = None

    @classmethod
    def open(cls, address: TableAddress) -> LanceTable | None:
        """The table, or None where there is none. Raises TableError for a table vectormill did not make, StorageError
        where the store cannot be read."""
        dataset = with_backoff("opening the table", address.location, lambda: _opened(address), first_contact=True)
        if dataset is None:
            return None
        try:
            metadata = TableMetadata.from_schema(dataset.schema)
        except (ValueError, KeyError) as bad:
            raise TableError(f"{address.location}: its vectormill metadata cannot be read ({bad})") from bad
        if metadata is None:
            raise TableError(
                f"{address.location} exists but was not created by vectormill, so it has no fingerprint and no "
                "provenance columns. Choose another table.name."
            )
        return cls(address, dataset, metadata)

    @classmethod
    def open_or_create(cls, address: TableAddress, schema: pa.Schema) -> LanceTable:
        """Open the table or create it empty, fingerprint included, in one race-safe commit: of several creators one
        wins and the others open what it made. (`write_dataset(mode="create")` let later creators overwrite.)"""
        table = cls.open(address)
        attempts = Backoff("creating the table", address.location)
        while table is None:
            try:
                lance.LanceDataset.commit(
                    address.uri,
                    lance.LanceOperation.Overwrite(schema, []),
                    read_version=0,
                    max_retries=0,
                    storage_options=address.options,
                )
            except STORE_ERRORS as bad:
                table = cls.open(address)  # another creator won, or only the answer was lost
                if table is None:
                    attempts.failed(bad)
            else:
                table = cls.open(address)
                assert table is not None, "a table just created can be opened"
        return table

    @property
    def version(self) -> int:
        return self._dataset.version

    @property
    def schema(self) -> pa.Schema:
        return self._dataset.schema

    @property
    def dataset(self) -> lance.LanceDataset:
        return self._dataset

    def count_rows(self) -> int:
        """Records in the table, from the manifest."""
        return self._dataset.count_rows()

    # ------------------------------------------------------------------ fence and commit

    def take_fence(self, run: str, properties: Mapping[str, str]) -> None:
        """Become the committer: from here on commits of every older run fail. Read the done-set only after this."""
        self._run = run
        attempts = Backoff("taking the fence", self.address.location)
        conflicts = 0
        while conflicts < FENCE_ATTEMPTS:
            try:
                self._dataset = lance.LanceDataset.commit(self._dataset, self._transaction([], properties))
                return
            except CommitConflictError:
                conflicts += 1
                time.sleep(random.uniform(0, min(0.02 * 2**conflicts, 1)))  # several that start together take turns
            except OSError as bad:
                attempts.failed(bad)
            # An older run committed first; its units will be in the done-set. Or a lost answer: then once more.
            self._dataset = with_backoff("opening the table", self.address.location, self.address.open)
        raise TableError(f"{self.address.location}: other runs keep committing; stop them and run again")

    def commit(self, fragments: Iterable[str], properties: Mapping[str, str]) -> None:
        """Make fragments (JSON from `write_rows`) visible, all or none.

        A lost answer or a rebase failure is resolved by reading the transactions since: our own uuid means done, a
        newer run's fence means `Superseded`, anything else is tried again from the newest version."""
        metadata = [FragmentMetadata.from_json(fragment) for fragment in fragments]
        self._commit_fenced(lambda: self._transaction(metadata, properties))

    def check_not_superseded(self) -> None:
        """Raises Superseded if a newer run has taken over; says nothing when the store cannot be asked."""
        with contextlib.suppress(*STORE_ERRORS):
            self._landed_since(self._dataset.version, set())

    def delete_shards(self, shards: Sequence[int], properties: Mapping[str, str]) -> int:
        """Remove all rows of these shards in one fenced transaction; returns the number of records removed."""
        predicate = f"_shard IN ({', '.join(str(s) for s in shards)})"
        before = self._dataset.count_rows()

        def transaction() -> lance.Transaction:
            updated, removed = [], []
            for fragment in self._dataset.get_fragments():
                if fragment.count_rows(predicate) == 0:
                    continue
                left = fragment.delete(predicate)
                if left is None:
                    removed.append(fragment.fragment_id)
                else:
                    updated.append(left.metadata if hasattr(left, "metadata") else left)
            return self._transaction([], properties, updated, removed)

        with reading(self.address):
            self._commit_fenced(transaction)
        return before - self._dataset.count_rows()

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
        stamped = {**properties, RUN_PROPERTY: str(self._run), "vectormill.time": datetime.now(UTC).isoformat()}
        return lance.Transaction(self._dataset.version, operation, str(uuid.uuid4()), transaction_properties=stamped)

    def _commit_fenced(self, make: Callable[[], lance.Transaction]) -> None:
        assert self._run is not None, "take_fence first"
        tried: set[str] = set()
        attempts = Backoff("committing", self.address.location)
        for conflicts in range(COMMIT_ATTEMPTS):
            failure = self._attempt(make, tried, attempts)
            if failure is None:
                return
            if conflicts == COMMIT_ATTEMPTS - 1:
                raise translate(failure, self.address.location) from failure
            time.sleep(min(0.1 * 2**conflicts, 5))

    def _attempt(self, make: Callable[[], lance.Transaction], tried: set[str], attempts: Backoff) -> OSError | None:
        """Commit until it is in, or fails for another reason than a store that is unavailable: that is returned."""
        while True:
            version = self._dataset.version
            try:
                transaction = make()
                tried.add(transaction.uuid)
                self._dataset = lance.LanceDataset.commit(self._dataset, transaction)
                return None
            except OSError as bad:  # CommitConflictError is one
                failure = bad
            try:
                if self._landed_since(version, tried):
                    return None
            except STORE_ERRORS:
                pass  # the next attempt finds out: from an old version it conflicts with one that landed
            if not isinstance(translate(failure, self.address.location), StoreUnavailable):
                return failure
            attempts.failed(failure)

    def _landed_since(self, version: int, tried: set[str]) -> bool:
        """Look at what was committed after `version`. True: one of our attempts is in.

        Moves the handle to the newest version, but never past another run's commit: the next commit must conflict
        with that one."""
        latest = self.address.open()
        landed = None
        for number in range(version + 1, latest.version + 1):
            try:
                seen, properties = transaction_of(latest, number)
            except STORE_ERRORS as bad:
                if isinstance(translate(bad, self.address.location), StoreUnavailable):
                    raise
                raise Superseded(
                    f"{self.address.location}: version {number} was removed while this run waited, so it cannot tell "
                    "whether a newer run took over. Stopped; run the same command again."
                ) from bad
            if seen in tried:
                landed = number
            elif properties.get(RUN_PROPERTY, self._run) != self._run:
                if landed is not None:
                    self._dataset = latest.checkout_version(landed)
                    return True
                raise Superseded(
                    f"{self.address.location}: superseded by run {properties[RUN_PROPERTY]} (since "
                    f"{properties.get('vectormill.time')}). Nothing to repair: that run goes on where this one stopped."
                )
        self._dataset = latest
        return landed is not None

    # ------------------------------------------------------------------ reading

    def sql(self, query: str) -> pa.Table:
        """The answer to a SQL query over `dataset`, asked again while the store is unavailable."""

        def read() -> pa.Table:
            with reading(self.address):
                return self._dataset.sql(query).build().to_stream_reader().read_all()

        return with_backoff("reading the table", self.address.location, read)

    def last_commit(self, look_back: int = 100) -> dict[str, str]:
        """Properties of the newest transaction by a run, or {} if it is further back than `look_back` versions."""
        for number in range(self.version, max(1, self.version - look_back), -1):
            try:
                _, properties = transaction_of(self._dataset, number)
            except (OSError, ValueError):
                return {}  # cleaned up: properties are a log, not the truth
            if RUN_PROPERTY in properties:
                return dict(properties)
        return {}

    # ------------------------------------------------------------------ orphans

    def remove_orphans(self, older_than_seconds: float) -> Orphans:
        """Delete data files that no version refers to, left by killed runs; returns what was found. Only with the
        fence: files an older run wrote can then never be committed. The age protects other writers of the table.

        A run may have taken over before the files were listed, and some of them be its own, about to be committed or
        committed already. So the fence is proved once more after the listing. Raises Superseded."""
        assert self._run is not None, "take_fence first"
        where = self.address.location

        def look() -> Orphans:
            with reading(self.address):
                return find_orphans(self._dataset, older_than_seconds)

        found = with_backoff("looking for orphan files", where, look)
        if found.paths:
            self._commit_fenced(lambda: self._transaction([], {}))
        files, root = filesystem_for(where, self.address.storage)

        def remove(name: str) -> None:
            with contextlib.suppress(FileNotFoundError):  # another run's work, or an attempt whose answer was lost
                files.delete_file(f"{root}/{name}")

        for name in found.paths:
            with_backoff(f"removing {name}", where, partial(remove, name))
        return found
