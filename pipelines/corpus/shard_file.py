"""One input file: what its name says, how it is opened, and how errors name it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipelines.config import StorageConfig
from pipelines.errors import CorpusError, VectormillError
from pipelines.storage.clients import filesystem_for
from pipelines.storage.faults import cause_of, translate
from pipelines.storage.places import is_s3
from pipelines.units import Unit

BATCH_BYTES = 16 << 20  # of typed rows, decoded at once
BLOCK_BYTES = 1 << 20  # also the distance between two marks
S3_READAHEAD_BYTES = 8 << 20  # a request for each block would wait for the network 8 times as often
RECORD_BYTES_MAX = 32 << 20  # of a row; a longer one is recorded as too_long. Each copy on the way takes as much

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
OTHER_COMPRESSIONS = {".bz2", ".xz", ".lz4", ".zip", ".br", ".snappy", ".7z", ".tgz", ".tar", ".z", ".lzo", ".rar"}
BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)  # what a damaged file raises; the last over a column's name


def extension(path: str) -> str:
    """The last suffix of a file name in lower case, with the dot; empty when it has none."""
    name = path.rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def compression_of(path: str) -> str | None:
    """`gzip`, `zstd` or None. CorpusError for a compression that cannot be read."""
    suffix = extension(path)
    if suffix in OTHER_COMPRESSIONS:
        raise CorpusError(f"{path}: {suffix} is not supported; unpack it, or compress with gzip (.gz) or zstd (.zst)")
    return COMPRESSIONS.get(suffix)


@dataclass(frozen=True)
class ShardFile:
    """A file of the corpus. path: below the corpus root. uri: where it lies. size: bytes."""

    path: str
    uri: str
    size: int
    stamp: str
    storage: StorageConfig

    @property
    def name(self) -> str:
        """What messages call it: where it lies; of a Lance dataset, and which fragment."""
        return self.uri if self.uri.endswith(self.path) else f"{self.uri}, fragment {self.path}"

    @property
    def remote(self) -> bool:
        return is_s3(self.uri)

    @property
    def compression(self) -> str | None:
        return compression_of(self.path)

    def open(self) -> pa.NativeFile:
        """For random access; never mapped, as a file cut short under the run would kill the process.

        Raises CorpusError, StorageError."""
        try:
            filesystem, path = filesystem_for(self.uri, self.storage)
            return filesystem.open_input_file(path)
        except OSError as bad:
            raise translate(bad, self.uri) from bad

    def blocks(self, offset: int = 0) -> Iterator[bytes]:
        """The content from `offset` on, unpacked, in blocks of BLOCK_BYTES. Raises CorpusError, StorageError."""
        try:
            filesystem, path = filesystem_for(self.uri, self.storage)
            with filesystem.open_input_file(path) as raw:
                raw.seek(offset)
                stream: pa.NativeFile = pa.BufferedInputStream(raw, S3_READAHEAD_BYTES) if self.remote else raw
                if self.compression and self.size:
                    stream = pa.CompressedInputStream(stream, self.compression)
                while block := stream.read(BLOCK_BYTES):
                    yield block
        except OSError as bad:
            raise self.broken(bad) from bad

    def digest(self) -> str:
        """`blake2b:...` of the unpacked content. Raises CorpusError, StorageError."""
        digest = hashlib.blake2b(digest_size=16)
        for block in self.blocks():
            digest.update(block)
        return f"blake2b:{digest.hexdigest()}"

    def broken(self, error: BaseException) -> VectormillError:
        """The error to raise for a file whose content cannot be understood, or that the store does not give."""
        text = " ".join(str(error).split())[:160]
        if isinstance(error, OSError) and ("AWS Error" in text or error.errno is not None):
            return translate(error, self.uri)
        if self.remote and "LanceError(IO)" in text and (failure := cause_of(error, self.uri)):
            return failure
        return CorpusError(
            f"{self.name} is damaged or not of its format ({text}); replace it, or take it out of the corpus"
        )

    def error(self, what: str) -> CorpusError:
        return CorpusError(f"{self.name}: {what}")


def overlap(units: Sequence[Unit], start: int, stop: int) -> tuple[int, int] | None:
    """The smallest range in [start, stop) that holds all rows which `units` ask for there; None for no rows."""
    inside = [u for u in units if max(u.start, start) < min(u.stop, stop)]
    return (max(start, inside[0].start), min(stop, inside[-1].stop)) if inside else None


def runs(units: Sequence[Unit]) -> Iterator[list[Unit]]:
    """Groups of units that are best read in one go: the next one is to be found from a mark that lies further on."""
    held: list[Unit] = []
    for unit in units:
        if held and unit.seek[0] > held[-1].stop:
            yield held
            held = []
        held.append(unit)
    if held:
        yield held


def breaks_of(lengths: Iterable[int]) -> tuple[int, tuple[int, ...]]:
    """Sum of the lengths, and where one ends and the next begins: ascending, without 0 and the sum."""
    at, edges = 0, []
    for length in lengths:
        at += length
        if length:
            edges.append(at)
    return at, tuple(edges[:-1])
