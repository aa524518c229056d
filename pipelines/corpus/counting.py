"""How many rows each shard has: counted in parallel before anything starts, and remembered beside the table."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from pipelines.config import StorageConfig
from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE, BrokenFile, Unfit, refuse
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.formats.registry import FORMATS
from pipelines.corpus.reading import columns_of
from pipelines.errors import CorpusError, StorageError
from pipelines.storage.files import read_bytes, write_bytes
from pipelines.storage.places import is_s3
from pipelines.units import Listing, Shard

CACHE_NAME = "shards.arrow"
CACHE_VERSION = "3"
UNTRUSTED_NS = 2_000_000_000  # a file may change twice in one tick of its clock; git's index has the same rule
FILES_PER_SCAN = 64
BYTES_PER_SCAN = 256 << 20
FOOTER_BYTES = 64 << 10  # what a scan of Parquet reads, whatever the file's size
REQUESTS_AT_ONCE = 16

Scanned = list[Shard | BrokenFile]
ScanBatch = Callable[[tuple[Listing, ...]], Scanned]
MapFunction = Callable[[ScanBatch, Sequence[tuple[Listing, ...]]], Iterator[Scanned]]


def scan_all(
    corpus: Corpus,
    cache_uri: str,
    storage: StorageConfig,
    map_function: MapFunction,
    fresh: bool = False,
    unfit: Unfit = refuse,
) -> list[Shard]:
    """Every shard of the corpus, sorted by path. Files whose size and stamp are as remembered (in the folder
    `cache_uri`) are not opened; `fresh` forgets what is remembered. `map_function` is an executor's `map`. `unfit` is
    shown each file that cannot be counted; it is no shard, and not remembered.

    Raises CorpusError for a corpus that cannot be listed, StorageError for a store that fails as a whole."""
    listings = corpus.list(unfit)
    cache = ShardCache(f"{cache_uri.rstrip('/')}/{CACHE_NAME}", storage, columns_of(corpus.config))
    known = {} if fresh else cache.load()
    started_ns = time.time_ns()
    shards: list[Shard] = []
    unknown: list[Listing] = []
    for listing in listings:
        reader = FORMATS[corpus.kind(listing.path)].reader(corpus.config)
        shard = known.pop((listing.path, listing.size, listing.stamp, reader), None)
        if shard is None:
            unknown.append(listing)
        else:
            shards.append(shard)
    broken: list[BrokenFile] = []
    if unknown:
        for batch in map_function(partial(_scan_batch, corpus), list(_batches(corpus, unknown))):
            shards.extend(one for one in batch if isinstance(one, Shard))
            broken.extend(one for one in batch if isinstance(one, BrokenFile))
    assert len(shards) + len(broken) == len(listings), (len(shards), len(broken), len(listings))
    for file in sorted(broken, key=lambda file: file.file):
        unfit(file)
    shards.sort(key=lambda shard: shard.path)
    if unknown or known:
        cache.save(shards, started_ns)
    return shards


def _batches(corpus: Corpus, listings: Sequence[Listing]) -> Iterator[tuple[Listing, ...]]:
    held: list[Listing] = []
    cost = 0
    for listing in listings:
        own = listing.size if FORMATS[corpus.kind(listing.path)].SCAN_READS_ALL else FOOTER_BYTES
        if held and (len(held) == FILES_PER_SCAN or cost + own > BYTES_PER_SCAN):
            yield tuple(held)
            held, cost = [], 0
        held.append(listing)
        cost += own
    if held:
        yield tuple(held)


def _scan_batch(corpus: Corpus, batch: tuple[Listing, ...]) -> Scanned:
    if not is_s3(corpus.config.uri):
        return [_scan(corpus, listing) for listing in batch]
    with ThreadPoolExecutor(REQUESTS_AT_ONCE) as pool:  # a footer is two round trips and hardly any work
        return list(pool.map(partial(_scan, corpus), batch))


def _scan(corpus: Corpus, listing: Listing) -> Shard | BrokenFile:
    try:
        return corpus.scan(listing)
    except OF_ONE_FILE as bad:
        if isinstance(bad, OF_THE_STORE):
            raise
        return BrokenFile(corpus.name(listing), str(bad))


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
    """Since the file last changed, as far as its stamp tells."""
    times = [int(time) for time in re.findall(r"[mc]time:(\d+)", shard.stamp)]
    return started_ns - max(times, default=0)
