"""Where a table is, and the data files that workers write for it: invisible until the committer commits them."""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import lance
import pyarrow as pa
from lance.file import LanceFileWriter
from lance.fragment import DataFile, FragmentMetadata

from pipelines.config import StorageConfig
from pipelines.errors import ConfigError, StoreUnavailable, TableChanged, TableError, VectormillError
from pipelines.storage.clients import lance_options
from pipelines.storage.faults import STORE_ERRORS, translate
from pipelines.storage.files import head
from pipelines.storage.places import is_s3, local_path

RUN_PROPERTY = "vectormill.run"  # of a commit: whose it is
COMPUTED_WITH = "vectormill.computed_with"  # of a commit: the facts of its run's replicas, JSON
FILE_PREFIX = "vectormill-"  # of the names of data files that runs write
FILE_FORMAT = "2.2"  # pinned: files of mixed versions cannot be compacted by binary copy
BATCH_BYTES = 8 << 20  # handed to Lance at once: 32 MB batches wrote float32 vectors 2.5 times slower
FROM_A_COPY = (
    "Put it back from a copy, or restore a version before it (docs/operations.md, Backups); all other rows are whole"
)
CACHE_BYTES = 64 << 20  # lance's default session grows by 1 GB in 3,000 commits


@dataclass(frozen=True)
class TableAddress:
    """Where a table is and how to reach it: small and picklable, travels to the workers.

    location: as the user wrote it. version: which one of the table, None for the newest. uri: the location, absolute,
    because workers run in other folders."""

    location: str
    storage: StorageConfig
    version: int | None = None
    uri: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", self.location if is_s3(self.location) else local_path(self.location))

    @classmethod
    def named(cls, name: str, storage: StorageConfig | None = None) -> TableAddress:
        """Of FOLDER/NAME or s3://BUCKET/FOLDER/NAME, with or without `.lance`. Raises ConfigError."""
        place = name.rstrip("/").removesuffix(".lance")
        if not place or (place.startswith("s3:") and place.count("/") < 3):
            raise ConfigError(f"{name!r} names no table; write FOLDER/NAME, s3://BUCKET/FOLDER/NAME or a job file")
        return cls(f"{place}.lance", storage or StorageConfig())

    @property
    def options(self) -> dict[str, str] | None:
        """Lance's storage options; credentials are found by the standard chain."""
        return lance_options(self.storage) if is_s3(self.location) else None

    def open(self, lances_cache: bool = False) -> lance.LanceDataset:
        """lances_cache: with Lance's own, which holds a whole index, and grows; else with one of CACHE_BYTES."""
        session = None
        if not lances_cache:
            session = lance.Session(index_cache_size_bytes=CACHE_BYTES, metadata_cache_size_bytes=CACHE_BYTES)
        return lance.dataset(self.uri, self.version, storage_options=self.options, session=session)

    def find(self, lances_cache: bool = False) -> lance.LanceDataset | None:
        """The same; None where there is no such table or version."""
        try:
            return self.open(lances_cache)
        except STORE_ERRORS as bad:
            if "was not found" in str(bad) or "Dataset at path" in str(bad):
                return None
            raise


@dataclass
class Handle:
    """A table as one reader or committer sees it; a commit of its own moves it on. Not thread-safe."""

    address: TableAddress
    dataset: lance.LanceDataset


@cache
def _dataset_for_writing(address: TableAddress, run: str) -> lance.LanceDataset:
    """One handle a process and run: another one for each write would cost two more requests."""
    return address.open()


def write_rows(address: TableAddress, rows: pa.Table | pa.RecordBatchReader, run: str = "") -> tuple[str, ...]:
    """Write rows as an invisible data file of the table; returns the fragment's metadata as JSON, or nothing for none.

    `rows` must have the table's columns and types; those that it lacks are null. run: whose file it is; the name says
    so, and a later run knows what it may remove. Raises OSError when the store fails; nothing is visible then, and what
    was written is an orphan."""
    if isinstance(rows, pa.Table):
        rows = rows.to_reader(max_chunksize=max(1, BATCH_BYTES * rows.num_rows // max(rows.nbytes, 1)))
    dataset = _dataset_for_writing(address, run)
    name = f"{FILE_PREFIX}{run}-{uuid.uuid4().hex}.lance"
    written = 0
    writer = LanceFileWriter(
        f"{address.uri}/data/{name}", rows.schema, version=FILE_FORMAT, storage_options=address.options
    )
    for batch in rows:
        writer.write_batch(batch)
        written += batch.num_rows
    writer.close()  # not by `with`: after a batch that could not be written Lance panics over it
    if not written:
        return ()
    try:
        file = DataFile.create(dataset, name)
    except ValueError as bad:  # a full disk takes the file's head, and no write of it fails
        raise OSError(f"{name} does not end as it was written: No space left?") from bad
    return (json.dumps(FragmentMetadata(id=0, files=[file], physical_rows=written).to_json()),)


@contextlib.contextmanager
def reading(address: TableAddress) -> Iterator[None]:
    """Gives what Lance raises over a file that is gone, damaged or out of reach as one clear error."""
    try:
        yield
    except (OSError, pa.ArrowException) as bad:
        raise unreadable(bad, address) from bad


def unreadable(error: BaseException, address: TableAddress) -> VectormillError:
    """What it means that Lance could not read. Whether a file is gone for good is asked of the newest version and of
    the store: a table that is whole must not be taken for a damaged one."""
    said = str(error)
    found = re.search(r"/data/([\w-]+\.lance)\b", said) if "not found" in said.lower() else None
    if found:
        return _without_file(found[1], error, address)
    if re.search(r"corrupt|failed to fill whole buffer|out of bounds|buffer has \d+ bytes, expected", said):
        return TableError(
            f"{address.location}: a data file is damaged, or what came of it was cut short. If the same command says "
            f"so again: {FROM_A_COPY}"
        )
    return translate(error, address.location)


def _without_file(name: str, error: BaseException, address: TableAddress) -> VectormillError:
    try:
        newest = TableAddress(address.location, address.storage).open()
        named = any(file.path == name for one in newest.get_fragments() for file in one.metadata.files)
        there = head(f"{address.location}/data/{name}", address.storage) is not None
    except (*STORE_ERRORS, VectormillError):
        return translate(error, address.location)
    if not named:
        return TableChanged(
            f"{address.location}: the version that was read is gone, with its files ({name} among them): somebody "
            "compacted the table and cleaned up meanwhile. The table is whole; run the same command again"
        )
    if there:
        return StoreUnavailable(
            f"{address.location}: the data file {name} is there, and the store said that it is not; run the same "
            "command again",
            "a file that is there was not found",
        )
    said = f"{address.location}: the data file {name} is gone, which its newest version needs. {FROM_A_COPY}"
    return TableError(said)


@dataclass(frozen=True)
class Commit:
    """What made a version: the transaction's id (None where pylance cannot show it), its kind, its properties."""

    uuid: str | None
    kind: str
    properties: dict[str, str]


def commit_of(dataset: lance.LanceDataset, version: int) -> Commit:
    """Raises OSError or ValueError if it is gone."""
    try:
        transaction = dataset.read_transaction(version)
    except TypeError:
        # pylance 14.0.2 cannot show a compaction that rewrote an index (RewrittenIndex lacks arguments). No run makes
        # such a transaction.
        return Commit(None, "Rewrite", {})
    properties = dict(transaction.transaction_properties or {})
    return Commit(transaction.uuid, type(transaction.operation).__name__, properties)
