"""A CUDA device that is not there: what torch would say of one, for tests of what we make of it."""

import pytest
import torch

from actors.device import gpu

DRIVER = "535.104.05"
TOO_OLD = (
    "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver by downloading "
    "and installing a new version"
)


def plug_in(monkeypatch: pytest.MonkeyPatch, tmp_path, name: str, capability: tuple[int, int], count: int = 1) -> None:
    """So many devices of the name, each of this compute capability."""
    _files(monkeypatch, tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)


def plug_in_unusable(monkeypatch: pytest.MonkeyPatch, tmp_path, why: str = TOO_OLD, cuda: str | None = "13.0") -> None:
    """A device that torch, built for this CUDA, cannot use."""
    _files(monkeypatch, tmp_path)

    def init() -> None:
        raise RuntimeError(why)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)


def _files(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "nvidia0").touch()
    version = tmp_path / "version"
    version.write_text(f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {DRIVER}  Sat Aug 19 01:15:15 UTC 2023\n")
    monkeypatch.setattr(gpu, "DEVICE_FILES", str(tmp_path / "nvidia[0-9]*"))
    monkeypatch.setattr(gpu, "DRIVER_FILES", (str(tmp_path / "missing"), str(version)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    gpu.say_once.cache_clear()
