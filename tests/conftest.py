"""Fixtures that several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    "pipelines/search/test_cranfield.py",
    "system/test_model_faults.py",
    "system/test_storage_faults.py",
    "benchmarks/test_benchmarks.py",
    "pipelines/table/index/test_indexes.py",
    "pipelines/search/test_bulk.py",
    "pipelines/run/test_rerank_job.py",
)

# Triton decides when it is first imported (by transformers, in most test files) whether it compiles its kernels or
# interprets them. Without a GPU it can only interpret.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that the processes end at about the same time (Makefile: a file's tests run
    in one process, in the order given)."""
    tests = Path(__file__).parent
    places = {tests / name: place for place, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(LONG_FILES)))


@pytest.fixture(autouse=True)
def _float32_on_this_cpu(monkeypatch):
    """dtype "auto" is float32 on every machine that runs the tests, also where the CPU is faster in bfloat16."""
    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: False)


@pytest.fixture(scope="session", autouse=True)
def _one_thread_a_model() -> Iterator[None]:
    """As OMP_NUM_THREADS, which a run overrides: alone on a machine its model has all cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.engine.inline.InlineExecutor.threads", lambda *_: 1)
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of a moto server that lives as long as the test session; credentials for it are in the environment."""
    from moto.server import ThreadedMotoServer

    credentials = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in credentials}
    os.environ.update(credentials)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def executor(s3_endpoint):
    """One local Ray for all tests that run stages on it; its workers have the credentials of `s3_endpoint`."""
    from pipelines.engine.ray import RayExecutor

    executor = RayExecutor(None)
    executor.threads = lambda replicas: 1
    yield executor
    executor.close()
