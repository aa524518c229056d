"""A Lance dataset as corpus: a shard a fragment, identified by its data files and deletions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import pyarrow as pa

from pipelines.config import CorpusConfig, StorageConfig
from pipelines.corpus.columns import check, fields_of, from_arrow
from pipelines.corpus.reading import Piece, Wanted
from pipelines.corpus.shard_file import BATCH_BYTES, ShardFile, overlap
from pipelines.errors import CorpusError
from pipelines.storage.clients import lance_options
from pipelines.storage.faults import translate
from pipelines.storage.places import is_s3, local_path
from pipelines.units import Listing, Shard, Unit

if TYPE_CHECKING:
    import lance

EXTENSIONS = (".lance",)
STREAMED = False
SCAN_READS_ALL = False
BATCH_ROWS_FIRST, BATCH_ROWS = 64, 8192


def listings(uri: str, storage: StorageConfig) -> list[Listing]:
    """A listing a fragment of the latest version; path `<fragment id>-<first data file>`. Raises CorpusError."""
    return [_listing(fragment) for fragment in _dataset(uri, storage).get_fragments()]


def _dataset(uri: str, storage: StorageConfig) -> lance.LanceDataset:
    import lance  # takes a second that other corpora need not pay

    try:
        return lance.dataset(uri if is_s3(uri) else local_path(uri), storage_options=lance_options(storage))
    except (ValueError, OSError) as bad:
        if "not found" in str(bad).lower():
            raise CorpusError(f"{uri}: there is no Lance dataset here; check corpus.uri") from bad
        raise translate(bad, uri) from bad


def _listing(fragment: lance.LanceFragment) -> Listing:
    metadata = fragment.metadata
    parts = [part.path for part in metadata.files]
    digest = hashlib.blake2b("\n".join([*parts, str(fragment.deletion_file())]).encode(), digest_size=16)
    size = sum(part.file_size_bytes or 0 for part in metadata.files)
    return Listing(f"{fragment.fragment_id}-{parts[0]}", size, f"fragment:{digest.hexdigest()}")


@lru_cache(maxsize=8)
def _fragments(uri: str, storage: StorageConfig) -> dict[str, tuple[Listing, lance.LanceFragment]]:
    pairs = [(_listing(fragment), fragment) for fragment in _dataset(uri, storage).get_fragments()]
    return {listing.path: (listing, fragment) for listing, fragment in pairs}


def _fragment(file: ShardFile) -> lance.LanceFragment:
    for attempt in (1, 2):
        listing, fragment = _fragments(file.uri, file.storage).get(file.path, (None, None))
        if listing is not None and listing.stamp == file.stamp:
            return fragment
        if attempt == 1:
            _fragments.cache_clear()  # the dataset may have moved on since it was opened here
    raise file.error("this fragment changed while the run was going on; run the command again")


def reader(corpus: CorpusConfig) -> str:
    return "lance"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema:
    return fields_of(_fragment(file).schema, wanted.corpus, file.name)


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """Raises CorpusError, StorageError."""
    try:
        fragment = _fragment(file)
        rows = fragment.count_rows()
        if rows:
            check(fragment.schema, corpus, file.name)
    except (OSError, ValueError) as bad:
        raise file.broken(bad) from bad
    return Shard(file.path, file.size, file.stamp, file.stamp, reader(corpus), rows)


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    try:
        fragment = _fragment(file)
        names = check(fragment.schema, wanted.corpus, file.name)
        for at, batch in _batches(fragment, names, units[0].start, units[-1].stop):
            if overlap(units, at, at + batch.num_rows):
                yield at, from_arrow(pa.table(batch).select(names), wanted, file.path, {})
    except (OSError, ValueError) as bad:
        raise file.broken(bad) from bad


def _batches(
    fragment: lance.LanceFragment, names: list[str], at: int, stop: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(first row, batch), each of about BATCH_BYTES. Begun anew where the last batch shows that they would be much more
    or much less: what rows take on disk says nothing, as Lance stores a value that many share once."""
    rows = BATCH_ROWS_FIRST
    while at < stop:
        for batch in fragment.scanner(columns=names, batch_size=rows, offset=at, limit=stop - at).to_batches():
            yield at, batch
            at += batch.num_rows
            fitting = min(BATCH_ROWS, max(1, BATCH_BYTES * batch.num_rows // max(1, batch.nbytes)))
            if not rows // 4 < fitting < rows * 4:
                rows = fitting
                break
