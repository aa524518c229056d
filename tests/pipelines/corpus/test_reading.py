"""Bad rows keep their place, with a reason and no word of their content."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.columns import first_beyond_python
from pipelines.errors import CorpusError
from pipelines.rows import REASONS
from tests.support.corpora import as_jsonl, corpus, read

Outcome = list[tuple[str, str | None, str | None]]


def outcomes(rows: list[dict]) -> Outcome:
    for row in rows:
        assert (row["_reason"] is None) == (row["text"] is not None) == (row["_detail"] is None)
        assert row["_reason"] is None or row["_reason"] in REASONS
    return [(r["id"], r["text"], r["_reason"]) for r in rows]


def test_jsonl_reasons(tmp_path: Path) -> None:
    lines = [
        b'{"id": "a", "text": "fine"}',
        b'{"id": "b", "text": "secret',
        b'["secret"]',
        b'{"id": "c", "text": "secret \xff"}',
        b'{"id": "d", "text": "secret \\ud800"}',
        b'{"id": "e", "text": "\\ud83d\\ude00"}',
        b'{"id": null, "text": "secret"}',
        b'{"text": "secret"}',
        b'{"id": "a", "text": "secret"}',
        b'{"id": "f", "text": null}',
        b'{"id": "g"}',
        b'{"id": "h", "text": 5}',
        b'{"id": "i", "text": " \\u3000\\n"}',
        b'{"id": 7, "text": "fine"}',
        b'{"id": true, "text": "secret"}',
        b'{"id": "j", "text": "", "n": "secret"}',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\r\n".join(lines))
    rows = read(corpus(tmp_path, id="id"), 100)
    assert outcomes(rows) == [
        ("a", "fine", None),
        ("a.jsonl#1", None, "undecodable"),
        ("a.jsonl#2", None, "undecodable"),
        ("a.jsonl#3", None, "undecodable"),
        ("a.jsonl#4", None, "undecodable"),
        ("e", "😀", None),
        ("a.jsonl#6", None, "no_id"),
        ("a.jsonl#7", None, "no_id"),
        ("a", "secret", None),
        ("f", None, "no_text"),
        ("g", None, "no_text"),
        ("h", None, "not_a_string"),
        ("i", None, "empty_text"),
        ("7", "fine", None),
        ("a.jsonl#14", None, "no_id"),
        ("j", None, "empty_text"),
        ("a.jsonl#16", None, "undecodable"),
    ]
    assert not any("secret" in (row["_detail"] or "") for row in rows)
    assert rows[1]["_detail"] == "a.jsonl row 1: broken JSON at character 27"


def test_jsonl_carried_types(tmp_path: Path) -> None:
    rows = [{"text": "x", "i": 1, "f": 1, "b": True, "s": "x", "m": 1, "o": {"k": ["ü"]}, "z": None}] * 2
    rows += [{**rows[0], "f": 2.5, "m": "one"}]
    (tmp_path / "a.jsonl").write_bytes(b"" + as_jsonl(rows))
    later = [{"text": "x", "i": "no", "f": 2**70}, {"text": "x", "i": 3.0, "b": 1}]
    (tmp_path / "b.jsonl").write_bytes(as_jsonl(later))
    names = ("i", "f", "b", "s", "m", "o", "z")
    source = corpus(tmp_path, columns=names)
    kinds = [pa.int64(), pa.float64(), pa.bool_(), *[pa.string()] * 4]
    assert source.carried(source.list()) == pa.schema(list(zip(names, kinds, strict=True)))
    got = read(source)
    assert (got[0]["m"], got[2]["m"], got[0]["o"], got[0]["z"]) == ("1", "one", '{"k":["ü"]}', None)
    assert [r["_reason"] for r in got] == [None, None, None, "bad_column", "bad_column"]
    assert [got[3]["i"], got[3]["f"], got[4]["i"], got[4]["b"]] == [None, None, 3, None]
    assert "does not fit" in got[3]["_detail"]


def test_csv_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(
        b'\xef\xbb\xbf"id",text,x\n1,one,\n\n2,"a ""q""\n\n,b",y\n3,two\n,three,z\n'
        b'5,"four"secret,z\n6,\xff,z\n7,,\n8,e,z'
    )
    rows = read(corpus(tmp_path, id="id", columns=("x",)), 2)
    assert outcomes(rows) == [
        ("1", "one", None),
        ("2", 'a "q"\n\n,b', None),
        ("a.csv#2", None, "undecodable"),
        ("a.csv#3", None, "no_id"),
        ("a.csv#4", None, "undecodable"),
        ("a.csv#5", None, "undecodable"),
        ("7", None, "empty_text"),
        ("8", "e", None),
    ]
    assert rows[0]["x"] == ""
    assert rows[2]["_detail"] == "a.csv row 2: 2 fields, not 3"


@pytest.mark.parametrize("block", [5, 1 << 20])
@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b'id,text\n1,a\n2,b secret"\n3,"c"\n', "row 1 has a quote"),
        (b'id,"text" x\n', None),
        (b'id, "text"\n1,a\n', "the header has a quote"),
        (b'id,text\n1,a\n2,"secret\n3,c\n', "row 1 opens a quote"),
    ],
)
def test_csv_that_cannot_be_split(
    tmp_path: Path, content: bytes, where: str | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", block)
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(CorpusError, match=f"a.csv: {where}" if where else "not a UTF-8 CSV record") as failed:
        read(corpus(tmp_path / "a.csv"))
    assert "secret" not in str(failed.value)


def test_csv_delimiter_and_blank_fields(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"id\ttext\n1\ta\n\t\n2\tb\n")
    rows = read(corpus(tmp_path, id="id", csv_delimiter="\t"))
    assert outcomes(rows) == [("1", "a", None), ("a.csv#1", None, "no_id"), ("2", "b", None)]


def test_typed_reasons(tmp_path: Path) -> None:
    offsets = pa.py_buffer(np.array([0, 4, 5, 5, 6, 10], np.int32))
    text = pa.Array.from_buffers(pa.string(), 5, [None, offsets, pa.py_buffer(b"fine\xff\nfour")])
    table = pa.table({"id": pa.array([10, 11, 10, None, 12], pa.int32()), "text": text})
    pq.write_table(table, tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": pa.array([1, 2]), "text": pa.array([None, "x"])}), tmp_path / "b.parquet")
    rows = read(corpus(tmp_path, id="id"), 10)
    assert outcomes(rows) == [
        ("10", "fine", None),
        ("a.parquet#1", None, "undecodable"),
        ("10", None, "empty_text"),
        ("a.parquet#3", None, "no_id"),
        ("12", "four", None),
        ("1", None, "no_text"),
        ("2", "x", None),
    ]
    assert rows[1]["_detail"] == "a.parquet row 1: invalid UTF-8 in column 'text'"


def test_later_shards_that_differ(tmp_path: Path) -> None:
    def write(name: str, **columns: object) -> None:
        pq.write_table(pa.table(columns), tmp_path / name)

    write("a.parquet", id=["1"], text=["one"], n=pa.array([1], pa.int64()))
    write("b.parquet", n=pa.array([2], pa.int32()), text=["two"], more=[1], id=["2"])
    write("c.parquet", text=["three"], id=["3"])
    source = corpus(tmp_path, id="id", columns=("n",))
    triples = [(r["id"], r["text"], r["n"]) for r in read(source)]
    assert triples == [("1", "one", 1), ("2", "two", 2), ("3", "three", None)]
    write("d.parquet", id=["4", "5", "6"], text=["four", None, "six"], n=["secret", "secret", "6"])
    got = read(source)[3:]
    assert [(r["id"], r["n"], r["_reason"]) for r in got] == [
        ("4", None, "bad_column"),
        ("5", None, "no_text"),
        ("6", 6, None),
    ]
    assert got[0]["_detail"] == "d.parquet row 0: the value of 'n' does not fit the table's int64"
    write("d.parquet", id=["4"], n=[1])
    with pytest.raises(CorpusError, match=r"d\.parquet has no column 'text'"):
        read(source)
    write("d.parquet", id=["4"], text=[5])
    with pytest.raises(CorpusError, match=r"d\.parquet: the text column 'text' is int64"):
        read(source)


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv"])
def test_missing_column_names_the_nearest(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"uid": ["1"], "txet": ["x"]}), path)
    else:
        path.write_text(json.dumps({"uid": "1", "txet": "x"}) if kind == "jsonl" else "uid,txet\n1,x\n")
    with pytest.raises(CorpusError, match=r"has no column 'text' .*did you mean 'txet'\? It has: uid, txet"):
        read(corpus(path))
    with pytest.raises(CorpusError, match=r"has no column 'id' \(the id column"):
        read(corpus(path, id="id", text="txet"))
    with pytest.raises(CorpusError, match=r"has no column 'title' \(the carried column"):
        read(corpus(path, text="txet", columns=("title",)))


def test_columns_that_cannot_be_ids_or_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [True], "text": [["x"]], "blob": [b"x"], "n": [1]}), tmp_path / "a.parquet")
    for fields, what in [
        ({"id": "id", "text": "{n}"}, "id column 'id' is bool"),
        ({"text": "text"}, "text column 'text' is list"),
        ({"text": "{n}{blob}"}, "text column 'blob' is binary"),
        ({"text": "n"}, "as a template: '{n}'"),
    ]:
        with pytest.raises(CorpusError, match=what):
            read(corpus(tmp_path, **fields))


def test_times_beyond_pythons_years_are_found() -> None:
    kind = pa.timestamp("us")
    column = pa.chunked_array([pa.array([0, None], pa.int64()).view(kind), pa.array([1, 2**60], pa.int64()).view(kind)])
    assert first_beyond_python(column) == 3
    assert first_beyond_python(column.slice(0, 3)) is None
    assert first_beyond_python(pa.chunked_array([pa.array([0, -(2**31)], pa.int32()).view(pa.date32())])) == 1
