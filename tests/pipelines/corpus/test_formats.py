"""Every format, read back row for row, whatever the cuts."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path
from typing import get_args

import lance
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipelines.config import Format
from pipelines.corpus.formats import lance as lance_format
from pipelines.corpus.formats.registry import FORMATS
from pipelines.errors import CorpusError
from pipelines.units import cut
from tests.support.corpora import as_csv, as_jsonl, corpus, pack, read

ROWS = [{"id": f"d{i}", "text": f"text {i}", "n": i} for i in range(10)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "ndjson", "csv"])
def test_record_formats(tmp_path: Path, kind: str, suffix: str) -> None:
    content = as_csv(ROWS) if kind == "csv" else as_jsonl(ROWS)
    (tmp_path / f"a.{kind}{suffix}").write_bytes(pack(content, suffix))
    rows = read(corpus(tmp_path, id="id", columns=("n",)))
    assert [(r["id"], r["text"]) for r in rows] == [(r["id"], r["text"]) for r in ROWS]
    assert [r["n"] for r in rows] == [str(i) if kind == "csv" else i for i in range(10)]
    assert {r["_reason"] for r in rows} == {None}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_lines_and_files(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"a.txt{suffix}").write_bytes(pack(b"\xef\xbb\xbfone\r\n\n  \ntwo\nthree", suffix))
    (tmp_path / f"b.md{suffix}").write_bytes(pack(b"", suffix))
    rows = read(corpus(tmp_path, columns=("path",)), 2)
    assert [r["text"] for r in rows] == ["one", "two", "three"]
    assert [r["id"] for r in rows] == [f"a.txt{suffix}#{i}" for i in range(3)]
    assert {r["path"] for r in rows} == {f"a.txt{suffix}"}
    whole = read(corpus(tmp_path, text_rows="file", id="path"))
    assert [(r["id"], r["text"], r["_reason"]) for r in whole] == [
        (f"a.txt{suffix}", "one\r\n\n  \ntwo\nthree", None),
        (f"b.md{suffix}", None, "empty_text"),
    ]


@pytest.mark.parametrize("variant", ["plain", "dictionary", "large", "groups", "nulls first"])
def test_parquet(tmp_path: Path, variant: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    if variant == "dictionary":
        table = table.set_column(1, "text", table["text"].dictionary_encode())
    if variant == "large":
        table = table.set_column(1, "text", table["text"].cast(pa.large_string()))
    if variant == "nulls first":
        pq.write_table(pa.table({"id": ["x"], "text": ["y"], "n": pa.nulls(1)}), tmp_path / "0.parquet")
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4 if variant == "groups" else 10)
    rows = [r for r in read(corpus(tmp_path, id="id", columns=("n",))) if r["id"] != "x"]
    assert [{k: r[k] for k in ("id", "text", "n")} for r in rows] == ROWS
    shard = corpus(tmp_path).scan(corpus(tmp_path).list()[-1])
    assert shard.breaks == ((4, 8) if variant == "groups" else ())
    assert shard.version.startswith("footer:")


@pytest.mark.parametrize("variant", ["file", "stream", "feather", "view", "compressed"])
def test_arrow(tmp_path: Path, variant: str) -> None:
    table = pa.Table.from_pylist(ROWS)
    if variant == "view":
        table = table.set_column(1, "text", table["text"].cast(pa.string_view()))
    path = str(tmp_path / ("a.feather" if variant == "feather" else "a.arrow"))
    if variant == "feather":
        feather.write_feather(table, path)
    else:
        options = pa.ipc.IpcWriteOptions(compression="zstd" if variant == "compressed" else None)
        make = pa.ipc.new_stream if variant == "stream" else pa.ipc.new_file
        with make(path, table.schema, options=options) as writer:
            writer.write_table(table, max_chunksize=4)
    rows = read(corpus(path, id="id", columns=("n",)))
    assert [{k: r[k] for k in ("id", "text", "n")} for r in rows] == ROWS


def test_lance(tmp_path: Path) -> None:
    uri = str(tmp_path / "data.lance")
    lance.write_dataset(pa.Table.from_pylist(ROWS), uri, max_rows_per_file=4)
    lance.dataset(uri).delete("n = 1")
    source = corpus(uri, id="id", columns=("n",))
    listings = source.list()
    assert len(listings) == 3
    assert listings[0].path.startswith("0-")
    rows = read(source, 2)
    assert [{k: r[k] for k in ("id", "text", "n")} for r in rows] == [r for r in ROWS if r["n"] != 1]
    (unit,), carried = list(cut(source.scan(listings[0]), 9)), source.carried(listings)
    lance.dataset(uri).delete("n = 2")
    again = list(source.read([unit], carried))
    assert again[0]["id"].to_pylist() == ["d0", "d2", "d3"], "this process still holds the version that was counted"
    lance_format._fragments.cache_clear()
    with pytest.raises(CorpusError, match="changed while the run was going on"):
        list(corpus(uri, id="id", columns=("n",)).read([unit], carried))


def test_templates(tmp_path: Path) -> None:
    rows = [{"a": "x", "b": 1}, {"a": None, "b": 2.5}, {"a": None, "b": None}, {"a": ["x"], "b": 1}, {"b": True}]
    (tmp_path / "a.jsonl").write_bytes(as_jsonl(rows))
    got = read(corpus(tmp_path, text="{a}: {{{b}}}"))
    assert [(r["text"], r["_reason"]) for r in got] == [
        ("x: {1}", None), (": {2.5}", None), (None, "no_text"), (None, "not_a_string"), (": {True}", None),
    ]  # fmt: skip
    (tmp_path / "a.jsonl").unlink()
    stamp = pa.array([1_600_000_000_123_456_789], pa.timestamp("ns"))
    pq.write_table(pa.table({"a": ["x"], "t": stamp, "d": pa.array([7], pa.date32())}), tmp_path / "a.parquet")
    assert read(corpus(tmp_path, text="{a} {d} {t}"))[0]["text"] == "x 1970-01-08 2020-09-13 12:26:40.123456"


def test_marks_are_used_and_resumed_gaps_are_read(tmp_path: Path) -> None:
    rows = [{"id": i, "text": "x" * 3000 + str(i)} for i in range(1500)]
    contents = {"a.jsonl": as_jsonl(rows), "b.csv": as_csv(rows), "c.jsonl.gz": gzip.compress(as_jsonl(rows))}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        source = corpus(tmp_path / name, id="id")
        shard = source.scan(source.list()[0])
        assert shard.rows == 1500
        assert len(shard.marks) == (0 if name.endswith("gz") else 4), shard.marks
        done = [(0, 100), (300, 800), (810, 1400)]
        units = list(cut(shard, 150, done))
        assert name.endswith("gz") or units[-1].seek[1] > 2**20
        tables = list(source.read(units, source.carried([shard])))
        got = [(r["id"], r["text"]) for t in tables for r in t.select(["id", "text"]).to_pylist()]
        wanted = [*range(100, 300), *range(800, 810), *range(1400, 1500)]
        assert got == [(str(i), "x" * 3000 + str(i)) for i in wanted]


NASTY = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ['"', '""', "\n", "\r\n", "a\rb", ",", "\ufeff", "\x00", "\u2028", "\x85", " ", "'", "ü\u0301", "😀", "\\ud800"]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    records=st.lists(st.tuples(NASTY, NASTY, NASTY), min_size=1, max_size=25),
    kind=st.sampled_from(["jsonl", "csv", "parquet"]),
    suffix=st.sampled_from(["", ".gz", ".zst"]),
    rows_per_unit=st.integers(1, 30),
    block=st.sampled_from([7, 64, 1 << 20]),
)
def test_any_cut_gives_all_rows_in_order(
    records: list[tuple[str, str, str]], kind: str, suffix: str, rows_per_unit: int, block: int
) -> None:
    rows = [{"text": a, "x": b, "y": c} for a, b, c in records]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", block)
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), f"{folder}/a.parquet", row_group_size=3)
        else:
            content = as_csv(rows, "\n" if rows_per_unit % 2 else "\r\n") if kind == "csv" else as_jsonl(rows)
            Path(f"{folder}/a.{kind}{suffix}").write_bytes(pack(content, suffix))
        got = read(corpus(folder, columns=("x", "y")), rows_per_unit)
    assert [r["_row"] for r in got] == list(range(len(rows)))
    assert [(r["x"], r["y"]) for r in got] == [(b, c) for _, b, c in records]
    for one, (text, _, _) in zip(got, records, strict=True):
        assert one["text"] == text if text.strip() else one["_reason"] == "empty_text"


PARTS = st.sampled_from(
    [b"a", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\xff", b"\xef\xbb\xbf", b" ", b'{"text": "x"}', b"\x00"]
)


@settings(max_examples=150, deadline=None)
@example([b"a", b"a", b"\n", b"\r\n", b"a"], "csv", 2, 3)  # a block that holds a blank line and nothing else
@given(st.lists(PARTS, max_size=60), st.sampled_from(["jsonl", "csv", "txt"]), st.integers(1, 9), st.integers(3, 40))
def test_any_bytes_are_counted_as_they_are_read(parts: list[bytes], kind: str, rows_per_unit: int, block: int) -> None:
    """Whatever a file holds: small units and small blocks give the rows that one unit and one block give."""
    content = (b"text,text2\n" if kind == "csv" else b"") + b"".join(parts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        Path(f"{folder}/a.{kind}").write_bytes(content)
        source = corpus(folder, id=None)
        carried = pa.schema([])

        def rows(per_unit: int) -> list[dict] | str:
            try:
                shard = source.scan(source.list()[0])
                tables = list(source.read(list(cut(shard, per_unit)), carried))
            except CorpusError as bad:
                return str(bad)
            found = [row for table in tables for row in table.drop(["_unit", "_first", "_rows"]).to_pylist()]
            assert len(found) == shard.rows
            return found

        whole = rows(1000)
        patch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", block)
        assert rows(rows_per_unit) == whole


def test_a_job_file_may_ask_for_each_format_and_no_other():
    assert set(get_args(Format)) == {"auto", *FORMATS}
    extensions = [extension for module in FORMATS.values() for extension in module.EXTENSIONS]
    assert len(extensions) == len(set(extensions)), "an extension says one format"
