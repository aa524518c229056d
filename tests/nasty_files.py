"""Nasties of bytes: lines, JSON, CSV, compression, encodings, and what a folder can hold."""

from __future__ import annotations

import gzip
import json
import os
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path

import zstandard
from nasties import Nasty

GOOD = b'{"id": "a", "text": "fine"}\n'
ID = {"id": "id"}


def holding(**contents: bytes) -> Callable[[Path], None]:
    """Writes files; in their names `__` stands for a dot."""
    return lambda folder: [(folder / n.replace("__", ".")).write_bytes(c) for n, c in contents.items()] and None


def jsonl(*lines: bytes) -> Callable[[Path], None]:
    return holding(a__jsonl=b"\n".join(lines))


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


LINES = [
    Nasty("one byte", jsonl(b"x"), "1 undecodable"),
    Nasty("one NUL", holding(a__txt=b"\x00"), "1 embedded"),
    Nasty("one newline", jsonl(b"\n"), "refused: hold no rows"),
    Nasty("empty files among others", holding(a__jsonl=b"", b__jsonl=GOOD, c__jsonl=b""), "1 embedded"),
    Nasty("only empty files", holding(a__jsonl=b"", b__jsonl=b""), "refused: the 2 file.s. in .* hold no rows"),
    Nasty("invalid UTF-8", jsonl(b'{"text": "\xff\xfe"}', b'{"text": "\xc3"}', GOOD), "1 embedded, 2 undecodable"),
    Nasty(
        "invalid UTF-8 in text lines",
        holding(a__txt=b"one\n\xff\xfe\ntwo\xc3\n\xed\xa0\x80"),
        "1 embedded, 3 undecodable",
    ),
    Nasty("overlong and surrogate UTF-8", jsonl(b'{"text": "\xc0\x80"}', b'{"text": "\xed\xa0\x80"}'), "2 undecodable"),
    Nasty(
        "NUL bytes in JSON",
        jsonl(b'{"text": "a\x00b"}', b"\x00\x00\x00", b'{"text": "a\\u0000b"}'),
        "1 embedded, 2 undecodable",
    ),
    Nasty("UTF-8 BOM", jsonl(b"\xef\xbb\xbf" + GOOD, GOOD), "2 embedded"),
    Nasty("nothing but a BOM", jsonl(b"\xef\xbb\xbf"), "refused: hold no rows"),
    Nasty(
        "UTF-16 LE",
        jsonl("\ufeff".encode("utf-16-le") + '{"text": "x"}\n{"text": "y"}\n'.encode("utf-16-le")),
        "refused: a.jsonl: is UTF-16 or UTF-32",
    ),
    Nasty(
        "UTF-16 BE text", holding(a__txt="\ufeffone\ntwo\n".encode("utf-16-be")), "refused: a.txt: is UTF-16 or UTF-32"
    ),
    Nasty(
        "UTF-32",
        jsonl("\ufeff".encode("utf-32-le") + '{"text": "x"}\n'.encode("utf-32-le")),
        "refused: a.jsonl: is UTF-16 or UTF-32",
    ),
    Nasty("UTF-16 CSV", holding(a__csv="id,text\n1,x\n".encode("utf-16")), "refused: a.csv: is UTF-16 or UTF-32"),
    Nasty("CRLF", holding(a__jsonl=GOOD.replace(b"\n", b"\r\n") * 2, b__jsonl=b"\r\n\r\n"), "2 embedded"),
    Nasty("lone CR between records", jsonl(GOOD.strip() + b"\r" + GOOD), "1 undecodable"),
    Nasty("unicode line breaks", holding(a__txt="one\u2028two\x85three\x0bfour\x1cfive\n".encode()), "1 embedded"),
    Nasty("no newline at the end", jsonl(GOOD.strip()), "1 embedded"),
]
JSON = [
    Nasty(
        "lone surrogates",
        jsonl(
            b'{"text": "\\ud800"}',
            b'{"text": "x", "\\udfff": 1}',
            b'{"text": "\\uDC00 x"}',
            b'{"text": "\\ud83d\\ude00"}',
        ),
        "2 embedded, 2 undecodable",
    ),
    Nasty(
        "lone surrogate in a carried column",
        jsonl(
            b'{"text": "a", "c": "\\ud800"}',
            b'{"text": "b", "c": {"k": ["\\ud800"]}}',
            b'{"text": "a", "c": {"\\ud800": 1}}',
            b'{"text": "d", "c": "x"}',
        ),
        "1 embedded, 3 undecodable",
        {"columns": ("c",)},
    ),
    Nasty("lone surrogate in an id", jsonl(b'{"text": "a", "id": "\\ud800"}'), "1 undecodable", ID),
    Nasty("surrogate in an escaped escape", jsonl(b'{"text": "\\\\ud800"}'), "1 embedded"),
    Nasty(
        "NUL in an id and a carried column",
        jsonl(b'{"id": "\\u0000", "text": "x", "c": "\\u0000"}', b'{"id": "\\u0000\\u0000", "text": "x", "c": "a"}'),
        "2 embedded",
        {"id": "id", "columns": ("c",)},
    ),
    Nasty(
        "numbers too big",
        jsonl(*(b'{"text": "x", "n": %s}' % n for n in (b"1", b"9" * 30, b"1e400", b"-1e400", b"1e-400", b"9" * 5000))),
        "4 embedded, 1 bad_column, 1 undecodable",
        {"columns": ("n",)},
    ),
    Nasty(
        "number too big as id",
        jsonl(
            b'{"text": "x", "id": ' + b"9" * 4000 + b"}",
            b'{"text": "x", "id": ' + b"9" * 5000 + b"}",
            b'{"text": "x", "id": 1e5}',
        ),
        "1 embedded, 1 no_id, 1 undecodable",
        ID,
    ),
    Nasty(
        "NaN and Infinity",
        jsonl(b'{"text": "x", "n": NaN}', b'{"text": "x", "n": -Infinity}'),
        "2 embedded",
        {"columns": ("n",)},
    ),
    Nasty(
        "nested 100,000 deep",
        jsonl(b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", b"[" * 100_000, b'{"a":' * 100_000, GOOD),
        "1 embedded, 3 undecodable",
    ),
    Nasty(
        "nested 900 deep and carried",
        jsonl(b'{"text": "x", "c": ' + b"[" * 900 + b"]" * 900 + b"}"),
        "1 embedded",
        {"columns": ("c",)},
    ),
    Nasty(
        "nested 600 deep in a template",
        jsonl(b'{"text": "x", "c": ' + b"[" * 600 + b"]" * 600 + b"}"),
        "1 not_a_string",
        {"text": "{text}{c}"},
    ),
    Nasty("duplicate keys", jsonl(b'{"text": "one", "text": "two"}'), "1 embedded"),
    Nasty(
        "no objects", jsonl(b"1", b"null", b'"text"', b"[]", b"true", b"{}"), "refused: a.jsonl has no column 'text'"
    ),
    Nasty("a whole array in one line", jsonl(b"[" + GOOD.strip() + b", " + GOOD.strip() + b"]"), "1 undecodable"),
    Nasty(
        "pretty-printed JSON",
        holding(a__jsonl=json.dumps({"id": "a", "text": "x"}, indent=1).encode()),
        "4 undecodable",
    ),
    Nasty(
        "trailing commas, comments, single quotes",
        jsonl(b'{"text": "x",}', b'{"text": "x"} // no', b"{'text': 'x'}", GOOD),
        "1 embedded, 3 undecodable",
    ),
    Nasty(
        "only undecodable in the first file",
        holding(a__jsonl=b"no\nno\n", b__jsonl=b'{"text": "x", "n": 1}\n'),
        "1 embedded, 2 undecodable",
        {"columns": ("n",)},
    ),
    Nasty(
        "keys that differ row by row",
        jsonl(b'{"text": "x", "n": 1}', b'{"n": "one", "text": "y"}', b'{"text": "z"}', b'{"txt": "z"}'),
        "3 embedded, 1 no_text",
        {"columns": ("n",)},
    ),
]
CSV = [
    Nasty("quote not closed", holding(a__csv=b'id,text\n1,"a\n2,b\n'), "refused: row 0 opens a quote"),
    Nasty("quote inside a field", holding(a__csv=b'id,text\n1,a "b" c\n'), "refused: row 0 has a quote inside"),
    Nasty("text after a closing quote", holding(a__csv=b'id,text\n1,"a"b\n2,c\n'), "1 embedded, 1 undecodable"),
    Nasty("too few and too many fields", holding(a__csv=b"id,text\n1\n1,2,3\n1,2\n,,\n"), "1 embedded, 3 undecodable"),
    Nasty("NUL bytes in CSV", holding(a__csv=b"id,text\n1,a\x00b\n\x00,\x00\n"), "2 embedded"),
    Nasty(
        "lone CR in CSV",
        holding(a__csv=b"id,text\r1,a\r2,b\r"),
        "refused: a.csv: the header .* rows must end with a newline",
    ),
    Nasty("header only", holding(a__csv=b"id,text\n"), "refused: hold no rows"),
    Nasty("header twice the same name", holding(a__csv=b"text,text\na,b\n"), "refused: 2 columns named 'text'"),
    Nasty("header of blanks", holding(a__csv=b",,\na,b,c\n"), "refused: has no column 'text'"),
    Nasty("a field of 3 MB", holding(a__csv=b'id,text\n1,"' + b"ab\n" * 1_000_000 + b'"\n2,x\n'), "2 embedded"),
    Nasty(
        "header with other columns later",
        holding(a__csv=b"id,text\n1,a\n", b__csv=b"text,id,z\nb,2,9\n"),
        "2 embedded",
        ID,
    ),
    Nasty(
        "header lacks the text later",
        holding(a__csv=b"id,text\n1,a\n", b__csv=b"id,txt\n2,b\n"),
        "refused: b.csv has no column 'text'",
        ID,
    ),
    Nasty(
        "invalid UTF-8 in the header",
        holding(a__csv=b"id,text,\xff\n1,a,b\n"),
        "refused: the header is not a UTF-8 CSV record",
    ),
]
PACKED = [
    Nasty(
        "gzip cut short",
        holding(a__jsonl__gz=gzip.compress(GOOD * 999)[:-20], b__jsonl__gz=gzip.compress(GOOD)),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip with a flipped byte",
        holding(a__jsonl__gz=bytes(b ^ (i == 30) for i, b in enumerate(gzip.compress(GOOD * 999)))),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip with a wrong checksum",
        holding(a__jsonl__gz=gzip.compress(GOOD)[:-8] + bytes(8)),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip of several members",
        holding(a__jsonl__gz=gzip.compress(GOOD) + gzip.compress(GOOD) + gzip.compress(b"") + gzip.compress(GOOD)),
        "3 embedded",
    ),
    Nasty(
        "gzip followed by garbage",
        holding(a__jsonl__gz=gzip.compress(GOOD) + b"garbage after it"),
        "refused: a.jsonl.gz is damaged",
    ),
    Nasty(
        "gzip followed by zeros",
        holding(a__jsonl__gz=gzip.compress(GOOD) + bytes(512)),
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
    Nasty("gzip named plain", holding(a__jsonl=gzip.compress(GOOD)), "1 undecodable"),
    Nasty("plain named gzip", holding(a__jsonl__gz=GOOD), "refused: a.jsonl.gz is damaged"),
    Nasty(
        "gzip bomb of one line",
        holding(a__jsonl__gz=gzip.compress(bytes(100 << 20)), b__jsonl__gz=gzip.compress(GOOD)),
        "1 embedded, 1 too_long",
    ),
    Nasty(
        "gzip bomb of blank lines",
        holding(a__jsonl__gz=gzip.compress(b"\n" * (5 << 20)) + gzip.compress(GOOD)),
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
        "refused: b.jsonl",
    ),
    Nasty(
        "a link to nothing",
        lambda folder: (named("a.jsonl")(folder), (folder / "b.jsonl").symlink_to(folder / "gone")),
        "refused: b.jsonl is a link to nothing",
    ),
    Nasty(
        "a link to a FIFO",
        lambda folder: (
            named("a.jsonl")(folder),
            os.mkfifo(folder / "_f"),
            (folder / "b.jsonl").symlink_to(folder / "_f"),
        ),
        "refused: b.jsonl is neither a file nor a folder",
    ),
    Nasty(
        "a loop of links",
        lambda folder: (named("d/a.jsonl")(folder), (folder / "d/up").symlink_to(folder)),
        "1 embedded",
    ),
    Nasty("folders that link to one another", _linked_folders, "refused: links"),
    Nasty("a FIFO and a socket", _fifo_and_socket, "refused: [bc].jsonl is neither a file nor a folder"),
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
ALL = (*LINES, *JSON, *CSV, *PACKED, *FOLDERS)
