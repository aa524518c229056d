"""Nasties of bytes: lines, encodings, JSON, CSV."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.support.nasties.nasty import Nasty

GOOD = b'{"id": "a", "text": "fine"}\n'
ID = {"id": "id"}


def holding(**contents: bytes) -> Callable[[Path], None]:
    """Writes files; in their names `__` stands for a dot."""
    return lambda folder: [(folder / n.replace("__", ".")).write_bytes(c) for n, c in contents.items()] and None


def jsonl(*lines: bytes) -> Callable[[Path], None]:
    return holding(a__jsonl=b"\n".join(lines))


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
        "2 embedded, 1 undecodable",
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
        "failed: .*b.csv has no column 'text'",
        ID,
    ),
    Nasty(
        "invalid UTF-8 in the header",
        holding(a__csv=b"id,text,\xff\n1,a,b\n"),
        "refused: the header is not a UTF-8 CSV record",
    ),
]

ALL = (*LINES, *JSON, *CSV)
