"""Folders of Parquet that are no lists of files: Delta Lake, Hudi and Iceberg tables.

Which of their files hold rows that still count, and which of these rows, only their logs say: read as files, rows that
were deleted or replaced would be embedded. So a corpus in such a table, above it or in a part of it is refused by name.

Below a corpus's root the listing shows a table's log as it goes by. Above it a look into each of the root's folders is
needed: at most five requests to a store for each, usually two, and for the nearest FOLDERS_LOOKED_AT of them only, all
at once; on a disk a few calls for each folder that a file is in. A store that does not let us look above the root says
nothing against it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

from pipelines.config import StorageConfig
from pipelines.errors import CorpusError, StorageError, StoreUnavailable
from pipelines.storage.files import first_keys
from pipelines.storage.places import is_s3

LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}  # folders right in the table's own
ICEBERG = re.compile(r"(?:(?P<root>.*)/)?metadata/[^/]+\.metadata\.json(?:\.gz)?")
# How its metadata is named: `00012-<uuid>.metadata.json`, or `v12.metadata.json`. A listing gives 1,000 names.
ICEBERG_NAMES = ("metadata/0", "metadata/v")
FOLDERS_LOOKED_AT = 16
WAYS_OUT = {
    "Delta Lake": "DeltaTable(path).to_pyarrow_dataset() of the deltalake package, written by pyarrow.dataset",
    "Hudi": "spark.read.format('hudi').load(path).write.parquet(other)",
    "Iceberg": "a scan of pyiceberg (.to_arrow_batch_reader()), written by pyarrow.parquet",
}


class ForeignTables:
    """Those that a corpus below `root` has to do with. Paths are relative to the root."""

    def __init__(self, root: str, storage: StorageConfig):
        self._root = root.rstrip("/")
        self._storage = storage
        self._logs: dict[str, str] = {}  # kinds by folder, as seen in the listing of a store
        self._iceberg: set[str] = set()
        self._on_disk: dict[tuple[str, bool], str | None] = {}

    def check_root(self) -> None:
        """Refuse a root that is a table or lies in one. Raises CorpusError, StoreUnavailable."""
        if not is_s3(self._root):
            self._check_folder(self._root or "/")
            return
        folders = list(islice(_folders(self._root), FOLDERS_LOOKED_AT))
        with ThreadPoolExecutor(FOLDERS_LOOKED_AT) as pool:
            kinds = list(pool.map(partial(_kind_in_store, self._storage), folders))
        for (folder, below), kind in zip(folders, kinds, strict=True):
            if kind:
                raise _refused(folder, kind, self._root if below else None)

    def see(self, path: str) -> None:
        """A path in the listing of a store, whether it is wanted or not."""
        parts = path.split("/")
        for depth, part in enumerate(parts):
            if part in LOGS:
                self._logs["/".join(parts[:depth])] = LOGS[part]
        if match := ICEBERG.fullmatch(path):
            self._iceberg.add(match["root"] or "")

    def check(self, paths: Iterable[str]) -> None:
        """Refuse files that lie in a table. Raises CorpusError."""
        if is_s3(self._root):
            if self._logs or self._iceberg:
                for path in paths:
                    self._check_listed(path)
            return
        looked_at: set[str] = set()
        for path in paths:
            file = f"{self._root}/{path}"
            for folder in {
                os.path.dirname(file),
                os.path.dirname(os.path.realpath(file) if os.path.islink(file) else file),
            }:
                if folder not in looked_at:
                    looked_at.add(folder)
                    self._check_folder(folder)

    def _check_listed(self, path: str) -> None:
        parts = path.split("/")
        for depth in range(len(parts)):
            folder = "/".join(parts[:depth])
            kind = self._logs.get(folder)
            if kind is None and folder in self._iceberg and parts[depth] == "data":
                kind = "Iceberg"
            if kind:
                raise _refused(f"{self._root}/{folder}".rstrip("/"), kind, f"{self._root}/{path}")

    def _check_folder(self, inside: str) -> None:
        """On a disk: the folder, and each one above it; also where links lead."""
        for place in dict.fromkeys((inside, os.path.realpath(inside))):
            for folder, below in _folders(place):
                key = folder, _leads_to_data(below)
                if key not in self._on_disk:
                    self._on_disk[key] = _kind_on_disk(*key)
                if kind := self._on_disk[key]:
                    raise _refused(folder, kind, inside if folder != inside else None)


def _refused(folder: str, kind: str, inside: str | None) -> CorpusError:
    what = f"{inside} lies in {folder}, which is" if inside else f"{folder} is"
    return CorpusError(
        f"corpus.uri: {what} a table of {kind}, not a list of files: only its log says which rows of which files still "
        "count, and deleted ones would be embedded. Write the rows it has now to Parquet files in a folder of their "
        f"own, and point corpus.uri there: {WAYS_OUT[kind]}"
    )


def _folders(root: str) -> Iterator[tuple[str, str]]:
    """(folder, what of the root is below it): the root, then each one above it, as far as a bucket or the disk goes."""
    folder, below = root.rstrip("/"), ""
    least = 2 if is_s3(root) else 0
    while folder.count("/") > least:
        yield folder, below
        folder, _, name = folder.rpartition("/")
        below = f"{name}/{below}"
    yield folder or "/", below


def _leads_to_data(below: str) -> bool:
    """Whether what lies there may be data of an Iceberg table; its own folder is taken for that, too."""
    return not below or below.startswith("data/")


def _kind_on_disk(folder: str, leads_to_data: bool) -> str | None:
    for log, kind in LOGS.items():
        if os.path.isdir(os.path.join(folder, log)):
            return kind
    if not leads_to_data or not os.path.isdir(os.path.join(folder, "data")):
        return None
    try:
        names = os.listdir(os.path.join(folder, "metadata"))
    except OSError:
        return None
    return "Iceberg" if any(ICEBERG.fullmatch(f"metadata/{name}") for name in names) else None


def _kind_in_store(storage: StorageConfig, place: tuple[str, str]) -> str | None:
    folder, below = place
    try:
        for log, kind in LOGS.items():
            if first_keys(folder, f"{log}/", storage):
                return kind
        if _leads_to_data(below):
            keys = [key for prefix in ICEBERG_NAMES for key in first_keys(folder, prefix, storage)]
            if any(map(ICEBERG.fullmatch, keys)) and (below or first_keys(folder, "data/", storage)):
                return "Iceberg"
    except StoreUnavailable:
        raise
    except StorageError:  # mostly one may not list above the corpus
        return None
    return None
