"""The vector index: built and measured, kept up to date, refused where it finds too little."""

import json

import lance
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from pipelines.cli.app import app
from pipelines.errors import ConfigError, TableError
from pipelines.maintenance.status import status
from pipelines.table.index import recall
from pipelines.table.index import vector as vector_index
from pipelines.table.index.records import FLAT, RECORDS_KEY, SQ, record_of, tuning_of, vector_indexes
from pipelines.table.index.vector import IndexWanted
from pipelines.table.table import LanceTable
from tests.support.indexes import add, clustered, detached, fitted, left_over, overlap, schema_of

# ---------------------------------------------------------------------- built and measured


@pytest.mark.parametrize("index", ["ivf_flat", "ivf_sq", "ivf_rq"])
def test_index_reaches_the_recall_that_is_recorded(address, index):
    add(address, clustered(1500), clustered(700, seed=2))
    found = fitted(address, index=index, min_recall=0.9)
    assert (found["action"], found["type"]) == ("built", index.upper())
    dataset = address.open()
    tuning = tuning_of(dataset)
    assert tuning.recall == found["recall"] >= 0.9
    assert found["queries"] == 32
    assert (tuning.refine_factor is None) == (index == "ivf_flat")
    assert 1 <= tuning.nprobes < found["partitions"], "not by looking everywhere"
    assert overlap(dataset, tuning, clustered(40, seed=3)) > 0.85, "fresh queries, judged by Lance's exact search"
    assert record_of(dataset).why.startswith(index.upper())
    assert detached(address) == []


def test_index_is_chosen_and_said_why(address):
    add(address, clustered(1200))
    found = fitted(address)
    assert (found["action"], found["type"], found["partitions"]) == ("built", "IVF_SQ", 32)
    assert "1,200 vectors of 32 dimensions" in found["why"]
    assert found["why"].endswith("Built because there was none")
    assert fitted(address)["action"] == "kept"
    version = address.open().version
    assert fitted(address)["action"] == "kept"
    assert address.open().version == version, "nothing is committed where nothing is to do"


def test_small_table_gets_none_and_is_told_why(address):
    add(address, clustered(300))
    found = fitted(address)
    assert found == {"action": "none", "why": "fewer than 1,000 vectors: exact search is fast"}
    assert json.loads(address.open().metadata[RECORDS_KEY])["none"] == found["why"]
    assert tuning_of(address.open()) is None
    version = address.open().version
    fitted(address)
    assert address.open().version == version


def test_none_takes_the_index_out(address):
    add(address, clustered(1200))
    fitted(address)
    assert fitted(address, index="none")["action"] == "removed"
    assert vector_indexes(address.open()) == []
    assert tuning_of(address.open()) is None
    assert fitted(address, index="none")["action"] == "none"


def test_rows_without_a_vector_and_float16(address):
    schema = schema_of("float16")
    add(address, clustered(1300), clustered(100, seed=2), schema=schema, without=90)
    found = fitted(address, min_recall=0.9)
    assert found["action"] == "built"
    assert "1,220 vectors" in found["why"]
    assert overlap(address.open(), tuning_of(address.open()), clustered(30, seed=3)) > 0.85


def test_fragment_without_any_vector(address):
    add(address, clustered(1200))
    fitted(address, index="ivf_flat")
    add(address, clustered(60, seed=4), without=60)
    assert fitted(address, index="ivf_flat")["action"] == "updated"
    assert status(address).to_dict()["vector_index"]["unindexed_rows"] == 0


@pytest.mark.parametrize("index", ["ivf_sq", "ivf_flat"])
def test_vectors_that_are_all_the_same(address, index):
    add(address, np.repeat(clustered(1), 1200, axis=0))
    assert fitted(address, index=index)["recall"] == 1


# ---------------------------------------------------------------------- no index that finds too little


def blind(monkeypatch, *kinds):
    """No settings reach any recall with indexes of these kinds."""
    real = vector_index.VectorIndex._tune

    def tune(self, dataset, record):
        return None if record.kind in kinds else real(self, dataset, record)

    monkeypatch.setattr(vector_index.VectorIndex, "_tune", tune)


