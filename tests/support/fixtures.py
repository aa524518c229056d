"""Fixtures that tests of several rooms share; those of one room are in its conftest.py."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import qwen_tokenizer


@pytest.fixture(autouse=True)
def _float32_on_this_cpu(monkeypatch):
    """dtype "auto" is float32 on every machine that runs the tests, also where the CPU is faster in bfloat16."""
    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: False)


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
    yield executor
    executor.close()


@pytest.fixture(scope="session")
def qwen_tokenizers(pytestconfig: pytest.Config) -> dict[str, Path]:
    """The folders "embedding", "embedding-small" and "reranker"; kept in pytest's cache until the module that
    writes them changes.

    They are shared: copy a folder before changing it. Skips where the vocabulary is not installed.
    """
    if qwen_tokenizer.vocabulary_file() is None:
        pytest.skip("Qwen's vocabulary is not installed: pip install --no-deps -c constraints.txt dashscope")
    version = hashlib.sha256(Path(qwen_tokenizer.__file__).read_bytes()).hexdigest()[:16]
    base = pytestconfig.cache.mkdir("qwen-tokenizers") / version
    if not base.exists():
        partial = Path(tempfile.mkdtemp(dir=base.parent))
        qwen_tokenizer.write(partial / "embedding")
        qwen_tokenizer.write(partial / "embedding-small", small_vocabulary=True)
        qwen_tokenizer.write(partial / "reranker", kind="reranker")
        try:
            os.rename(partial, base)
        except OSError:  # another test run of this machine was first
            shutil.rmtree(partial)
    return {name: base / name for name in ("embedding", "embedding-small", "reranker")}
