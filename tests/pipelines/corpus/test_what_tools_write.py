"""Corpora as other tools leave them: markers of folders, ids that pandas made floats, `save_to_disk`, folders that are
columns."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import CorpusError
from tests.support.buckets import Bucket
from tests.support.corpora import corpus, read
from tests.support.jobs import job, rows, run

# ---------------------------------------------------------------------- markers

LINE = b'{"id": "1", "text": "one", "n": 1}\n'


@pytest.mark.parametrize("format_", ["auto", "jsonl"])
def test_empty_objects_that_stand_for_folders_are_passed_over(s3_endpoint, format_):
    bucket = Bucket(s3_endpoint)
    bucket.put("in/sub/a.jsonl", LINE)
    for marker in (
        "in",
        "in_$folder$",
        "in/",
        "in/sub",
        "in/sub/",
        "in/sub_$folder$",
        "in/sub/_SUCCESS",
        "in/.x",
        "in/_y",
    ):
        bucket.put(marker, b"")
    for uri in ("in", "in/", "in/**", "in/*/*.jsonl", "in/sub", "in/sub/a.jsonl"):
        assert [row["id"] for row in read(bucket.corpus(uri, format=format_))] == ["1"]


def test_an_object_with_content_is_no_marker(s3_endpoint):
    bucket = Bucket(s3_endpoint)
    bucket.put("in/sub/a.jsonl", LINE)
    bucket.put("in/sub", LINE.replace(b"1", b"2"))
    assert len(read(bucket.corpus("in", format="jsonl"))) == 2
    with pytest.raises(CorpusError, match="unknown"):
        bucket.corpus("in").list()


# ---------------------------------------------------------------------- ids


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl"])
def test_integers_that_pandas_wrote_as_floats_are_integers(tmp_path, kind):
    values = [1.0, None, 3.0, -2.0, 2.0**53, 0.5, -0.0]
    if kind == "jsonl":
        lines = (json.dumps({"id": value, "text": "x"}) for value in values)
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
    else:
        table = pa.table({"id": pa.array(values, pa.float64()), "text": ["x"] * len(values)})
        if kind == "parquet":
            pq.write_table(table, tmp_path / "a.parquet")
        else:
            with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
                writer.write_table(table)
    found = read(corpus(tmp_path, id="id"))
    assert [row["id"] if row["_reason"] is None else row["_reason"] for row in found] == [
        "1", "no_id", "3", "-2", "no_id", "no_id", "0",
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "most"), [("float16", 2**11), ("float32", 2**24)])
def test_as_far_as_the_type_tells_integers_apart(tmp_path, kind, most):
    ids = pa.array(np.array([most - 1, most], kind))
    pq.write_table(pa.table({"id": ids, "text": ["x", "y"]}), tmp_path / "a.parquet")
    assert [row["_reason"] for row in read(corpus(tmp_path, id="id"))] == [None, "no_id"]


def test_in_csv_an_id_is_what_is_written(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"id,text\n1.0,x\n1.1,y\n")
    assert [row["id"] for row in read(corpus(tmp_path, id="id"))] == ["1.0", "1.1"]


# ---------------------------------------------------------------------- save_to_disk


def stream(path, ids):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"id": ids, "text": [f"text {one}" for one in ids]})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def saved(folder, names=("data-00000-of-00001.arrow",), **state):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        stream(folder / name, [f"{name}-{i}" for i in range(2)])
    (folder / "dataset_info.json").write_text('{"features": {}}')
    listed = [{"filename": name} for name in names]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed, **state}))


@pytest.mark.parametrize("format_", ["auto", "arrow"])
def test_a_saved_dataset_is_read(tmp_path, format_):
    saved(tmp_path / "c")
    assert len(read(corpus(tmp_path / "c", format=format_, id="id"))) == 2
    saved(tmp_path / "d", _data_files=[])
    assert len(read(corpus(tmp_path / "d", format=format_, id="id"))) == 2
    for split in ("train", "test"):
        saved(tmp_path / "e" / split, names=("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"))
    (tmp_path / "e" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert len(read(corpus(tmp_path / "e", format=format_, id="id"))) == 8


def test_files_that_its_state_does_not_name_are_left_out_and_named_ones_must_be_there(tmp_path):
    saved(tmp_path / "c", names=("data-00000-of-00002.arrow", "data-00001-of-00002.arrow"))
    stream(tmp_path / "c" / "cache-1f2e.arrow", ["stale"])
    stream(tmp_path / "c" / "data-00000-of-00009.arrow", ["stale"])
    assert len(read(corpus(tmp_path / "c", id="id"))) == 4
    (tmp_path / "c" / "data-00001-of-00002.arrow").unlink()
    certificate = run(job(tmp_path, corpus={"uri": str(tmp_path / "c"), "id": "id", "columns": []}))
    assert certificate.embedded_rows == 2
    assert [file.file for file in certificate.broken_files] == [str(tmp_path / "c" / "data-00001-of-00002.arrow")]


def test_a_selection_of_rows_is_refused(tmp_path):
    saved(tmp_path / "c", _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(CorpusError, match=r"flatten_indices\(\)"):
        corpus(tmp_path / "c").list()


def test_json_of_such_names_elsewhere_is_what_it_was(tmp_path):
    (tmp_path / "state.json").write_bytes(LINE)
    assert len(read(corpus(tmp_path, format="jsonl", id="id"))) == 1
    with pytest.raises(CorpusError, match=r"\.json \(unknown format\)"):
        corpus(tmp_path).list()
    stream(tmp_path / "a.arrow", ["a"])
    assert len(read(corpus(tmp_path, format="jsonl", id="id"))) == 1
    with pytest.raises(CorpusError, match="is not what datasets' save_to_disk writes"):
        corpus(tmp_path).list()


def test_state_that_says_nothing(tmp_path):
    saved(tmp_path)
    (tmp_path / "state.json").write_bytes(b"[]")
    with pytest.raises(CorpusError, match=r"state\.json beside Arrow files is not what datasets' save_to_disk writes"):
        corpus(tmp_path).list()


def test_in_a_store(s3_endpoint, tmp_path):
    bucket = Bucket(s3_endpoint)
    saved(tmp_path / "c")
    for path in (tmp_path / "c").iterdir():
        bucket.put(f"c/{path.name}", path.read_bytes())
    bucket.put("c/cache-1.arrow", b"")
    assert len(bucket.corpus("c").list()) == 1


# ---------------------------------------------------------------------- folders that are columns


def hive(folder, *names, **columns):
    for name in names:
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"id": [name], "text": ["x"], **columns}), folder / name / "part-0.parquet")


def carried(tmp_path, *columns):
    config = job(tmp_path, corpus={"id": "id", "columns": list(columns)})
    assert run(config).adds_up
    return {row["id"]: tuple(row[name] for name in columns) for row in rows(config)}


def test_a_carried_column_may_be_a_folder_name(tmp_path):
    names = ["year=2023/month=01", "year=2024/month=12", "year=__HIVE_DEFAULT_PARTITION__/month=a%20b"]
    hive(tmp_path / "corpus", *names)
    assert carried(tmp_path, "year", "month") == {
        names[0]: (2023, "01"), names[1]: (2024, "12"), names[2]: (None, "a b"),
    }  # fmt: skip


def test_what_a_file_says_itself_counts(tmp_path):
    hive(tmp_path / "corpus", "n=1/a", n=pa.array([7]))
    hive(tmp_path / "corpus", "n=2/b", n=pa.array([None], pa.int64()))
    hive(tmp_path / "corpus", "n=3/c")
    assert carried(tmp_path, "n") == {"n=1/a": (7,), "n=2/b": (2,), "n=3/c": (3,)}


def test_a_value_that_does_not_fit_makes_its_rows_bad(tmp_path):
    hive(tmp_path / "corpus", "year=2023")
    config = job(tmp_path, corpus={"id": "id", "columns": ["year"]})
    run(config)
    hive(tmp_path / "corpus", "year=unknown")
    assert run(config).reasons == {"bad_column": 1}
    (bad,) = [row for row in rows(config) if row["_reason"]]
    assert "'unknown' in the folder's name does not fit the table's int64 of 'year'" in bad["_detail"]


def test_jsonl_too(tmp_path):
    (tmp_path / "corpus" / "year=2024").mkdir(parents=True)
    (tmp_path / "corpus" / "year=2024" / "a.jsonl").write_bytes(LINE)
    assert carried(tmp_path, "year", "n") == {"1": (2024, 1)}
