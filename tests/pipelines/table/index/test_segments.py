"""Segments of an index: built apart, tried unseen, put in while others write, swept after a kill."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import boto3
import numpy as np
import pytest

from pipelines.config import StorageConfig
from pipelines.errors import TableChanged, TableError
from pipelines.maintenance import optimize as maintain
from pipelines.maintenance.optimize import optimize
from pipelines.maintenance.status import status
from pipelines.table import compaction
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.index import recall, segments
from pipelines.table.index.recall import Measured
from pipelines.table.index.records import FLAT, RQ4, SQ, records_of, tuning_of, vector_indexes
from pipelines.table.index.vector import IndexWanted
from pipelines.table.table import LanceTable
from tests.support.indexes import (
    add,
    clustered,
    detached,
    exactly,
    fitted,
    left_over,
    nearest,
    overlap,
    records,
    schema_of,
)
from tests.support.jobs import Said, job

ROOT = Path(__file__).parents[4]


# ---------------------------------------------------------------------- in parallel


class Counting:
    """An engine as far as `map` goes: pickles what Ray would."""

    def __init__(self):
        self.items = []

    def map(self, function, items):
        import pickle

        self.items += items
        return (pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(function))(item))) for item in items)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def segments_like_one(address, dataset, executor, kind):
    """What is found through segments built apart, and through one built whole, with the same settings."""
    centroids = segments.train(dataset, 16, dataset.count_rows())
    build = segments.Build(address, dataset.version, "v", kind, centroids)
    fragments = dataset.get_fragments()
    whole = [build([fragment.fragment_id for fragment in fragments])]
    apart = list(executor.map(build, segments.groups(fragments, 4)))
    assert len(apart) == 4
    found = []
    for parts in (whole, apart):
        with segments.trial(address, dataset, parts, []) as tried:
            found.append([nearest(tried, query, Measured(2, 5, 0, 0, 0)) for query in clustered(40, seed=8)])
    assert detached(address) == []
    return found, [exactly(dataset, query) for query in clustered(40, seed=8)]


@pytest.mark.parametrize("kind", [FLAT, SQ, RQ4])
def test_segments_built_apart_find_what_one_finds(address, kind):
    dataset = add(address, *(clustered(300, seed=s, spread=0.5 + s) for s in range(4))).handle.dataset
    (whole, apart), exact = segments_like_one(address, dataset, Counting(), kind)
    if kind == FLAT:
        assert apart == whole
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(apart, whole, strict=True)])
    assert same >= 0.98
    recalls = [np.mean([len(set(a) & set(b)) / 10 for a, b in zip(f, exact, strict=True)]) for f in (whole, apart)]
    assert abs(recalls[0] - recalls[1]) <= 0.01


def test_segments_built_by_ray_find_what_one_finds(address, executor):
    dataset = add(address, *(clustered(200, seed=s) for s in range(4))).handle.dataset
    (whole, apart), _ = segments_like_one(address, dataset, executor, FLAT)
    assert apart == whole


def test_large_table_of_a_job_is_built_by_its_engine(tmp_path, address, monkeypatch):
    add(address, *(clustered(400, seed=s) for s in range(4)))
    engine = Counting()
    monkeypatch.setattr("pipelines.maintenance.optimize.open_executor", lambda _: engine)
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", 400)
    monkeypatch.setattr(maintain, "SEGMENTS_FROM_ROWS", 1500)
    config = job(tmp_path, run={"engine": "ray"}, table={"uri": str(tmp_path)})
    assert TableAddress(config.table.location, config.storage).uri == address.uri
    found = optimize(address, Said(), IndexWanted(), config).to_dict()["index"]
    assert len(engine.items) == found["segments"] == 4
    assert found["unindexed_rows"] == 0
    assert fitted(address)["action"] == "kept"


def test_groups_are_about_equal():
    class Fragment:
        def __init__(self, number, rows):
            self.fragment_id, self._rows = number, rows

        def count_rows(self):
            return self._rows

    sizes = [100, 100, 100, 900, 100, 100, 100, 100]
    found = segments.groups([Fragment(n, rows) for n, rows in enumerate(sizes)], 3)
    assert sorted(number for group in found for number in group) == list(range(8))
    assert len(found) == 3
    assert len(segments.groups([Fragment(0, 5)], 8)) == 1


# ---------------------------------------------------------------------- while others write, and after a kill


def test_run_commits_while_an_index_is_built_and_noted(address, monkeypatch):
    """Between what optimize read and each of its two commits a run adds rows: both live."""
    table = add(address, clustered(1200))
    real_publish, real_note = segments.publish, segments.note

    def commit():
        rows = records(clustered(30, seed=table.version), 5000 + table.version, schema_of())
        table.fence.commit(write_rows(address, rows), {})

    def publish(*args):
        commit()
        real_publish(*args)

    def note(dataset, *args):
        commit()
        real_note(dataset, *args)
        commit()

    monkeypatch.setattr(segments, "publish", publish)
    monkeypatch.setattr(segments, "note", note)
    found = fitted(address)
    assert (found["action"], found["unindexed_rows"]) == ("built", 90)
    commit()
    assert address.open().count_rows() == 1320
    assert tuning_of(address.open()) is not None
    monkeypatch.undo()
    monkeypatch.setattr(recall, "QUERIES", 64)
    assert fitted(address, index="ivf_sq")["unindexed_rows"] == 0


def test_newer_run_still_supersedes_an_older_one_over_an_optimize(address):
    from pipelines.errors import Superseded

    old = add(address, clustered(1200))
    new = LanceTable.open(address)
    new.take_fence("newer", {})
    fitted(address)
    with pytest.raises(Superseded):
        old.fence.commit(write_rows(address, records(clustered(5), 77, schema_of())), {})
    new.fence.commit(write_rows(address, records(clustered(5), 77, schema_of())), {})
    assert address.open().count_rows() == 1205


@pytest.mark.parametrize(("where", "times"), [("tune", 1), ("commit", 2)])
def test_killed_anywhere_nothing_half_built_is_seen(address, where, times):
    """As by kill -9: nothing is tidied up. Then the same command again."""
    add(address, clustered(1200))
    fitted(address)
    before = tuning_of(address.open())
    add(address, clustered(400, seed=2), clustered(3500, seed=3))
    script = f"""
