"""Nasties of files as such: compression that is broken or a bomb, and what a folder can hold."""

from __future__ import annotations

import gzip
import json
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import zstandard

from tests.support.nasties.files import GOOD, holding
from tests.support.nasties.nasty import Nasty


def gzipped(content: bytes) -> bytes:
    """The same bytes at any time: an hour of the clock has a line break in its header."""
    return gzip.compress(content, mtime=0)


def named(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for number, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(json.dumps({"id": f"{number}", "text": f"text {number}"}).encode())

    return make


def _fifo_and_socket(folder: Path) -> None:
    holding(a__jsonl=GOOD)(folder)
    os.mkfifo(folder / "b.jsonl")
    here = os.getcwd()
    os.chdir(folder)  # the path of a socket may have 107 bytes
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("c.jsonl")
    os.chdir(here)


def _linked_folders(folder: Path) -> None:
    """Twelve folders, each with links to all the others: 12! ways through them."""
    for i in range(12):
        (folder / f"d{i}").mkdir()
        (folder / f"d{i}" / "a.jsonl").write_bytes(GOOD)
    for i in range(12):
        for j in range(12):
            if i != j:
                (folder / f"d{i}" / f"to{j}").symlink_to(folder / f"d{j}")


PACKED = [
    Nasty(
        "gzip cut short",
        holding(a__jsonl__gz=gzipped(GOOD * 999)[:-20], b__jsonl__gz=gzipped(GOOD)),
        "failed: .*a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip with a flipped byte",
        holding(a__jsonl__gz=bytes(b ^ (i == 30) for i, b in enumerate(gzipped(GOOD * 999)))),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip with a wrong checksum",
        holding(a__jsonl__gz=gzipped(GOOD)[:-8] + bytes(8)),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip of several members",
        holding(a__jsonl__gz=gzipped(GOOD) + gzipped(GOOD) + gzipped(b"") + gzipped(GOOD)),
        "3 embedded",
    ),
    Nasty(
        "gzip followed by garbage",
        holding(a__jsonl__gz=gzipped(GOOD) + b"garbage after it"),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip followed by zeros",
        holding(a__jsonl__gz=gzipped(GOOD) + bytes(512)),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty("zstd of several frames", holding(a__jsonl__zst=zstandard.compress(GOOD) * 3), "3 embedded"),
    Nasty(
        "zstd cut short",
        holding(a__jsonl__zst=zstandard.compress(os.urandom(5000))[:-500]),
        "refused: a.jsonl.zst is damaged",
    ),
    Nasty(
        "zstd with a window of 128 MiB",
        holding(
            a__jsonl__zst=zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
            ).compress(GOOD * 99)
        ),
        "99 embedded",
    ),
    Nasty("gzip named plain", holding(a__jsonl=gzipped(GOOD)), "1 undecodable"),
    Nasty("plain named gzip", holding(a__jsonl__gz=GOOD), "refused: a.jsonl.gz is damaged"),
    Nasty(
        "gzip bomb of one line",
        holding(a__jsonl__gz=gzipped(bytes(100 << 20)), b__jsonl__gz=gzipped(GOOD)),
        "1 embedded, 1 too_long",
    ),
    Nasty(
        "gzip bomb of blank lines",
        holding(a__jsonl__gz=gzipped(b"\n" * (5 << 20)) + gzipped(GOOD)),
        "1 embedded",
    ),
]
FOLDERS = [
    Nasty(
        "awkward names",
        named(
            "a b.jsonl",
            "a#b.jsonl",
            "a%20b.jsonl",
            "a?b.jsonl",
            "a&b=c.jsonl",
            "a\nb.jsonl",
            "a\tb.jsonl",
            "a\\b.jsonl",
            "'\".jsonl",
            "~.jsonl",
            "a:b.jsonl",
            "-rf.jsonl",
            "日本語.jsonl",
            "😀.jsonl",
            "$HOME.jsonl",
            "a;b.jsonl",
            "x" * 249 + ".jsonl",
            "*.jsonl",
            "[a].jsonl",
            "{a}.jsonl",
        ),
        "20 embedded",
    ),
    Nasty(
        "the same name in NFC and NFD",
        named(*(unicodedata.normalize(form, "é.jsonl") for form in ("NFC", "NFD"))),
        "2 embedded",
    ),
    Nasty(
        "a name that is not UTF-8",
        lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jsonl")).write_bytes(GOOD),
        "refused: not valid UTF-8; rename the file",
    ),
    Nasty(
        "a folder name that is not UTF-8",
        lambda folder: (
            os.mkdir(os.fsencode(folder) + b"/\xff"),
            Path(os.fsdecode(os.fsencode(folder) + b"/\xff/a.jsonl")).write_bytes(GOOD),
        ),
        "refused: not valid UTF-8; rename the file",
    ),
    Nasty("a folder named like a file", lambda folder: named("dir.jsonl/a.jsonl", "b.jsonl")(folder), "2 embedded"),
    Nasty(
        "a link to itself",
        lambda folder: (named("a.jsonl")(folder), (folder / "b.jsonl").symlink_to(folder / "b.jsonl")),
        "failed: .*b.jsonl",
    ),
    Nasty(
        "a link to nothing",
        lambda folder: (named("a.jsonl")(folder), (folder / "b.jsonl").symlink_to(folder / "gone")),
        "failed: .*b.jsonl is a link to nothing",
    ),
    Nasty(
        "a link to a FIFO",
        lambda folder: (
            named("a.jsonl")(folder),
            os.mkfifo(folder / "_f"),
            (folder / "b.jsonl").symlink_to(folder / "_f"),
        ),
        "failed: .*b.jsonl is neither a file nor a folder",
    ),
    Nasty(
        "a loop of links",
        lambda folder: (named("d/a.jsonl")(folder), (folder / "d/up").symlink_to(folder)),
        "1 embedded",
    ),
    Nasty("folders that link to one another", _linked_folders, "refused: links"),
    Nasty("a FIFO and a socket", _fifo_and_socket, "failed: .*[bc].jsonl is neither a file nor a folder"),
    Nasty(
        "corpus.uri is a FIFO",
        lambda folder: os.mkfifo(folder / "f.jsonl"),
        "refused: f.jsonl is neither a file nor a folder",
        {"uri": "/f.jsonl"},
    ),
    Nasty(
        "corpus.uri is /dev/zero",
        lambda folder: (folder / "z.jsonl").symlink_to("/dev/zero"),
        "refused: z.jsonl is neither a file nor a folder",
        {"uri": "/z.jsonl"},
    ),
    Nasty("wrong extension", holding(a__parquet=GOOD), "refused: a.parquet is damaged or not of its format"),
    Nasty("300 levels of folders", named("/".join("d" * 300) + "/a.jsonl"), "1 embedded"),
    Nasty(
        "500 tiny files",
        named(*(f"{i % 40}/{i}.jsonl" for i in range(500))),
        "500 embedded",
        {},
        {"rows_per_unit": 8192},
    ),
]
ALL = (*PACKED, *FOLDERS)
