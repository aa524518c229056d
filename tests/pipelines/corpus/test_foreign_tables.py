"""Tables of Delta Lake, Hudi and Iceberg are refused by name: roots, what lies in them, what reaches into them."""

from __future__ import annotations

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.corpus.corpus import Corpus
from pipelines.corpus.foreign_tables import FOLDERS_LOOKED_AT
from pipelines.errors import CorpusError
from pipelines.storage import files
from tests.support.buckets import Bucket
from tests.support.commands import refused, write_job
from tests.support.corpora import corpus
from tests.support.jobs import job

KINDS = {
    "Delta Lake": ("_delta_log/00000000000000000000.json", ""),
    "Hudi": (".hoodie/hoodie.properties", ""),
    "Iceberg": ("metadata/00001-1f2e.metadata.json", "data/"),
    "Iceberg (Hadoop)": ("metadata/v1.metadata.json", "data/"),
    "Iceberg (packed)": ("metadata/00001-1f2e.gz.metadata.json", "data/"),
}
SINK = io.BytesIO()
pq.write_table(pa.table({"id": ["a"], "text": ["x"], "n": [1]}), SINK)
PARQUET = SINK.getvalue()


class Disk:
    def __init__(self, folder):
        self.uri = str(folder)
        self._folder = folder

    def put(self, path, content):
        (self._folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self._folder / path).write_bytes(content)

    def corpus(self, path="", **fields):
        return corpus(f"{self.uri}/{path}", **fields)


@pytest.fixture(params=["disk", "store"])
def place(request, tmp_path):
    return Disk(tmp_path) if request.param == "disk" else Bucket(request.getfixturevalue("s3_endpoint"))


def table(place, kind, folder="lake/t"):
    log, data = KINDS[kind]
    place.put(f"{folder}/{log}", b"{}")
    place.put(f"{folder}/{data}year=2024/part-0.parquet", PARQUET)
    place.put(f"{folder}/{data}part-1.parquet", PARQUET)
    return data


def assert_refused(place, source: Corpus, kind):
    name = kind.partition(" (")[0]
    with pytest.raises(CorpusError, match=rf"{re.escape(place.uri)}/lake/t(,| is) .*a table of {name}"):
        source.list()


@pytest.mark.parametrize("format_", ["auto", "parquet", "jsonl", "csv", "text", "arrow", "lance"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_root(place, kind, format_):
    table(place, kind)
    assert_refused(place, place.corpus("lake/t", format=format_), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_in_it_a_file_of_it_a_glob_into_it_and_a_folder_above_it(place, kind):
    data = table(place, kind)
    place.put("lake/other/a.parquet", PARQUET)
    for inside in (
        f"lake/t/{data}year=2024", f"lake/t/{data}year=2024/part-0.parquet", f"lake/t/{data}*.parquet",
        f"lake/t/{data}year=*/*.parquet", f"lake/*/{data}part-*.parquet", "lake/**/part-0.parquet", "lake/t/", "lake",
        "", "l*/t/**",
    ):  # fmt: skip
        assert_refused(place, place.corpus(inside, format="parquet"), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beside_it_is_read(place, kind):
    table(place, kind)
    place.put("lake/a.parquet", PARQUET)
    place.put("lake/other/a.parquet", PARQUET)
    place.put("lake/b.jsonl", b'{"id": "1", "text": "x"}\n')
    for beside in ("lake/*.parquet", "lake/other", "lake/a.parquet", "lake/o*/*.parquet", "lake/*.jsonl"):
        assert len(place.corpus(beside).list()) == 1
    assert len(place.corpus("lake", format="jsonl").list()) <= 3, "files of other formats are not taken"


def test_folders_of_the_same_names_are_no_tables(place):
    place.put("c/metadata/a.parquet", PARQUET)
    place.put("c/data/a.parquet", PARQUET)
    place.put("d/metadata/v1.metadata.json", b"{}")
    place.put("d/a.parquet", PARQUET)
    assert len(place.corpus("c").list()) == 2
    assert len(place.corpus("d/*.parquet").list()) == 1


@pytest.mark.parametrize("link", ["folder", "file", "root"])
def test_a_link_into_one(tmp_path, link):
    place = Disk(tmp_path)
    table(place, "Delta Lake")
    (tmp_path / "c").mkdir()
    place.put("c/a.parquet", PARQUET)
    target = tmp_path / "lake/t/year=2024"
    if link == "root":
        (tmp_path / "r").symlink_to(target)
        assert_refused(place, place.corpus("r"), "Delta Lake")
        return
    (tmp_path / "c" / "l.parquet").symlink_to(target / "part-0.parquet" if link == "file" else target)
    assert_refused(place, place.corpus("c"), "Delta Lake")


def test_looking_costs_a_bounded_number_of_requests(s3_endpoint, monkeypatch):
    bucket = Bucket(s3_endpoint)
    deep = "/".join(f"d{i}" for i in range(30))
    bucket.put(f"{deep}/a.parquet", PARQUET)
    asked = []
    real = files.call_s3
    monkeypatch.setattr(files, "call_s3", lambda *a: asked.append(a[1]) or real(*a))
    assert len(bucket.corpus(deep).list()) == 1
    assert asked.count("list_objects_v2") <= 1 + 2 * FOLDERS_LOOKED_AT + 2, "the listing, and two for each folder"


def test_where_one_may_not_look_nothing_is_refused(s3_endpoint, monkeypatch):
    bucket = Bucket(s3_endpoint)
    bucket.put("mine/a.parquet", PARQUET)
    real = files.call_s3

    def call(storage, method, arguments):
        if method == "list_objects_v2" and not arguments["Prefix"].startswith("mine/"):
            raise PermissionError("AccessDenied")
        return real(storage, method, arguments)

    monkeypatch.setattr(files, "call_s3", call)
    assert len(bucket.corpus("mine").list()) == 1


def test_commands_refuse_it(tmp_path):
    place = Disk(tmp_path)
    table(place, "Delta Lake", "corpus")
    file = write_job(tmp_path / "job.yaml", job(tmp_path, corpus={"id": "id"}))
    for command in ("plan", "embed"):
        refused(2, "is a table of Delta Lake, not a list of files", command, file)