def test_another_kind_is_tried_before_giving_up(address, monkeypatch):
    add(address, clustered(1200))
    blind(monkeypatch, SQ)
    found = fitted(address)
    assert found["type"] == "IVF_FLAT"
    assert "codes lost too much" in found["why"]
    assert left_over(address) == [], "nothing is left of the other"
    assert fitted(address)["action"] == "kept"


def test_index_that_is_too_bad_is_not_left(address, monkeypatch):
    add(address, clustered(1200))
    blind(monkeypatch, SQ, FLAT)
    with pytest.raises(TableError) as bad:
        fitted(address, min_recall=0.97)
    assert "IVF_SQ and IVF_FLAT did not reach recall@10 0.97" in str(bad.value)
    assert "the table has no vector index now" in str(bad.value)
    assert "Lower --min-recall" in str(bad.value)
    assert vector_indexes(address.open()) == []
    assert left_over(address) == []


def test_real_index_that_is_too_bad_is_not_left(address, monkeypatch):
    """Nothing is made up here: one bit a dimension, without looking at the vectors, finds too little."""
    add(address, clustered(1500, spread=2.0))
    monkeypatch.setattr(recall, "REFINE_FACTORS", (1,))
    with pytest.raises(TableError, match=r"IVF_RQ did not reach recall@10 0\.95"):
        fitted(address, index="ivf_rq", memory_gb=0.00001)
    assert vector_indexes(address.open()) == []


def test_older_index_stays_if_it_is_good_and_goes_if_not(address, monkeypatch):
    add(address, clustered(1200))
    before = fitted(address, index="ivf_flat")
    blind(monkeypatch, SQ)
    with pytest.raises(TableError, match=r"IVF_SQ did not reach .* the IVF_FLAT index that was there reaches it"):
        fitted(address, index="ivf_sq")
    assert [index.name for index in vector_indexes(address.open())] == [before["name"]]
    assert tuning_of(address.open()) is not None
    monkeypatch.undo()
    blind(monkeypatch, SQ, FLAT)
    monkeypatch.setattr(recall, "QUERIES", 64)
    with pytest.raises(TableError, match="no vector index now"):
        fitted(address, index="ivf_sq")
    assert vector_indexes(address.open()) == []


# ---------------------------------------------------------------------- kept up to date


def test_new_rows_are_put_in(address):
    add(address, clustered(1200))
    before = fitted(address)
    add(address, clustered(200, seed=5))
    assert status(address).to_dict()["vector_index"]["unindexed_rows"] == 200
    after = fitted(address)
    assert (after["action"], after["name"], after["unindexed_rows"]) == ("updated", before["name"], 0)
    assert after["segments"] == 2
    assert overlap(address.open(), tuning_of(address.open()), clustered(200, seed=5)[:30]) > 0.9
    assert left_over(address) == []


def test_segments_are_merged_as_they_come(address):
    """Nightly refreshes leave few segments: each takes in those that are no larger."""
    add(address, clustered(1600))
    fitted(address, index="ivf_flat")
    counts = []
    for night in range(4):
        add(address, clustered(100, seed=10 + night))
        counts.append(fitted(address, index="ivf_flat")["segments"])
    assert max(counts) <= 3
    assert overlap(address.open(), tuning_of(address.open()), clustered(30, seed=12)) > 0.9


def test_outgrown_partitions_are_trained_anew(address):
    add(address, clustered(300))
    before = fitted(address, index="ivf_sq")
    add(address, clustered(900, seed=2))
    after = fitted(address, index="ivf_sq")
    assert after["action"] == "built"
    assert "the table grew from 300 to 1,200 vectors" in after["why"]
    assert after["partitions"] > before["partitions"]
    assert [index.name for index in vector_indexes(address.open())] == [after["name"]]
    assert record_of(address.open()).vectors_trained == 1200


def test_refresh_that_finds_too_little_is_built_anew(address, monkeypatch):
    add(address, clustered(1200))
    before = fitted(address)
    add(address, clustered(100, seed=5))
    real, calls = vector_index.tune, []

    def tune(*args, **kwargs):
        calls.append(1)
        return None if len(calls) == 1 else real(*args, **kwargs)

    monkeypatch.setattr(vector_index, "tune", tune)
    after = fitted(address)
    assert (after["action"], after["name"] == before["name"]) == ("built", False)
    assert "after new rows no settings reach recall@10 0.95" in after["why"]


