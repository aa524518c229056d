"""What torch's allocator for CUDA is asked, and that it is asked in time."""

import subprocess
import sys
from pathlib import Path

import pytest

from actors.device import allocator

ROOT = Path(__file__).parents[3]


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a driver, on which nobody has chosen anything."""
    driver = tmp_path / "nvidiactl"
    driver.touch()
    monkeypatch.setattr(allocator, "DRIVER", driver)
    for name in (allocator.SETTINGS, *allocator.EARLIER, *allocator.VISIBLE):
        monkeypatch.setenv(name, "")  # remembered, and put back after the test
        monkeypatch.delenv(name)
    return driver


def asked() -> str | None:
    allocator.ask_for_growing_segments()
    return allocator.os.environ.get("PYTORCH_ALLOC_CONF")


def test_segments_grow_on_a_gpu(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked() == "expandable_segments:True"
    assert asked() == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "GPU-5a1b")
    assert asked() == "expandable_segments:True"


def test_nothing_is_asked_without_one(gpu: Path) -> None:
    gpu.unlink()
    assert asked() is None


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"])
@pytest.mark.parametrize("value", ["max_split_size_mb:512", "expandable_segments:False", ""])
def test_what_the_user_chose_stays(gpu: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    assert asked() == (value if name == "PYTORCH_ALLOC_CONF" else None)


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"])
def test_not_on_a_part_of_a_gpu(gpu: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "MIG-2f9c")
    assert asked() is None


# In torch's place stands a module that says what it finds in the environment, and ends the process.
TORCH = """
import os
print(os.environ.get("PYTORCH_ALLOC_CONF"), flush=True)
os._exit(0)
"""
REPLICA = """
import pathlib
from actors.device import allocator
from actors.spec import ModelSpec
allocator.DRIVER = pathlib.Path("/")
spec = ModelSpec("bundled", device="cuda")
"""


@pytest.mark.parametrize(
    "make",
    [
        "from pipelines.tasks.embed import embedder; embedder(spec)",
        "from pipelines.tasks.rerank import reranker; reranker(spec)",
    ],
    ids=["embed", "rerank"],
)
def test_a_replica_asks_before_torch_is_imported(make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (allocator.SETTINGS, *allocator.EARLIER, *allocator.VISIBLE):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-c", REPLICA + make]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "expandable_segments:True", done.stderr[-1000:]


def test_torch_understands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under this name, and with nothing to say about it."""
    monkeypatch.setenv(allocator.SETTINGS, "expandable_segments:True")
    ask = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("expandable_segments:True", "")
