"""A device of several: this thread's, its own stream, and nobody who waits by spinning."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from actors.device.device import prepare, send_home, translated
from actors.spec import ModelError, ModelSpec
from tests.support.devices import plug_in

DTYPE = {"dtype": "bfloat16"}


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Two devices; which of them is made the thread's, in turn."""
    plug_in(monkeypatch, tmp_path, "NVIDIA A100", (8, 0), count=2)
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", seen.append)

    class Device:
        def __init__(self, device: str) -> None:
            self._device = device

        def __enter__(self) -> None:
            seen.append(self._device)

        def __exit__(self, *error: object) -> None:
            seen.append("before")

    monkeypatch.setattr(torch.cuda, "device", Device)
    return seen


def test_the_models_thread_is_set_to_its_device(current: list[str]) -> None:
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    assert prepare(ModelSpec("bundled", device="cuda:1", **DTYPE)) == "cuda:1"
    assert current == ["cuda:1"]
    assert torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction is False
    assert prepare(ModelSpec("bundled", device="cuda", **DTYPE)) == "cuda"
    assert current == ["cuda:1"], "the one that a process sees is its own already"
    with pytest.raises(ModelError, match="'cuda:2' asked, but torch sees 2"):
        prepare(ModelSpec("bundled", device="cuda:2", **DTYPE))


def test_a_micro_batch_is_launched_on_the_device_from_whatever_thread(current: list[str]) -> None:
    with translated("cuda:1", "a micro-batch"):
        current.append("launched")
    assert current == ["cuda:1", "launched", "before"]
    current.clear()
    with translated("cpu", "a micro-batch"):
        pass
    assert current == []


def test_what_comes_home_is_complete_when_its_own_devices_stream_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event of another device's stream happens at once; one that is not blocking keeps a core busy."""
    recorded = []

    class Event:
        def __init__(self, blocking: bool = False) -> None:
            self.blocking = blocking

        def record(self, stream: object = None) -> None:
            recorded.append((self.blocking, stream))

    class Host:
        def copy_(self, values: object, non_blocking: bool) -> None:
            assert non_blocking

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"stream of {device}")
    monkeypatch.setattr(torch, "empty", lambda shape, dtype, pin_memory: Host())
    values = SimpleNamespace(is_cuda=True, shape=(1, 2), dtype=torch.float32, device=torch.device("cuda:1"))
    pending = send_home(values)
    assert recorded == [(True, "stream of cuda:1")]
    assert isinstance(pending.done, Event)


@pytest.mark.parametrize("device", ["cuda:x", "cuda:", "cuda:-1", "gpu", "cpu:0"])
def test_names_of_no_device(device: str) -> None:
    with pytest.raises(ModelError, match='is not "cpu", "cuda" or "cuda:N"'):
        ModelSpec("bundled", device=device)
