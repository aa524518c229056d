"""One broken file of many: it is named in full and costs its own rows; the others are embedded, nothing adds up until
it is mended, and then the next run does its rows and no others."""

from __future__ import annotations

import gzip
import json
import os

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.shard_file import ShardFile
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import CorpusError
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from tests.support.commands import object_of, write_job
from tests.support.jobs import Said, ids, job, rows, run, text_of, write_jsonl
from tests.support.verifying import doubts

FILES, ROWS = 6, 40


def records(file):
    return [{"doc_id": f"d{file}-{i}", "text": text_of(i), "n": i} for i in range(ROWS)]


def content(file, kind):
    found = records(file)
    if kind == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(found), sink, row_group_size=10)
        return sink.getvalue().to_pybytes()
    if kind == "arrow":
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pylist(found)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=10)
        return sink.getvalue().to_pybytes()
    if kind == "csv":
        return b"doc_id,text,n\n" + b"".join(f"{r['doc_id']},{r['text']},{r['n']}\n".encode() for r in found)
    lines = b"".join(json.dumps(r).encode() + b"\n" for r in found)
    return gzip.compress(lines) if kind == "jsonl.gz" else lines


def corpus(tmp_path, kind):
    folder = tmp_path / "corpus"
    folder.mkdir(exist_ok=True)
    for file in range(FILES):
        (folder / f"p{file}.{kind}").write_bytes(content(file, kind))
    return folder


