"""The benchmarks run, in their tiniest size: what they measure here means nothing. Those that load Qwen's tokenizer,
sentence-transformers or a cluster are slow even so: `make test-slow`."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.watched import Call, cores_used

ROOT = Path(__file__).parents[2]


def run(name, *arguments):
    """Run a benchmark; its last line, parsed."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_pipeline():
    found = run("pipeline", "--rows", "40", "--rounds", "2", "--engine", "inline", "--weights", "fake:50000")
    assert len(found["each_round"]) == 2
    assert 0.1 < found["ratio"] < 1.5
    stages = found["each_round"][0]["pipeline"]["stage_seconds"]
    assert set(stages) == {"read", "tokenise", "embed", "write"}
    assert {"cpu", "cores", "date"} <= set(found["machine"])
    assert {"torch", "ray", "pylance"} <= set(found["machine"]["versions"])
    assert found["settings"]["engine"] == "inline"


def test_write():
    found = run("write", "--fragments", "2", "--rows", "512", "--dimensions", "64", "--rounds", "1")
    assert found["float32"]["ratio"] > 0
    assert found["float16"]["ratio_synced"] > 0
    assert found["float32"]["data_mb"] == pytest.approx(found["float32"]["logical_mb"], rel=0.5)


def test_memory():
    found = run("memory", "--units", "3", "130", "--rows", "500", "12000", "--engine", "inline")
    assert [step["commits"] for step in found["committer"]] == [1, 3]
    assert [step["rows"] for step in found["driver"]] == [500, 12000]
    assert found["committer_growth"]["ratio"] > 0
    assert "mb_per_1000000_rows" in found["driver_growth"]


def test_planning():
    found = run("planning", "--files", "30")
    assert found["cold"]["shards"] == 30
    assert found["cold"]["rows"] == found["with_cache"]["rows"] == 90


def test_scale():
    found = run("scale", "--rows", "20000", "--rows-per-shard", "500", "--commit-every-rows", "4096")
    (measured,) = found["measured"]
    half, rest, again = (measured[name] for name in ("half", "rest", "again"))
    assert half["rows"] + rest["rows"] == measured["disk"]["rows"] == 20000
    assert 0 < half["rows"] < 20000
    assert (again["rows"], again["seconds_to_first_unit"], again["commits"]) == (0, None, 0)
    assert rest["seconds_to_first_unit"] > 0
    assert rest["commit_ms"]["slowest"] >= rest["commit_ms"]["last_tenth"]
    assert measured["disk"]["manifest_bytes"] > measured["disk"]["last_manifest_bytes"] > 0


def test_history():
    found = run("history", "--commits", "3", "12", "--units", "200", "--rows", "2000")
    assert [step["commits"] for step in found["commits"]] == [3, 12]
    for step in found["commits"]:
        assert step["all_manifests"]["found"] == step["find_orphans"]["found"] == 1
    assert [step["units"] for step in found["checkpoint"]] == [100, 200]


@pytest.mark.slow
def test_engine():
    if importlib.util.find_spec("dashscope") is None:
        pytest.skip("the package dashscope, whose vocabulary is Qwen's, is not installed")
    found = run("engine", "--rows", "100", "--dimensions", "16", "--no-ray", "--warm-up", "1000")
    assert found["minilm"]["rows"] == found["qwen"]["rows"] == 100
    assert found["qwen"]["tokens_per_row"] == found["qwen_fastokens"]["tokens_per_row"] > 100
    assert set(found["qwen"]["cpu_us_per_row"]) == {"read", "tokenise", "write"}


@pytest.mark.slow
def test_rerank():
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is one side of this benchmark")
    if importlib.util.find_spec("dashscope") is None:
        pytest.skip("the package dashscope, whose vocabulary is Qwen's, is not installed")
    found = run("rerank", "--queries", "2", "--documents", "4", "--layers", "1", "--hidden", "128", "--rounds", "1")
    assert found["worst_logit_difference"] < 1e-3
    assert found["times_model_card"] > 0
    assert found["times_plain"] > 0


@pytest.mark.slow
def test_tokenise():
    if importlib.util.find_spec("dashscope") is None:
        pytest.skip("the package dashscope, whose vocabulary is Qwen's, is not installed")
    found = run("tokenise", "--strings", "50", "--megabytes", "0.1", "--rounds", "1")
    assert found["exact"]["as it is"]["mismatches"] == 0
    assert found["exact"]["as it is"]["compared"]


@pytest.mark.slow
def test_replicas():
    """Two replicas on a cluster of simulated GPUs."""
    found = run("replicas", "--replicas", "2", "--seconds", "4", "--unit-seconds", "0.25")
    assert [each["processes"] for each in found["each"]] == [2]
    assert found["efficiency"] == {"2": 1}, "of the fewest"


@pytest.mark.slow
def test_cpu_replicas():
    found = run("cpu_replicas", "--model", "tiny", "--tokens", "600", "--rounds", "1", "--ways", "1x2", "2x1")
    ways = [(each["replicas"], each["threads"], each["token_budget"]) for each in found["each"]]
    assert ways == [(1, 2, 1536), (1, 2, 3072), (2, 1, 1536), (2, 1, 3072)]
    assert all(each["tokens_per_second"] > 0 and each["tokens_per_cpu_second"] > 0 for each in found["each"])
    assert len(found["load_seconds"]) == 2


@pytest.mark.slow
def test_search():
    size = ("--rows", "1500", "--dimensions", "32", "--queries", "5", "--rerank", "0", "--index", "ivf_sq")
    found = run("search", *size)["sides"]
    assert found["exact"]["recall"] == 1
    for side in ("ours", "lancedb", "lancedb_refined"):
        assert 0 < found[side]["recall"] <= 1
        assert found[side]["p95_ms"] >= found[side]["p50_ms"] > 0
        assert found[side]["hybrid_p50_ms"] > 0
    assert found["ours"]["bytes"] > 1500 * 32
    assert found["ours"]["build_peak_mb"] > 0


@pytest.mark.slow
def test_overlap():
    """One replica through Ray, with one call at a time and with two."""
    found = run("overlap", "--seconds", "0.1", "--calls", "6", "--rounds", "1")
    (size,) = found["sizes"]
    assert size["rows_a_call"] == 547
    for (each,) in size["each"].values():
        assert 0 < each["busy_share"] <= 1
        assert each["seconds"] >= 0.59
    assert set(size["busy_share"]) == {"1", "2"}


def test_what_overlaps_counts_once():
    def call(process, begin, end, cpu_begin, cpu_end):
        return Call(begin, end, 1.0, cpu_begin, cpu_end, 0, process)

    apart = [call(1, 0, 2, 0, 2), call(1, 3, 5, 7, 8), call(2, 0, 4, 0, 4)]
    assert cores_used(apart) == (2 + 1 + 4) / (2 + 2 + 4)
    two_at_a_time = [call(1, 0, 2, 0, 2), call(1, 1, 4, 1, 5), call(1, 2, 3, 2, 4), call(1, 6, 7, 6, 7)]
    assert cores_used(two_at_a_time) == (5 + 1) / (4 + 1)


@pytest.mark.slow
def test_night():
    found = run("night", "--rounds", "1")
    (one,) = found["cpu_seconds"]
    assert one["ray"] > 3 * one["auto"]
