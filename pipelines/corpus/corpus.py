"""The corpus: list its files, decide the carried types, count rows, read units.

    Corpus.list ─→ listings ─scan_all (in parallel, remembered)→ shards ─plan.cut→ units ─Corpus.read→ tables

A table has one record a row of the corpus, bad rows included: those keep their place with a reason and no text.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import pyarrow as pa

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.formats import registry as dispatch
from pipelines.corpus.listing import Place, choose, find, resolve
from pipelines.corpus.reading import Wanted, by_unit, columns_of
from pipelines.corpus.shard_file import STREAMED, ShardFile, format_of, reader_of
from pipelines.errors import CorpusError, CredentialsRefused, StorageError, StoreUnavailable, VectormillError
from pipelines.storage.files import head, read_bytes, write_bytes
from pipelines.storage.places import is_s3, local_path
from pipelines.storage.retry import with_backoff
from pipelines.units import Listing, Shard, Unit

CACHE_NAME = "shards.arrow"
CACHE_VERSION = "2"
TYPED_FROM_SHARDS = 16  # how far a carried column that holds only nulls is followed
UNTRUSTED_NS = 2_000_000_000  # a file may change twice in one tick of its clock; git's index has the same rule
FILES_PER_SCAN = 64
BYTES_PER_SCAN = 256 << 20
FOOTER_BYTES = 64 << 10  # what a scan of Parquet reads, whatever the file's size
REQUESTS_AT_ONCE = 16

ScanBatch = Callable[[tuple[Listing, ...]], list[Shard]]
MapFunction = Callable[[ScanBatch, Sequence[tuple[Listing, ...]]], Iterator[list[Shard]]]


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
        """The files (or Lance fragments), sorted by path; see `formats.listing` for what is taken.

        Raises CorpusError for an empty or mixed corpus or a missing path, StorageError."""
        if self.is_lance:
            from pipelines.corpus.formats import lance

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
            schema = with_backoff(f"opening {file.path}", file.uri, partial(dispatch.columns, kind, file, wanted))
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
        return with_backoff(f"counting {file.path}", file.uri, partial(dispatch.scan, kind, file, self.config))

    def read(self, units: Sequence[Unit], carried: pa.Schema) -> Iterator[pa.Table]:
        """One table of `row_schema(carried)` a unit, in order, in one pass. The units are of one shard and ascending.

        Raises CorpusError when the file is damaged, is not what was counted or lacks a column; StorageError."""
        assert len({unit.path for unit in units}) <= 1, "units of several shards"
        assert all(a.stop <= b.start for a, b in pairwise(units)), "units out of order"
        if not units:
            return
        file = self._file(units[0])
        wanted = Wanted(self.config, carried)
        pieces = dispatch.pieces(self.kind(file.path), file, units, wanted)
        try:
            for table in by_unit(pieces, units, wanted):
                self._unchanged(file)  # after reading: then every byte read was of the version that was counted
                yield table
        except VectormillError as bad:
            if not isinstance(bad, (StoreUnavailable, CredentialsRefused)):
                with contextlib.suppress(StorageError):  # why it cannot be read is known already
                    self._unchanged(file)
            raise

    def _unchanged(self, file: ShardFile) -> None:
        if self.is_lance or (now := head(file.uri, file.storage)) == (file.size, file.stamp):
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


def scan_all(
    corpus: Corpus, cache_uri: str, storage: StorageConfig, map_function: MapFunction, fresh: bool = False
) -> list[Shard]:
    """Every shard of the corpus, sorted by path. Files whose size and stamp are as remembered (in the folder
    `cache_uri`) are not opened; `fresh` forgets what is remembered. `map_function` is an executor's `map`.

    Raises CorpusError, StorageError."""
    listings = corpus.list()
    cache = ShardCache(f"{cache_uri.rstrip('/')}/{CACHE_NAME}", storage, columns_of(corpus.config))
    known = {} if fresh else cache.load()
    started_ns = time.time_ns()
    shards: list[Shard] = []
    unknown: list[Listing] = []
    for listing in listings:
        reader = reader_of(corpus.kind(listing.path), corpus.config)
        shard = known.pop((listing.path, listing.size, listing.stamp, reader), None)
        if shard is None:
            unknown.append(listing)
        else:
            shards.append(shard)
    if unknown:
        for batch in map_function(partial(_scan_batch, corpus), list(_batches(corpus, unknown))):
            shards.extend(batch)
    assert len(shards) == len(listings), (len(shards), len(listings))
    shards.sort(key=lambda shard: shard.path)
    if unknown or known:
        cache.save(shards, started_ns)
    return shards


def _batches(corpus: Corpus, listings: Sequence[Listing]) -> Iterator[tuple[Listing, ...]]:
    held: list[Listing] = []
    cost = 0
    for listing in listings:
        streamed = corpus.kind(listing.path) in (*STREAMED, "arrow")
        own = listing.size if streamed else FOOTER_BYTES
        if held and (len(held) == FILES_PER_SCAN or cost + own > BYTES_PER_SCAN):
            yield tuple(held)
            held, cost = [], 0
        held.append(listing)
        cost += own
    if held:
        yield tuple(held)


def _scan_batch(corpus: Corpus, batch: tuple[Listing, ...]) -> list[Shard]:
    if not is_s3(corpus.config.uri):
        return [corpus.scan(listing) for listing in batch]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:  # a footer is two round trips and hardly any work
        return list(pool.map(corpus.scan, batch))


class ShardCache:
    """Remembers scanned shards in one Arrow file; deleting or damaging it costs a new count, nothing else.

    columns: for which the shards were checked; what was remembered for other columns is forgotten."""

    def __init__(self, uri: str, storage: StorageConfig, columns: Sequence[str] = ()):
        self.uri = uri
        self.storage = storage
        self._stamp = {b"version": CACHE_VERSION.encode(), b"columns": "\n".join(columns).encode()}

    def load(self) -> dict[tuple[str, int, str, str], Shard]:
        """Shards by (path, size, stamp, reader); empty when there is nothing that can be understood."""
        try:
            content = read_bytes(self.uri, self.storage)
            if content is None:
                return {}
            table = pa.ipc.open_file(pa.BufferReader(content)).read_all()
            if table.schema.metadata != self._stamp:
                return {}
            table.validate(full=True)
            columns = [table[name].to_pylist() for name in _CACHE_SCHEMA.names]
        except (StorageError, CorpusError, pa.ArrowException, OSError, KeyError):
            return {}
        shards = (_shard(values) for values in zip(*columns, strict=True))
        return {(shard.path, shard.size, shard.stamp, shard.reader): shard for shard in shards}

    def save(self, shards: Sequence[Shard], started_ns: int) -> None:
        """Remember `shards`, counted after `started_ns`, save those that could still change without a trace."""
        sure = [shard for shard in shards if _age_ns(shard, started_ns) > UNTRUSTED_NS]
        rows = zip(*(_values(shard) for shard in sure), strict=True) if sure else [()] * len(_CACHE_SCHEMA)
        arrays = [pa.array(values, field.type) for values, field in zip(rows, _CACHE_SCHEMA, strict=True)]
        sink = pa.BufferOutputStream()
        table = pa.Table.from_arrays(arrays, schema=_CACHE_SCHEMA.with_metadata(self._stamp))
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        with contextlib.suppress(StorageError):  # a place that cannot be written costs the memory of counts only
            write_bytes(self.uri, sink.getvalue().to_pybytes(), self.storage)


_CACHE_SCHEMA = pa.schema(
    [
        ("path", pa.string()), ("size", pa.int64()), ("stamp", pa.string()), ("version", pa.string()),
        ("reader", pa.string()), ("rows", pa.int64()), ("breaks", pa.list_(pa.int64())),
        ("mark_rows", pa.list_(pa.int64())), ("mark_offsets", pa.list_(pa.int64())), ("seekable", pa.bool_()),
    ]
)  # fmt: skip


def _values(shard: Shard) -> tuple[object, ...]:
    marks = [m[0] for m in shard.marks], [m[1] for m in shard.marks]
    head_ = (shard.path, shard.size, shard.stamp, shard.version, shard.reader, shard.rows)
    return (*head_, shard.breaks, *marks, shard.seekable)


def _shard(values: tuple[Any, ...]) -> Shard:
    path, size, stamp, version, reader, rows, breaks, mark_rows, mark_offsets, seekable = values
    marks = tuple(zip(mark_rows, mark_offsets, strict=True))
    return Shard(path, size, stamp, version, reader, rows, tuple(breaks), marks, seekable)


def _age_ns(shard: Shard, started_ns: int) -> int:
    kind, _, value = shard.stamp.partition(":")
    return started_ns - int(value) if kind == "mtime" else started_ns
