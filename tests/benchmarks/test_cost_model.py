"""The cost model agrees with what was measured, and docs/scale.md with the cost model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cost_model
from benchmarks.cost_model import Job

ROOT = Path(__file__).parents[2]
MEASURED = sorted((ROOT / "benchmarks" / "results").glob("*-scale-*.json"))


def test_the_page_holds_what_the_model_prints():
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert cost_model.page() in page, "run benchmarks/cost_model.py and put what it prints into docs/scale.md"


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_manifests_are_as_large_as_measured(path):
    for one in json.loads(path.read_text())["measured"]:
        disk = one["disk"]
        assert cost_model.manifest_bytes(disk["fragments"]) == pytest.approx(disk["last_manifest_bytes"], rel=0.2)
        total = cost_model.manifests_bytes(disk["fragments"], disk["versions"])
        assert total == pytest.approx(disk["manifest_bytes"], rel=0.2)


def test_there_are_measurements():
    assert len(MEASURED) >= 3


def test_what_grows_faster_than_the_rows_is_only_the_history():
    few, many = Job(1e9, 64), Job(1e10, 64)
    for linear in ("units", "fragments", "puts", "gets", "vector_bytes", "hours", "resume_seconds"):
        assert getattr(many, linear) == pytest.approx(10 * getattr(few, linear), rel=0.01), linear
    assert many.driver_bytes < 2 * few.driver_bytes
    assert many.manifests_bytes() == pytest.approx(100 * few.manifests_bytes(), rel=0.01)
    assert many.names_of_all_versions == pytest.approx(100 * few.names_of_all_versions, rel=0.01)


@pytest.mark.parametrize("gpus", [8, 64, 512])
@pytest.mark.parametrize(("rows", "model"), [(1e10, cost_model.SMALL), (1e9, cost_model.LARGE)], ids=["0.6B", "8B"])
def test_one_driver_keeps_up(gpus, rows, model):
    job = Job(rows, gpus, model)
    assert job.units_per_second < cost_model.UNITS_PER_SECOND
    assert job.committing() < 0.1, "of one core"
    assert job.driver_bytes < 4e9


def test_twice_the_gpus_take_half_the_time_and_the_same_requests():
    job = Job(1e10, 64)
    twice = replace(job, gpus=128)
    assert twice.hours == pytest.approx(job.hours / 2)
    assert twice.request_dollars == pytest.approx(job.request_dollars, rel=0.05)


@pytest.mark.parametrize(
    ("value", "text"), [(0.123, "0.12"), (9.99, "10.0"), (12.34, "12.3"), (99.7, "100"), (12_300_000, "12.3 M")]
)
def test_numbers_have_two_or_three_digits(value, text):
    assert cost_model.number(value) == text
