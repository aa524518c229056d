"""The door to a table: everybody opens, reads and changes it through here, and nobody outside this room holds Lance's
own dataset. What makes a commit is in fence.py; what its data files are, in files.py; what is in it, in contents.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import lance
import pyarrow as pa

from pipelines.errors import ConfigError, TableError
from pipelines.storage.faults import STORE_ERRORS
from pipelines.storage.files import entries
from pipelines.storage.retry import Backoff, with_backoff
from pipelines.table.fence import Fence
from pipelines.table.files import RUN_PROPERTY, Commit, Handle, TableAddress, reading
from pipelines.table.identity import commit_if_there, versions
from pipelines.table.index.records import IndexState, state_of
from pipelines.table.schema import TableMetadata


@dataclass(frozen=True)
class Fragment:
    """Data files that are visible together."""

    id: int
    rows: int
    bytes: int


def _refuse_half_a_copy(address: TableAddress) -> None:
    """Data without a version is not an empty place: it may be a copy that has got so far."""
    if address.version is not None:
        return
    data = f"{address.location}/data"
    files = with_backoff("looking for data files", address.location, lambda: entries(data, address.storage))
    if files:
        raise TableError(
            f"{address.location} has {len(files):,} data file(s) and no version that names them. If it is being copied "
            "or restored, let that end first. If it was dropped while a run wrote to it, remove what is left of it"
        )


class LanceTable:
    """One open table. Not thread-safe; one committer, one handle. fence: this run's, once it has taken it."""

    def __init__(self, handle: Handle):
        self.handle = handle
        self.address = handle.address
        self._fence: Fence | None = None

    @classmethod
    def open(cls, address: TableAddress, lances_cache: bool = False) -> LanceTable | None:
        """The table, or None where there is none; lances_cache: see `TableAddress.open`. Raises TableError for a table
        vectormill did not make, StorageError where the store cannot be read."""
        dataset = with_backoff(
            "opening the table", address.location, lambda: address.find(lances_cache), first_contact=True
        )
        if dataset is None:
            _refuse_half_a_copy(address)
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
        return cls(Handle(address, dataset))

    @classmethod
    def open_or_create(cls, address: TableAddress, schema: pa.Schema) -> LanceTable:
        """Open the table or create it empty, fingerprint included, in one race-safe commit: of several creators one
        wins and the others open what it made. (`write_dataset(mode="create")` let later creators overwrite.)"""
        table = cls.open(address)
        backoff = Backoff("creating the table", address.location)
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
                    backoff.failed(bad)
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
    def metadata(self) -> TableMetadata:
        """As this version says."""
        found = TableMetadata.from_schema(self._dataset.schema)
        assert found is not None, "looked at when it was opened"
        return found

    @property
    def _dataset(self) -> lance.LanceDataset:
        return self.handle.dataset

    @property
    def fence(self) -> Fence:
        assert self._fence is not None, "take_fence first"
        return self._fence

    def take_fence(self, run: str, properties: Mapping[str, str], columns: Iterable[str] | None = None) -> Fence:
        """Become the committer, see `Fence.take`."""
        self._fence = Fence.take(self.handle, run, properties, columns)
        return self._fence

    # ------------------------------------------------------------------ records

    def count_rows(self, where: str | None = None) -> int:
        """Records in the table: from the manifest, or those that a filter lets through."""
        return self._dataset.count_rows(where)

    def records(
        self,
        columns: Sequence[str],
        where: str | None = None,
        limit: int | None = None,
        batch_rows: int | None = None,
        row_ids: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Records that a filter lets through, in batches of at most `batch_rows`; row_ids: with Lance's `_rowid`."""
        scanner = self._dataset.scanner(
            columns=list(columns), filter=where, limit=limit, batch_size=batch_rows, with_row_id=row_ids
        )
        yield from scanner.to_batches()

    def read(self, columns: Sequence[str], where: str | None = None, limit: int | None = None) -> pa.Table:
        """The same, whole."""
        return self._dataset.scanner(columns=list(columns), filter=where, limit=limit).to_table()

    def rows_of(self, size: int, columns: Sequence[str], most: int) -> int:
        """How many records come to about `size` bytes in these columns, at least 1: by some from all over the table."""
        rows = self.count_rows()
        seen = self.take(sorted({rows * part // 16 for part in range(16)}), columns) if rows else None
        return most if seen is None else min(most, max(1, size * len(seen) // max(1, seen.nbytes)))

    def take(self, places: Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Records by their places in the table, from 0."""
        return self._dataset.take(list(places), columns=list(columns))

    def sql(self, query: str) -> pa.Table:
        """The answer to a SQL query over `dataset`, asked again while the store is unavailable."""

        def read() -> pa.Table:
            with reading(self.address):
                return self._dataset.sql(query).build().to_stream_reader().read_all()

        return with_backoff("reading the table", self.address.location, read)

    def sql_batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """The same as a stream; what has been taken cannot be asked for again. Raises TableError, StorageError."""
        with reading(self.address):
            yield from self._dataset.sql(query).build().to_stream_reader()

    def check_filter(self, where: str) -> None:
        """Raises ConfigError for a filter that does not parse, or names a column that is not there."""
        try:
            self._dataset.scanner(columns=["id"], filter=where, limit=1).explain_plan()
        except (ValueError, pa.ArrowException) as bad:
            raise ConfigError(
                f"--where {where!r} is no filter over this table: {_without_rust(bad)}\nthe columns are "
                f"{', '.join(self.schema.names)}"
            ) from bad

    # ------------------------------------------------------------------ fragments and versions

    def fragments(self) -> list[Fragment]:
        """From the manifest."""
        return [
            Fragment(f.fragment_id, f.metadata.num_rows, sum(file.file_size_bytes or 0 for file in f.metadata.files))
            for f in self._dataset.get_fragments()
        ]

    def fragment_records(
        self, fragment: int, columns: Sequence[str] | None = None, start: int = 0, stop: int | None = None
    ) -> pa.Table:
        """Records `start` to `stop` of one fragment, in their order there."""
        limit = None if stop is None else stop - start
        scanner = self._dataset.get_fragment(fragment).scanner(columns=columns, offset=start or None, limit=limit)
        return scanner.to_table()

    def validate(self) -> None:
        """Raises OSError or ValueError for files that are not what the manifest says."""
        self._dataset.validate()

    def versions_kept(self) -> int:
        """How many versions can still be read."""
        return len(versions(self.address))

    def transaction(self) -> str | None:
        """The id of the transaction that made this version; None if it was cleaned up. Raises StorageError."""
        commit = self._commit(self.version)
        return commit.uuid if commit is not None else None

    def _commit(self, version: int) -> Commit | None:
        def look() -> Commit | None:
            return commit_if_there(self.address, self._dataset, version)

        return with_backoff(f"looking at version {version}", self.address.location, look)

    def last_commit(self, look_back: int = 100) -> dict[str, str]:
        """Properties of the newest transaction by a run, or {} if it is further back than `look_back` versions, or
        cleaned up: properties are a log, not the truth. Raises StorageError."""
        for number in range(self.version, max(1, self.version - look_back), -1):
            commit = self._commit(number)
            if commit is None:
                return {}
            if RUN_PROPERTY in commit.properties:
                return commit.properties
        return {}

    # ------------------------------------------------------------------ indexes, and metadata of others

    def index_names(self) -> list[str]:
        return [index.name for index in self._dataset.describe_indices()]

    def vector_index(self) -> IndexState | None:
        """None if there is none."""
        return state_of(self._dataset)

    def set_schema_metadata(self, key: str, value: str | None) -> None:
        """Note something of another program in the schema's metadata, or (None) remove it. Raises StorageError."""
        with reading(self.address):
            self._dataset.update_schema_metadata({key: value})


def open_table(address: TableAddress, task: str | None = None, lances_cache: bool = False) -> LanceTable:
    """The table; TableError if there is none, or if it holds the results of another task than the one given."""
    table = LanceTable.open(address, lances_cache)
    if table is None:
        raise TableError(
            f"there is no table at {address.location} yet; `vectormill embed` creates it. If it should be there, "
            "check table.uri and table.name."
        )
    if task is not None and table.metadata.task != task:
        raise TableError(
            f"{address.location} holds the results of task: {table.metadata.task}; this needs a table of task: {task}"
        )
    return table


def _without_rust(error: BaseException) -> str:
    """The error's first line, without the place in Lance's source where it arose."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r", \S+\.rs:\d+.*", "", lines[0])