import os, sys
from pipelines.maintenance import optimize as maintain
from pipelines.table.index import columns
from pipelines.table.index import recall
from pipelines.table.index import segments
from pipelines.table.index import vector as vector_index
from pipelines.config import StorageConfig
from pipelines.cli.display import Display
from pipelines.table.files import TableAddress
import lance
die = lambda *_, **__: os._exit(9)
real = lance.LanceDataset.commit
columns.INDEX_FROM_ROWS = 1000
recall.QUERIES = 64
if {where!r} == "tune": vector_index.tune = die
if {where!r} == "commit": lance.LanceDataset.commit = lambda *a, **k: real(*a, **k) if k.get("detached") else die()
maintain.optimize(TableAddress({address.uri!r}, StorageConfig()), Display(quiet=True))
"""
    for _ in range(times):
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, env=os.environ)
        assert done.returncode == 9
        assert len(vector_indexes(address.open())) == 1
        assert tuning_of(address.open()) == before, "the index that is there keeps its own settings"
    assert overlap(address.open(), before, clustered(30, seed=9)) > 0.9
    found = fitted(address)
    assert (found["action"], found["unindexed_rows"]) == ("built", 0)
    assert overlap(address.open(), tuning_of(address.open()), clustered(30, seed=9)) > 0.9
    assert len(records_of(address.open())) <= 2


def test_trials_of_killed_optimizes_are_swept(address):
    add(address, clustered(20))
    versions = Path(address.uri) / "_versions"
    for name, hours in [("d17446744073709551613", 2), ("d17446744073709551614", 0)]:
        (versions / f"{name}.manifest").write_bytes(b"")
        os.utime(versions / f"{name}.manifest", (time.time() - 3600 * hours,) * 2)
    assert status(address).to_dict()["versions_kept"] == address.open().version
    fitted(address)
    assert detached(address) == ["d17446744073709551614.manifest"]


def test_two_optimizes_at_once_are_one_message(address, monkeypatch):
    add(address, clustered(700), clustered(700, seed=2))
    real = segments.publish

    def publish(*args):
        address.open().optimize.compact_files(target_rows_per_fragment=5000)
        real(*args)

    monkeypatch.setattr(segments, "publish", publish)
    monkeypatch.setattr(compaction, "ROWS_PER_FRAGMENT", 100)
    with pytest.raises(TableError, match="another program compacted or indexed the table at the same time"):
        fitted(address)
    assert left_over(address) == []
    monkeypatch.undo()
    assert vector_indexes(address.open()) == []


@pytest.mark.parametrize("older", [False, True])
def test_of_two_that_build_at_once_one_index_is_left(address, monkeypatch, older):
    """Each was built under a name of its own, so Lance would keep both, and a search might read one with the settings
    of the other."""
    parts = [clustered(700), clustered(700, seed=2)]
    add(address, *parts)
    if older:
        fitted(address, index="ivf_flat")
    real = segments.publish

    def publish(*args):
        monkeypatch.setattr(segments, "publish", real)
        assert fitted(address, index="ivf_sq")["action"] == "built"
        real(*args)

    monkeypatch.setattr(segments, "publish", publish)
    mine = fitted(address, index="ivf_rq")
    (index,) = vector_indexes(address.open())
    assert index.name == records_of(address.open())[0].name == mine["name"]
    assert overlap(address.open(), tuning_of(address.open()), clustered(20, seed=3)) > 0.8
    assert fitted(address)["action"] in ("kept", "built")


def test_two_compactions_at_once_are_one_message(address, monkeypatch):
    add(address, *[clustered(40, seed=seed) for seed in range(6)])
    real = compaction.TableAddress.open

    def opened(self, *args):
        found = real(self, *args)
        monkeypatch.setattr(compaction.TableAddress, "open", real)
        found.optimize.compact_files()
        found.checkout_version(found.version - 1)
        return TableAddress(self.location, self.storage, found.version - 1).open()

    monkeypatch.setattr(compaction.TableAddress, "open", opened)
    with pytest.raises(TableChanged, match=r"nothing was compacted. The table is as that program left it") as caught:
        compaction.compact(address)
    assert caught.value.exit_code == 1
    assert address.open().count_rows() == 240


def test_what_is_tried_and_thrown_away_is_gone_from_s3_too(s3_endpoint):
    bucket = f"b-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    address = TableAddress(f"s3://{bucket}/db/t.lance", StorageConfig(endpoint_url=s3_endpoint, region="us-east-1"))
    dataset = add(address, clustered(300), clustered(300, seed=2)).handle.dataset
    build = segments.Build(address, dataset.version, "v", SQ, segments.train(dataset, 8, 600))
    kept, thrown = (build([fragment.fragment_id]) for fragment in dataset.get_fragments())
    with segments.trial(address, dataset, [kept, thrown], []) as tried:
        assert [index.num_rows_indexed for index in vector_indexes(tried)] == [600]
        assert any("/_versions/d" in key for key in keys(s3_endpoint, bucket))
    segments.discard(address, [thrown])
    left = keys(s3_endpoint, bucket)
    assert not any("/_versions/d" in key for key in left)
    assert {key.split("/")[3] for key in left if "/_indices/" in key} - {""} == {kept.uuid}
    assert address.open().count_rows() == 600, "what pyarrow leaves for an emptied folder disturbs nobody"


def keys(endpoint, bucket):
    pages = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").list_objects_v2(Bucket=bucket)
    return sorted(found["Key"] for found in pages["Contents"])
