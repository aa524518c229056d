"""The corpus: list its files, decide the carried types, count rows, read units.

    Corpus.list ─→ listings ─scan_all (in parallel, remembered)→ shards ─plan.cut→ units ─Corpus.read→ tables

A table has one record a row of the corpus, bad rows included: those keep their place with a reason and no text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise

import pyarrow as pa

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.formats import lance
from pipelines.corpus.formats.registry import FORMATS, format_of
from pipelines.corpus.listing import Place, choose, find, resolve
from pipelines.corpus.reading import Wanted, by_unit
from pipelines.corpus.shard_file import ShardFile
from pipelines.errors import CorpusError, CredentialsRefused, StorageError, StoreUnavailable, VectormillError
from pipelines.storage.files import head, modified
from pipelines.storage.places import is_s3, local_path
from pipelines.storage.retry import with_backoff
from pipelines.units import Listing, Shard, Unit

TYPED_FROM_SHARDS = 16  # how far a carried column that holds only nulls is followed


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

    def list(self) -> list[Listing]:
        """The files (or Lance fragments), sorted by path; see `listing.py` for what is taken.

        Raises CorpusError for an empty or mixed corpus or a missing path, StorageError."""
        if self.is_lance:
            found = sorted(lance.listings(self.config.uri, self.storage), key=lambda listing: listing.path)
            if not found:
                raise CorpusError(f"corpus.uri: the Lance dataset {self.config.uri} is empty")
            return found
        place = self._settled()
        return choose(find(place, self.storage), place, self.config)

    def carried(self, first: Sequence[Listing | Shard]) -> pa.Schema:
        """The carried columns with the types they shall have in the table, decided from the first shard that has rows
        (and where it holds only nulls, from the next ones; string in the end). Checks that all columns of the job
        exist. Raises CorpusError."""
        wanted = Wanted(self.config, pa.schema([]))
        types: dict[str, pa.DataType] = {}
        opened = 0
        for listing in first:
            file, kind = self._file(listing), self.kind(listing.path)
            schema = with_backoff(f"opening {file.path}", file.uri, partial(FORMATS[kind].columns, file, wanted))
            if schema is None:
                continue
            types.update({f.name: f.type for f in schema if types.get(f.name, pa.null()) == pa.null()})
            opened += 1
            if pa.null() not in types.values() or opened == TYPED_FROM_SHARDS:
                break
        kinds = ((name, types.get(name, pa.null())) for name in self.config.columns)
        return pa.schema([pa.field(name, pa.string() if kind == pa.null() else kind) for name, kind in kinds])

    def scan(self, listing: Listing) -> Shard:
        """Exact row count and content identity of one file. Raises CorpusError for a damaged one, StorageError."""
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
        wanted = Wanted(self.config, carried)
        pieces = FORMATS[self.kind(file.path)].pieces(file, units, wanted)
        try:
            for table in by_unit(pieces, units, wanted):
                self._unchanged(file, units[0].file)  # after reading: every byte was of the version that was counted
                yield table
        except VectormillError as bad:
            if not isinstance(bad, (StoreUnavailable, CredentialsRefused)):
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
        raise CorpusError(f"{file.path} {happened} while the run was going on; run the command again")

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

    def _file(self, of: Listing | Shard | Unit) -> ShardFile:
        uri = self.config.uri if self.is_lance else self._settled().uri(of.path)
        return ShardFile(of.path, uri, of.size, of.stamp, self.storage)


@lru_cache(maxsize=64)
def _content(file: ShardFile, config: CorpusConfig, kind: str) -> int:
    return FORMATS[kind].scan(file, config).content