def test_index_of_another_program_is_replaced(address):
    """Its recall is unknown, and a search with our settings of before would be a guess."""
    add(address, clustered(1200))
    ours = fitted(address)
    theirs = address.open()
    theirs.create_index(
        "vector", "IVF_PQ", metric="cosine", num_partitions=4, num_sub_vectors=4, name=ours["name"] + "x"
    )
    theirs.drop_index(ours["name"])
    assert tuning_of(address.open()) is None
    assert status(address).to_dict()["vector_index"]["recall"] is None
    after = fitted(address)
    assert "another program built the one that was there" in after["why"]
    assert [index.name for index in vector_indexes(address.open())] == [after["name"]]


def test_tuning_stays_with_its_index_through_compaction(address):
    add(address, clustered(700), clustered(700, seed=2))
    fitted(address, index="ivf_sq")
    before = tuning_of(address.open())
    add(address, clustered(10, seed=3), clustered(10, seed=4))
    address.open().optimize.compact_files(target_rows_per_fragment=5000)
    address.open().delete("id like '%77'")
    address.open().optimize.compact_files(target_rows_per_fragment=5000, materialize_deletions_threshold=0.0)
    assert tuning_of(address.open()) == before
    assert overlap(address.open(), before, clustered(30, seed=9)) > 0.9


# ---------------------------------------------------------------------- status, refusals, the command


def test_status_shows_the_index(address):
    add(address, clustered(1200))
    assert status(address).to_dict()["vector_index"] is None
    found = fitted(address)
    add(address, clustered(17))
    shown = status(address).to_dict()["vector_index"]
    assert (shown["type"], shown["unindexed_rows"], shown["recall"]) == ("IVF_SQ", 17, found["recall"])
    assert shown["bytes"] > 1200 * 32
    printed = command("status", address.location)
    assert "IVF_SQ" in printed.stdout
    assert "17 rows outside it" in printed.stdout
    assert f"recall@10 {found['recall']:.3f}" in printed.stdout


def command(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_optimize_as_a_command(address):
    add(address, clustered(1200))
    done = command("optimize", address.location, "--min-recall", "0.9", "--full-text", "auto", "--memory-gb", "1")
    assert done.exit_code == 0, done.output
    for words in ("built: IVF_SQ", "recall@10", "the limit is 1 GB", "id built, text built"):
        assert words in done.stdout, done.stdout
    again = command("optimize", address.location, "--min-recall", "0.9", "--json", "--quiet")
    assert json.loads(again.stdout)["index"]["action"] == "kept"


def test_refusals_as_commands(address, tmp_path):
    add(address, clustered(20))
    lance.write_dataset(pa.table({"vector": [[1.0, 0.0]]}), f"{tmp_path}/foreign.lance")
    for arguments, code, words in [
        ([address.location, "--min-recall", "1.5"], 2, "--min-recall is 1.5; it is a share above 0 and at most 1"),
        ([address.location, "--index", "ivf_sq"], 2, "has 20 vectors, too few for --index ivf_sq: it takes 256"),
        ([tmp_path / "foreign"], 2, "was not created by vectormill"),
        ([tmp_path / "missing"], 2, "there is no table at"),
    ]:
        done = command("optimize", *arguments, "--quiet")
        assert done.exit_code == code
        assert done.stderr.count("\n") == 1, done.stderr
        assert words in done.stderr


@pytest.mark.parametrize("wanted", [{"min_recall": 0}, {"min_recall": 1.01}, {"min_recall": float("nan")},
                                    {"memory_gb": 0}, {"memory_gb": -1}])  # fmt: skip
def test_numbers_out_of_range(wanted):
    with pytest.raises(ConfigError, match=r"--(min-recall|memory-gb) is .*; it "):
        IndexWanted(**wanted)


def test_empty_table(address):
    LanceTable.open_or_create(address, schema_of())
    assert fitted(address)["action"] == "none"
    for wanted in ({"index": "ivf_sq"}, {"full_text": "auto"}):
        with pytest.raises(TableError, match="is empty, so there is nothing to index; run `vectormill embed` first"):
            fitted(address, **wanted)
