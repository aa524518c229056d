"""What all tests run under: the environment, and the order of the files."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")

# Tests run in several processes at once, and OpenMP's threads wait by spinning.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's workers give way to every other process, 15 steps of `nice`: beside other tests they would hardly come on.
os.environ.setdefault("RAY_worker_niceness", "0")

LONG_FILES = (
    "system/test_cluster.py",
    "pipelines/engine/test_engines.py",
    "system/test_foreign_names.py",
    "pipelines/search/test_cranfield.py",
    "system/test_storage_faults.py",
    "vectormill/test_face.py",
    "system/test_model_faults.py",
    "benchmarks/test_benchmarks.py",
    "house/test_wheel.py",
    "pipelines/table/index/test_vector.py",
    "pipelines/run/test_rerank_job.py",
    "pipelines/search/test_bulk.py",
)

# Triton decides when it is first imported (by transformers, in most test files) whether it compiles its kernels or
# interprets them. Without a GPU it can only interpret.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A helper's assert shows its values as a test's does; it must be said before the first one is imported.
pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.fixtures"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that the processes end at about the same time (Makefile: a file's tests run
    in one process, in the order given)."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(LONG_FILES)))
