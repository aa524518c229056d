"""What a corpus is made of, what identifies a shard, and what happens when files are damaged or change."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import StorageConfig
from pipelines.corpus.corpus import Corpus
from pipelines.corpus.counting import scan_all
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import ConfigError, CorpusError, StorageError
from pipelines.storage.clients import filesystem_for, lance_options
from pipelines.storage.conditional_put import check_conditional_put
from pipelines.storage.files import read_json, write_json
from pipelines.units import Shard, cut
from tests.support.corpora import as_jsonl, corpus, read

ROWS = [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}]
STORAGE = StorageConfig()


def put(path: Path, content: bytes = as_jsonl(ROWS), age: float = 3600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - age,) * 2)
    return path


def paths(source: Corpus) -> list[str]:
    return [listing.path for listing in source.list()]


def shards(source: Corpus, side: Path, fresh: bool = False) -> list[Shard]:
    return scan_all(source, str(side), STORAGE, InlineExecutor().map, fresh=fresh)


def test_folders_files_and_globs(tmp_path: Path) -> None:
    names = ["a b#1%20.jsonl", "sub/ü [x].jsonl", "sub/deep/c.JSONL", "_SUCCESS", ".hidden/x.jsonl", "sub/_tmp/y.jsonl"]
    for name in names:
        put(tmp_path / "root" / name)
    (tmp_path / "root/sub/loop").symlink_to(tmp_path / "root")
    (tmp_path / "outside").mkdir()
    put(tmp_path / "outside/linked.jsonl")
    (tmp_path / "root/z").symlink_to(tmp_path / "outside")
    root = tmp_path / "root"
    everything = ["a b#1%20.jsonl", "sub/deep/c.JSONL", "sub/ü [x].jsonl", "z/linked.jsonl"]
    assert paths(corpus(root)) == everything
    assert paths(corpus(f"{root}/")) == everything
    assert paths(corpus(f"{root}/**")) == everything
    assert paths(corpus(root / "sub/ü [x].jsonl")) == ["ü [x].jsonl"]
    assert paths(corpus(root / "*.jsonl")) == ["a b#1%20.jsonl"]
    assert paths(corpus(root / "**/[!a]*.jsonl")) == ["sub/ü [x].jsonl", "z/linked.jsonl"]
    assert paths(corpus(root / "s?b/*/c.*")) == ["sub/deep/c.JSONL"]
    assert len(read(corpus(root))) == 8


def test_relative_paths_survive_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "data/a.jsonl")
    monkeypatch.chdir(tmp_path)
    source = corpus("data")
    monkeypatch.chdir("/")
    assert len(read(source)) == 2


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="there is nothing at"):
        corpus(tmp_path / "missing").list()
    with pytest.raises(CorpusError, match="there are no data files below"):
        corpus(tmp_path).list()
    with pytest.raises(CorpusError, match=r"no file below .* matches \*\.csv"):
        corpus(tmp_path / "*.csv").list()
    with pytest.raises(ConfigError, match="only local paths and s3:// are supported"):
        corpus("gs://bucket/x")
    (tmp_path / "a.jsonl").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusError, match=r"a\.jsonl is a link to nothing"):
        corpus(tmp_path).list()


def test_mixed_and_unknown_extensions(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "README.md", "c.json"):
        put(tmp_path / name)
    shown = r"2 \.jsonl \(jsonl\), 1 .*\.md \(text\), 1 \.json \(unknown format\)|2 \.jsonl.*1 \.json.*1 \.md"
    with pytest.raises(CorpusError, match=shown):
        corpus(tmp_path).list()
    assert paths(corpus(tmp_path, format="jsonl")) == ["a.jsonl", "b.jsonl", "c.json"]
    assert paths(corpus(tmp_path / "*", format="jsonl")) == ["README.md", "a.jsonl", "b.jsonl", "c.json"]
    put(tmp_path / "only/a.jsonl")
    with pytest.raises(CorpusError, match=r"no csv files below .*, only 1 of other formats"):
        corpus(tmp_path / "only", format="csv").list()
    put(tmp_path / "z/a.jsonl.bz2")
    with pytest.raises(CorpusError, match=r"\.bz2 is not supported"):
        corpus(tmp_path / "z").list()
    put(tmp_path / "y/a.parquet.gz")
    with pytest.raises(CorpusError, match="parquet is compressed inside"):
        corpus(tmp_path / "y").list()
    put(tmp_path / "x/data.lance/data/0.lance")
    with pytest.raises(CorpusError, match="one dataset's folder"):
        corpus(tmp_path / "x").list()
    with pytest.raises(CorpusError, match="no Lance dataset here"):
        corpus(tmp_path / "w.lance").list()


def test_identity_is_content(tmp_path: Path) -> None:
    side = tmp_path / "side"
    put(tmp_path / "one/a.jsonl")
    put(tmp_path / "one/b.jsonl")
    before = {s.path: s.id for s in shards(corpus(tmp_path / "one"), side)}
    shutil.copytree(tmp_path / "one", tmp_path / "two/moved")
    put(tmp_path / "two/moved/0.jsonl")
    after = {s.path: s.id for s in shards(corpus(tmp_path / "two/moved"), side)}
    assert before.items() <= after.items()
    assert len(set(after.values())) == 3
    put(tmp_path / "one/a.jsonl", as_jsonl(ROWS).replace(b"one", b"eno"))
    changed = {s.path: s.id for s in shards(corpus(tmp_path / "one"), side)}
    assert changed["a.jsonl"] != before["a.jsonl"]
    assert changed["b.jsonl"] == before["b.jsonl"]
    tabbed = shards(corpus(put(tmp_path / "c.csv", b"text\nx\n"), csv_delimiter="\t"), side)
    assert tabbed[0].id != shards(corpus(tmp_path / "c.csv"), side)[0].id


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet", "arrow"])
@pytest.mark.parametrize("change", ["longer", "same size", "shorter", "gone"])
def test_a_file_that_changes_under_the_run(tmp_path: Path, kind: str, change: str) -> None:
    path = tmp_path / f"a.{kind}"

    def write(count: int, word: str) -> None:
        rows = [{"id": str(i), "text": f"{word} {i}"} for i in range(count)]
        if kind in ("parquet", "arrow"):
            table = pa.Table.from_pylist(rows)
            if kind == "parquet":
                return pq.write_table(table, path)
            with pa.ipc.new_file(str(path), table.schema) as writer:
                return writer.write_table(table)
        path.write_bytes(gzip.compress(as_jsonl(rows)) if kind.endswith("gz") else as_jsonl(rows))
        return None

    write(50, "one")
    os.utime(path, (1e9, 1e9))
    source = corpus(path, id="id")
    shard = source.scan(source.list()[0])
    units, carried = list(cut(shard, 10)), source.carried([shard])
    reader = source.read(units, carried)
    next(reader)
    if change == "gone":
        path.unlink()
    else:
        write({"longer": 80, "same size": 50, "shorter": 3}[change], "eno")
    for attempt in (reader, source.read(units, carried)):
        happened = "was removed" if change == "gone" else "changed"
        with pytest.raises(CorpusError, match=f"{happened} while the run was going on; run the command again"):
            list(attempt)


@pytest.mark.parametrize("kind", ["jsonl", "txt", "csv", "arrow"])
def test_other_content_of_the_same_size_and_time_is_seen(tmp_path: Path, kind: str) -> None:
    """As rsync -t, tar and reproducible exports leave it: a file is replaced, or written over, by one as long and as
    old."""
    path, side = tmp_path / f"data/a.{kind}", tmp_path / "side"

    def write(word: str) -> None:
        if kind == "arrow":
            table = pa.table({"text": [word] * 100})
            with pa.ipc.new_file(str(path), table.schema) as writer:
                return writer.write_table(table)
        first = b"text\n" if kind == "csv" else b""
        path.write_bytes(first + (as_jsonl([{"text": word}]) if kind == "jsonl" else f"{word}\n".encode()) * 100)
        return None

    path.parent.mkdir()
    write("alpha")
    os.utime(path, (1e9, 1e9))
    source = corpus(path.parent)
    time.sleep(2.1)  # until the count is remembered
    (first,) = shards(source, side)
    (again,) = shards(source, side)
    assert again == first
    for word in ("gamma", "omega"):
        before = path.stat()
        if word == "omega":
            path.rename(tmp_path / "old")
        write(word)
        os.utime(path, (1e9, 1e9))
        assert (path.stat().st_size, path.stat().st_mtime) == (before.st_size, before.st_mtime)
        (changed,) = shards(source, side)
        assert changed.id != first.id
    path.unlink()
    write("alpha")
    (back,) = shards(source, side)
    assert back.id == first.id, "a copy with the same content is the same shard, whatever its times"


@pytest.mark.parametrize("touch", [lambda path: path.chmod(0o640), lambda path: (path.parent / "b").hardlink_to(path)])
def test_permissions_and_links_are_no_change(tmp_path: Path, touch) -> None:
    path = put(tmp_path / "a.jsonl", as_jsonl(ROWS * 10))
    source = corpus(path)
    shard = source.scan(source.list()[0])
    touch(path)
    assert source.list()[0].stamp != shard.stamp
    assert sum(len(table) for table in source.read(list(cut(shard, 3)), pa.schema([]))) == 20
    os.utime(path, ns=(0, 5))
    with pytest.raises(CorpusError, match="changed while the run was going on"):
        list(source.read(list(cut(shard, 3)), pa.schema([])))


def test_counts_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side = tmp_path / "side"
    monkeypatch.setattr("pipelines.corpus.counting.UNTRUSTED_NS", 300_000_000)
    for name in ("a", "b"):
        put(tmp_path / f"data/{name}.jsonl", as_jsonl(ROWS * 1000))
    time.sleep(0.4)
    source = corpus(tmp_path / "data")
    monkeypatch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", 1024)
    first = shards(source, side)
    assert first[0].marks
    scanned: list[str] = []
    scan = Corpus.scan
    monkeypatch.setattr(Corpus, "scan", lambda self, listing: (scanned.append(listing.path), scan(self, listing))[1])
    assert shards(source, side) == first
    assert scanned == []
    assert shards(source, side, fresh=True) == first
    assert scanned == ["a.jsonl", "b.jsonl"]
    scanned.clear()
    put(tmp_path / "data/a.jsonl", as_jsonl(ROWS))
    time.sleep(0.4)
    put(tmp_path / "data/c.jsonl", age=0)
    assert [s.rows for s in shards(source, side)] == [2, 2000, 2]
    assert scanned == ["a.jsonl", "c.jsonl"]
    scanned.clear()
    shards(source, side)
    assert scanned == ["c.jsonl"], "a file as new as its count may change within one tick of the clock"
    for damage in (b"", b"ARROW1 no", (side / "shards.arrow").read_bytes()[:-40]):
        (side / "shards.arrow").write_bytes(damage)
        scanned.clear()
        assert len(shards(source, side)) == 3
        assert len(scanned) == 3


def test_shards_are_checked_again_for_other_columns(tmp_path: Path) -> None:
    """What was counted for one text column is not taken as checked for another."""
    side = tmp_path / "side"
    put(tmp_path / "data/a.csv", b"text,title\nx,y\n")
    put(tmp_path / "data/b.csv", b"text\nx\n")
    assert len(shards(corpus(tmp_path / "data"), side)) == 2
    with pytest.raises(CorpusError, match=r"b\.csv has no column 'title'"):
        shards(corpus(tmp_path / "data", text="title"), side)


def test_empty_files_have_no_rows(tmp_path: Path) -> None:
    empty = pa.table({"text": pa.array([], pa.string())})
    for name in ("a.jsonl", "a.csv", "a.txt", "a.jsonl.gz", "a.arrow"):
        put(tmp_path / name / name, b"")
        assert [s.rows for s in shards(corpus(tmp_path / name), tmp_path / "side")] == [0], name
    (tmp_path / "p").mkdir()
    pq.write_table(empty, tmp_path / "p/a.parquet")
    source = corpus(tmp_path / "p")
    assert source.scan(source.list()[0]).rows == 0
    for content in (b"id,text\r\n", b"\xef\xbb\xbf", b"\r\n"):
        put(tmp_path / "h/a.csv", content)
        assert read(corpus(tmp_path / "h")) == []


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no such file, by any reading of it")


@pytest.mark.parametrize("damage", [_cut_short, _garbage])
@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.csv.zst", "a.arrow"])
def test_damaged_files(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    import zstandard

    path = tmp_path / name
    table = pa.Table.from_pylist(ROWS * 100)
    if name == "a.parquet":
        pq.write_table(table, path)
    elif name == "a.arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        content = os.urandom(999)
        path.write_bytes(gzip.compress(content) if "gz" in name else zstandard.compress(content))
    damage(path)
    with pytest.raises(CorpusError, match=rf"{name} is damaged or not of its format .*; replace it"):
        corpus(tmp_path).scan(corpus(tmp_path).list()[0])
    if name == "a.parquet":
        path.write_bytes(b"")
        with pytest.raises(CorpusError, match="damaged"):
            corpus(tmp_path).scan(corpus(tmp_path).list()[0])


def test_a_record_longer_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its place, whatever the format; the rows around it are read. Blank lines of any length are no rows."""
    for module in ("formats.lines", "reading"):
        monkeypatch.setattr(f"pipelines.corpus.{module}.RECORD_BYTES_MAX", 3 << 20)
    long, blank = b"x" * (5 << 20), b" " * (5 << 20)
    contents = {
        "a.jsonl": b'{"text": "a"}\n{"text": "' + long + b'"}\n' + blank + b'\n{"text": "c"}\n',
        "a.jsonl.gz": gzip.compress(b'{"text": "a"}\n' + long + b'\n{"text": "c"}\n' + blank),
        "a.csv": b'text\na\n"' + long.replace(b"xx", b"x\n") + b'"\nc\n',
        "a.txt": b"a\n" + blank + long + b"\nc\n" + blank,
    }
    for name, content in contents.items():
        got = read(corpus(put(tmp_path / name, content)), 2)
        assert [(r["text"], r["_reason"]) for r in got] == [("a", None), (None, "too_long"), ("c", None)], name
        assert got[1]["_detail"].startswith(f"{name} row 1: the record or its text is longer than")
    named = put(tmp_path / "named.jsonl", b'{"text": "a", "id": "1"}\n{"id": "1", "text": "' + long + b'"}\n')
    assert [(r["id"], r["_reason"]) for r in read(corpus(named, id="id"))] == [
        ("1", None),
        ("named.jsonl#1", "too_long"),
    ]
    (whole,) = read(corpus(put(tmp_path / "b.txt", long), text_rows="file"))
    assert whole["_reason"] == "too_long"
    pq.write_table(pa.table({"text": ["a", long.decode()], "id": ["1", "2"]}), tmp_path / "a.parquet")
    got = read(corpus(tmp_path / "a.parquet", id="id"))
    assert [(r["id"], r["_reason"]) for r in got] == [("1", None), ("2", "too_long")]
    with pytest.raises(CorpusError, match=r"c\.csv: the header is not a UTF-8 CSV record"):
        read(corpus(put(tmp_path / "c.csv", long + b"\n1\n")))


def test_local_side_files_and_folders(tmp_path: Path) -> None:
    uri = f"{tmp_path}/side/x.json"
    assert read_json(uri, STORAGE) is None
    write_json(uri, {"a": "ü"}, STORAGE)
    assert read_json(uri, STORAGE) == {"a": "ü"}
    assert os.listdir(tmp_path / "side") == ["x.json"]
    check_conditional_put(f"{tmp_path}/new/table", STORAGE)
    assert os.listdir(tmp_path / "new/table") == []
    put(tmp_path / "file")
    with pytest.raises(StorageError, match="check the path, its permissions"):
        check_conditional_put(f"{tmp_path}/file/table", STORAGE)
    assert filesystem_for(f"file://{tmp_path}/x", STORAGE)[1] == f"{tmp_path}/x"
    options = lance_options(StorageConfig(endpoint_url="http://h:1", region=None, anonymous=True))
    assert {name: value for name, value in options.items() if "aws" in name or "http" in name} == {
        "aws_endpoint": "http://h:1", "aws_region": "us-east-1", "allow_http": "true", "aws_skip_signature": "true",
    }  # fmt: skip