def other_columns(good):
    """The file holds no text."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"doc_id": ["x"], "body": ["y"]}), sink)
    return sink.getvalue().to_pybytes()


def other_type(good):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"doc_id": ["x"], "text": [[1.5]], "n": [1]}), sink)
    return sink.getvalue().to_pybytes()


UNCOUNTED = {
    "Parquet: no footer": ("parquet", lambda good: good[: len(good) // 2]),
    "Parquet: nonsense": ("parquet", lambda good: b"PAR1 not really"),
    "Parquet: empty": ("parquet", lambda good: b""),
    "Parquet: no text column": ("parquet", other_columns),
    "Parquet: text of another type": ("parquet", other_type),
    "Arrow: cut short": ("arrow", lambda good: good[: len(good) // 2]),
    "gzip: cut short": ("jsonl.gz", lambda good: good[: len(good) // 2]),
    "gzip: flipped": ("jsonl.gz", lambda good: good[:60] + bytes([good[60] ^ 255]) + good[61:]),
    "gzip: none": ("jsonl.gz", lambda good: b"plain"),
    "UTF-16": ("csv", lambda good: good.decode().encode("utf-16")),
    "CSV: a stray quote": ("csv", lambda good: good + b'x"y,z,1\n'),
    "CSV: no text column": ("csv", lambda good: good.replace(b"text", b"body", 1)),
}


@pytest.mark.parametrize("which", [0, 3])  # the first one tells the columns' types, the middle one the estimate
@pytest.mark.parametrize("fault", UNCOUNTED)
def test_a_file_that_cannot_be_counted(tmp_path, fault, which):
    kind, spoil = UNCOUNTED[fault]
    folder = corpus(tmp_path, kind)
    path = folder / f"p{which}.{kind}"
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    config = job(tmp_path)
    said = Said()
    certificate = run(config, display=said)
    assert certificate.embedded_rows == certificate.rows == (FILES - 1) * ROWS
    assert not certificate.adds_up
    (broken,) = certificate.broken_files
    assert (broken.file, broken.rows) == (str(path), None)
    assert str(path) in said.text
    assert "every file can be read" in doubts(config)
    assert run(config).broken_files == (broken,), "found again, not remembered as fine"
    path.write_bytes(good)
    certificate = run(config)
    assert certificate.adds_up
    assert certificate.embedded_rows == FILES * ROWS
    assert len(set(ids(config))) == len(rows(config)) == FILES * ROWS


def flip_in_the_middle(path):
    """A byte in a page of the second row group."""
    metadata = pq.ParquetFile(path).metadata
    column = metadata.row_group(1).column(1)
    at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 4
    good = path.read_bytes()
    path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1 :])


def with_checksums(path, file):
    pq.write_table(pa.Table.from_pylist(records(file)), path, row_group_size=10, write_page_checksum=True)


@pytest.mark.parametrize("which", [0, 3])
def test_a_row_group_in_the_middle(tmp_path, which):
    folder = corpus(tmp_path, "parquet")
    path = folder / f"p{which}.parquet"
    with_checksums(path, which)
    flip_in_the_middle(path)
    config = job(tmp_path, run={"rows_per_unit": 10})
    certificate = run(config)
    assert (certificate.rows, certificate.missing_rows) == (FILES * ROWS, 10)
    (broken,) = certificate.broken_files
    assert (broken.file, broken.rows) == (str(path), 10)
    assert str(path) in broken.why
    assert not certificate.adds_up
    with_checksums(path, which)
    assert run(config).adds_up
    assert len(set(ids(config))) == FILES * ROWS


def test_a_file_that_vanishes_between_counting_and_reading_is_one_fault(tmp_path, monkeypatch):
    """However many units it has."""
    monkeypatch.setattr("pipelines.run.unit_attempts.MOST_FAILED", 3)
    folder = corpus(tmp_path, "jsonl")
    config = job(tmp_path, run={"rows_per_unit": 4})
    executor = InlineExecutor()
    prepared = prepare(config, executor)
    (folder / "p2.jsonl").unlink()
    certificate = Run.open(prepared, executor, Said()).work()
    (broken,) = certificate.broken_files
    assert (broken.file, broken.rows) == (str(folder / "p2.jsonl"), ROWS)
    assert "was removed while the run was going on" in broken.why
    assert certificate.embedded_rows == (FILES - 1) * ROWS
    assert run(config).adds_up, "it has left the corpus"


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_a_file_that_may_not_be_read(tmp_path, kind, monkeypatch):
    """Tests may run as root, who may read every file."""
    folder = corpus(tmp_path, kind)
    real_open, real_blocks = ShardFile.open, ShardFile.blocks

    def check(file):
        if file.path == f"p0.{kind}":
            raise file.broken(PermissionError(13, "Permission denied"))

    monkeypatch.setattr(ShardFile, "open", lambda file: check(file) or real_open(file))
    monkeypatch.setattr(ShardFile, "blocks", lambda file, offset=0: check(file) or real_blocks(file, offset))
    certificate = run(job(tmp_path))
    (broken,) = certificate.broken_files
    assert broken.file == str(folder / f"p0.{kind}")
    assert "Permission denied" in broken.why
    assert certificate.embedded_rows == (FILES - 1) * ROWS


def test_what_is_no_file_and_a_folder_that_cannot_be_opened(tmp_path, monkeypatch):
    folder = corpus(tmp_path, "jsonl")
    (folder / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "secret").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    certificate = run(job(tmp_path))
    assert [file.file for file in certificate.broken_files] == [
        str(folder / name) for name in ("gone.jsonl", "pipe.jsonl", "secret")
    ]
    assert certificate.embedded_rows == FILES * ROWS


@pytest.mark.parametrize("spoil", [os.unlink, lambda path: os.truncate(path, 100)], ids=["gone", "cut short"])
def test_a_fragment_of_a_lance_corpus(tmp_path, spoil):
    for file in range(3):
        lance.write_dataset(pa.Table.from_pylist(records(file)), tmp_path / "in.lance", mode="append")
    data = sorted((tmp_path / "in.lance" / "data").iterdir())[0]
    spoil(data)
    certificate = run(job(tmp_path, corpus={"uri": str(tmp_path / "in.lance")}))
    (broken,) = certificate.broken_files
    assert broken.file.startswith(f"{tmp_path / 'in.lance'}, fragment ")
    assert broken.file.endswith(data.name)
    assert (certificate.embedded_rows, certificate.missing_rows) == (2 * ROWS, ROWS)
    assert not certificate.adds_up


def test_rows_of_a_file_that_broke_later_are_not_taken_for_stale(tmp_path):
    folder = corpus(tmp_path, "parquet")
    config = job(tmp_path, run={"stale_rows": "delete"})
    run(config)
    (folder / "p1.parquet").write_bytes(b"PAR1 not really")
    certificate = run(config)
    assert len(certificate.broken_files) == 1
    assert len(rows(config)) == FILES * ROWS


def test_if_all_are_broken_the_run_is_refused(tmp_path):
    folder = corpus(tmp_path, "parquet")
    for path in folder.iterdir():
        path.write_bytes(b"PAR1")
    with pytest.raises(CorpusError, match=r"no rows can be read from .*\n.*p0\.parquet is damaged"):
        run(job(tmp_path))


def test_commands_say_so_and_end_with_1(tmp_path):
    folder = corpus(tmp_path, "parquet")
    path = folder / "p1.parquet"
    path.write_bytes(b"PAR1 not really")
    file = write_job(tmp_path / "job.yaml", job(tmp_path))
    for command in ("plan", "embed", "verify"):
        code, found = object_of(command, file)
        assert code == 1, command
        (broken,) = found.get("certificate", found)["broken_files"]
        assert broken["file"] == str(path)
        assert broken["rows"] is None
        assert "damaged" in broken["why"]
    code, found = object_of("status", file)
    assert [broken["file"] for broken in found["broken_files"]] == [str(path)]


def test_an_optional_column_that_the_first_file_lacks(tmp_path):
    folder = tmp_path / "corpus"
    write_jsonl(folder / "b.jsonl", records(1))
    write_jsonl(folder / "a.jsonl", [{"doc_id": "a", "text": "alpha"}])
    write_jsonl(folder / "a0.jsonl", [{"doc_id": "a0", "text": "alpha", "n": None}])
    config = job(tmp_path)
    assert run(config).adds_up
    assert lance.dataset(config.table.location).schema.field("n").type == pa.int64()
    assert {row["n"] for row in rows(config) if row["id"] in ("a", "a0")} == {None}
    write_jsonl(folder / "0.jsonl", [{"doc_id": "new", "text": "alpha"}])
    assert run(config).adds_up
    (folder / "b.jsonl").unlink()
    write_jsonl(folder / "1.jsonl", [{"doc_id": "newer", "text": "alpha"}])
    assert run(config).adds_up, "the table knows the type"


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_same_with_columns_that_have_types(tmp_path, kind):
    folder = corpus(tmp_path, kind)
    if kind == "csv":
        (folder / "0.csv").write_bytes(b"doc_id,text\nnew,alpha\n")
    else:
        pq.write_table(pa.table({"doc_id": ["new"], "text": ["alpha"]}), folder / "0.parquet")
    config = job(tmp_path)
    assert run(config).adds_up
    assert [row["n"] for row in rows(config) if row["id"] == "new"] == [None]


def test_a_column_that_no_file_has_is_refused(tmp_path):
    corpus(tmp_path, "parquet")
    with pytest.raises(CorpusError, match=r"has no column 'm' in any of its 6 files .*It has: doc_id, text, n"):
        run(job(tmp_path, corpus={"columns": ["n", "m"]}))
