"""The huge nasties at their full size: what must not need memory in proportion. tests/pipelines/corpus/test_nasties.py
has small ones of the same kinds; `python -m tests.support.nasties.nasty --full` runs these."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tests.support.nasties.nasty import Nasty

GB = 1 << 30
GOOD = b'{"id": "a", "text": "fine"}\n'


def long_line(folder: Path) -> None:
    with open(folder / "a.jsonl", "wb") as out:
        out.write(GOOD + b'{"id": "b", "text": "')
        for _ in range(200):
            out.write(b"word " * 200_000)
        out.write(b'"}\n' + GOOD)


def sparse(folder: Path) -> None:
    """10 GiB without a newline between two good rows; takes no room on the disk."""
    with open(folder / "a.jsonl", "wb") as out:
        out.write(GOOD)
        out.truncate(10 * GB)
        out.seek(10 * GB)
        out.write(b"\n" + GOOD)


def ten_gigabytes(folder: Path) -> None:
    """100,000 rows of about 100 kB, most of it in a field that the job does not take."""
    filling = b'", "filling": "' + b"0123456789" * 10_700 + b'"}\n'
    with open(folder / "a.jsonl", "wb", buffering=1 << 22) as out:
        for number in range(100_000):
            out.write(b'{"id": "%d", "text": "text %d' % (number, number) + filling)


def tiny_files(folder: Path) -> None:
    for number in range(50_000):
        place = folder / f"{number % 100:02d}"
        place.mkdir(exist_ok=True)
        (place / f"{number}.jsonl").write_bytes(b'{"id": "%d", "text": "text %d"}' % (number, number))


def gzip_bomb(folder: Path) -> None:
    with gzip.open(folder / "a.jsonl.gz", "wb", compresslevel=1) as out:
        out.write(GOOD)
        for _ in range(10 * 64):
            out.write(bytes(GB // 64))
        out.write(b"\n" + GOOD)


def blank_lines(folder: Path) -> None:
    with open(folder / "a.jsonl.zst", "wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as out:
        for _ in range(16):
            out.write(b"\n" * (GB // 16))
        out.write(GOOD)


def open_quote(folder: Path) -> None:
    with open(folder / "a.csv", "wb") as out:
        out.write(b'id,text\n1,"')
        for _ in range(64):
            out.write(b"a,b\n" * (GB // 256))


def long_value(folder: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "text": ["fine", "word " * 40_000_000]}), folder / "a.parquet")


def small_table(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(json.dumps({"id": "a", "text": "fine"}).encode())


ALL = (
    Nasty("one row, for comparison", small_table, "1 embedded"),
    Nasty("a line of 200 MB", long_line, "2 embedded, 1 too_long"),
    Nasty("a Parquet value of 200 MB", long_value, "1 embedded, 1 too_long"),
    Nasty("a sparse file of 10 GiB", sparse, "2 embedded, 1 too_long"),
    Nasty("10 GB of rows", ten_gigabytes, "100000 embedded", {}, {"rows_per_unit": 65536, "commit_every_seconds": 30}),
    Nasty("50,000 tiny files", tiny_files, "50000 embedded", {}, {"rows_per_unit": 8192, "commit_every_seconds": 30}),
    Nasty("a gzip bomb of 10 GiB", gzip_bomb, "2 embedded, 1 too_long"),
    Nasty("a zstd bomb of 1 GiB of blank lines", blank_lines, "1 embedded"),
    Nasty("a CSV quote that is open for 1 GiB", open_quote, "refused: row 0 opens a quote that is not closed"),
)
