"""The corpus: list its files, decide the carried types, count rows, read units.

    Corpus.list ─→ listings ─scan_all (in parallel, remembered)→ shards ─plan.cut→ units ─Corpus.read→ tables

A table has one record a row of the corpus, bad rows included: those keep their place with a reason and no text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise

import pyarrow as pa

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.beside import data_of, without_markers
from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE, BrokenFile, Unfit, refuse
from pipelines.corpus.columns import lacking, roles
from pipelines.corpus.foreign_tables import ForeignTables
from pipelines.corpus.formats import lance
from pipelines.corpus.formats.registry import FORMATS, format_of
from pipelines.corpus.listing import Place, choose, find, resolve
from pipelines.corpus.partitions import types_of
from pipelines.corpus.reading import Wanted, by_unit, columns_of
from pipelines.corpus.shard_file import ShardFile
from pipelines.errors import (
    CorpusChanged,
    CorpusError,
    StorageError,
    VectormillError,
)
from pipelines.storage.files import head, modified
from pipelines.storage.places import is_s3, local_path
from pipelines.storage.retry import with_backoff
from pipelines.units import Listing, Shard, Unit

TYPED_FROM_SHARDS = 16  # how far a carried column that holds only nulls is followed
SHARDS_AT_ONCE = 16
NOTHING = pa.schema([])


class Corpus:
    """The input as configured. Picklable; holds no connection. Relative local paths are settled when it is made."""

    def __init__(self, corpus: CorpusConfig, storage: StorageConfig):
        uri = corpus.uri if is_s3(corpus.uri) else local_path(corpus.uri) + ("/" if corpus.uri.endswith("/") else "")
        self.config = corpus.model_copy(update={"uri": uri})
        self.storage = storage
        self._place: Place | None = None

    @property
    def is_lance(self) -> bool:
        known = self.config.format == "auto" and self.config.uri.rstrip("/").lower().endswith(".lance")
        return known or self.config.format == "lance"

    def list(self, unfit: Unfit = refuse) -> list[Listing]:
        """The files (or Lance fragments), sorted by path; see `listing.py` for what is taken. Those that cannot even be
        listed, such as a link to nothing, are shown to `unfit`.

        Raises CorpusError for an empty or mixed corpus or a missing path, StorageError."""
        if self.is_lance:
            ForeignTables(self.config.uri, self.storage).check_root()
            found = sorted(lance.listings(self.config.uri, self.storage), key=lambda listing: listing.path)
            if not found:
                raise CorpusError(f"corpus.uri: the Lance dataset {self.config.uri} is empty")
            return found
        place = self._settled()
        broken: list[BrokenFile] = []
        tables = ForeignTables(place.root, self.storage)
        tables.check_root()
        files = without_markers(find(place, self.storage, broken, tables))
        if self.config.format in ("auto", "arrow"):
            files = data_of(files, place.uri, self.storage, broken)
        taken = choose(files, place, self.config, broken, tables)
        for file in sorted(broken, key=lambda file: file.file):
            unfit(file)
        return taken

    def carried(self, first: Sequence[Listing | Shard], known: pa.Schema = NOTHING) -> pa.Schema:
        """The carried columns with the types they shall have in the table: those in `known`, else those of the first
        shard that has them (where it holds only nulls, of the next ones; string in the end), else those that folders'
        names say. A shard may lack them.
        Checks that each column of the job is in some shard. Raises CorpusError, StorageError."""
        types = {name: known.field(name).type for name in self.config.columns if name in known.names}
        folders = types_of((one.path for one in first), set(self.config.columns) - set(types))
        absent = set(columns_of(self.config)) - set(types) - set(folders)
        seen: dict[str, None] = {}
        failure: VectormillError | None = None
        opened = 0
        for opened, schema in enumerate(self.schemas(first), start=1):
            if isinstance(schema, VectormillError):
                failure = failure or schema
                continue
            absent -= set(schema.names)
            seen.update(dict.fromkeys(schema.names))
            types.update({f.name: f.type for f in schema if types.get(f.name, pa.null()) == pa.null()})
            undecided = any(types.get(name) == pa.null() for name in self.config.columns)
            if not absent and (not undecided or opened >= TYPED_FROM_SHARDS):
                break
        if absent and opened:
            raise failure or self._lacking(absent, list(seen), first)
        kinds = ((name, types.get(name, folders.get(name, pa.null()))) for name in self.config.columns)
        return pa.schema([pa.field(name, pa.string() if kind == pa.null() else kind) for name, kind in kinds])

    def schemas(self, first: Sequence[Listing | Shard]) -> Iterator[pa.Schema | VectormillError]:
        """The columns of each shard with their plain types, or why they cannot be had; none of an empty one. In JSON
        only the carried ones have a type.

        The first alone: mostly no other is asked for. Then many at once: looking for a column that none has is a
        request or two for each."""
        with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
            for start, stop in pairwise([0, *range(1, len(first), SHARDS_AT_ONCE), len(first)]):
                yield from (schema for schema in pool.map(self._columns, first[start:stop]) if schema is not None)

    def _columns(self, listing: Listing | Shard) -> pa.Schema | VectormillError | None:
        file, wanted = self._file(listing), Wanted(self.config, NOTHING)
        look = partial(FORMATS[self.kind(listing.path)].columns, file, wanted)
        try:
            return with_backoff(f"opening {file.path}", file.uri, look)
        except OF_ONE_FILE as bad:
            if isinstance(bad, OF_THE_STORE):
                raise
            return bad

    def _lacking(self, absent: set[str], names: Sequence[str], first: Sequence[Listing | Shard]) -> CorpusError:
        role, name = next((role, name) for role, name in roles(self.config) if name in absent)
        if len(first) == 1:
            return CorpusError(lacking(role, name, names, self.name(first[0])))
        return CorpusError(lacking(role, name, names, self.config.uri, f" in any of its {len(first):,} files"))

    def scan(self, listing: Listing) -> Shard:
        """Exact row count and content identity of one file. Raises CorpusError for a broken one, StorageError."""
        kind, file = self.kind(listing.path), self._file(listing)
        return with_backoff(f"counting {file.path}", file.uri, partial(FORMATS[kind].scan, file, self.config))

    def read(self, units: Sequence[Unit], carried: pa.Schema) -> Generator[pa.Table, None, None]:
        """One table of `row_schema(carried)` a unit, in order, in one pass. The units are of one shard and ascending.

        Raises CorpusError when the file is damaged, is not what was counted or lacks a column, TooLarge for a unit that
        is to be cut; StorageError."""
        assert len({unit.path for unit in units}) <= 1, "units of several shards"
        assert all(a.stop <= b.start for a, b in pairwise(units)), "units out of order"
        if not units:
            return
        file = self._file(units[0])
        wanted = _wanted(self.config, carried)
        pieces = FORMATS[self.kind(file.path)].pieces(file, units, wanted)
        try:
            for table in by_unit(pieces, units, wanted):
                self._unchanged(file, units[0].file)  # after reading: every byte was of the version that was counted
                yield table
        except VectormillError as bad:
            if not isinstance(bad, OF_THE_STORE):
                with contextlib.suppress(StorageError):  # why it cannot be read is known already
                    self._unchanged(file, units[0].file)
            raise

    def _unchanged(self, file: ShardFile, content: int) -> None:
        """Raises CorpusError unless the file is what was counted. Its permissions may have been changed, or a link made
        to it: if nothing but that can have happened by its stamp, its content decides (`Shard.content`)."""
        if self.is_lance or (now := head(file.uri, file.storage)) == (file.size, file.stamp):
            return
        if now is not None and now[0] == file.size and modified(now[1]) == modified(file.stamp):
            again = replace(file, stamp=now[1])
            if _content(again, self.config, self.kind(file.path)) == content:
                return
        happened = "was removed" if now is None else "changed"
        raise CorpusChanged(f"{file.name} {happened} while the run was going on; run the command again")

    def _settled(self) -> Place:
        if self._place is None:
            find_place = partial(resolve, self.config.uri, self.storage)
            self._place = with_backoff("looking for the corpus", self.config.uri, find_place, first_contact=True)
        return self._place

    def kind(self, path: str) -> str:
        """The format in which a file of this corpus is read. Raises CorpusError."""
        if self.is_lance:
            return "lance"
        kind = format_of(path) if self.config.format == "auto" else self.config.format
        if kind is None:
            raise CorpusError(f"{path}: the extension says no format; set corpus.format")
        return kind

    def name(self, of: Listing | Shard | Unit) -> str:
        """Where a file lies, in full."""
        return self._file(of).name

    def _file(self, of: Listing | Shard | Unit) -> ShardFile:
        uri = self.config.uri if self.is_lance else self._settled().uri(of.path)
        return ShardFile(of.path, uri, of.size, of.stamp, self.storage)


_wanted = lru_cache(maxsize=64)(Wanted)  # with its schemas, which many small files share


@lru_cache(maxsize=64)
def _content(file: ShardFile, config: CorpusConfig, kind: str) -> int:
    return FORMATS[kind].scan(file, config).content
