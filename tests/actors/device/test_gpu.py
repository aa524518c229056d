"""What a card and its driver can do, on cards that are not there."""

import logging
from pathlib import Path

import pytest
import torch

from actors.device import gpu
from actors.device.auto import resolve_device, resolve_dtype
from actors.spec import ModelError, ModelSpec
from tests.support.devices import plug_in, plug_in_unusable

T4, A100, L4, H100 = (7, 5), (8, 0), (8, 9), (9, 0)


def test_all_that_can_be_told_of_a_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, tmp_path, "Tesla T4", T4)
    said = gpu.describe("cuda:0")
    assert said.startswith("cuda:0 (Tesla T4, compute capability 7.5, driver 535.104.05, torch 2."), said


def test_a_device_that_answers_nothing_is_described_all_the_same(monkeypatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, tmp_path, "Tesla T4", T4)

    def lost(device: str) -> str:
        raise RuntimeError("CUDA error: GPU is lost")

    monkeypatch.setattr(torch.cuda, "get_device_name", lost)
    assert gpu.describe("cuda").startswith("cuda (driver 535.104.05, torch ")
    assert gpu.describe("cpu").startswith("cpu (torch ")


@pytest.mark.parametrize(
    ("capability", "dtype", "said"),
    [
        (T4, "bfloat16", r"Tesla T4, compute capability 7.5, driver 535.* in bfloat16, .* 8.0.* model.dtype: float32, "
         r"or float16 with model.force_float16; .* newer cards, or .*run.device: cpu"),
        (T4, "float8", "in float8, which begins at compute capability 8.9.* model.dtype: float32"),
        (A100, "float8", "in float8, which begins at compute capability 8.9.* model.dtype: bfloat16; .* newer cards$"),
    ],
)  # fmt: skip
def test_a_dtype_that_the_card_has_not_is_refused(monkeypatch, tmp_path, capability, dtype, said) -> None:
    plug_in(monkeypatch, tmp_path, "Tesla T4", capability)
    with pytest.raises(ModelError, match=said) as caught:
        gpu.check("cuda", dtype)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(T4, "float16"), (T4, "float32"), (A100, "bfloat16"), (L4, "float8"), (H100, "float8"), (T4, "auto")],
)
def test_a_dtype_that_the_card_has_is_not(monkeypatch, tmp_path, capability, dtype) -> None:
    plug_in(monkeypatch, tmp_path, "some card", capability)
    gpu.check("cuda", dtype)


def test_a_device_beyond_those_that_there_are(monkeypatch, tmp_path) -> None:
    plug_in(monkeypatch, tmp_path, "some card", A100, count=2)
    gpu.check("cuda:1", "bfloat16")
    with pytest.raises(ModelError, match=r"'cuda:2' asked, but torch sees 2 CUDA device"):
        gpu.check("cuda:2", "bfloat16")


def test_auto_is_what_the_card_has_where_this_process_sees_it(monkeypatch, tmp_path, caplog) -> None:
    spec = ModelSpec("bundled")
    plug_in(monkeypatch, tmp_path, "NVIDIA A100", A100)
    assert (resolve_device(spec), resolve_dtype(spec)) == ("cuda", "bfloat16")
    plug_in(monkeypatch, tmp_path, "Tesla T4", T4)
    with caplog.at_level(logging.WARNING):
        assert resolve_dtype(spec) == resolve_dtype(spec) == "float32"
    (record,) = caplog.records
    assert record.message.endswith(" has no bfloat16: dtype auto is float32 here")
    assert resolve_dtype(spec, sees_device=False) == "bfloat16", "a driver does not know what its replicas have"
    assert resolve_dtype(ModelSpec("bundled", dtype="bfloat16")) == "bfloat16", "what a table has is never changed"


def test_a_driver_that_is_too_old_is_named_with_the_versions(monkeypatch, tmp_path, caplog) -> None:
    plug_in_unusable(monkeypatch, tmp_path)
    why = gpu.unusable()
    assert why is not None
    assert "driver on your system is too old (found version 12020)." in why, why
    for part in ("is built for CUDA 13.0, the driver here is 535.104.05: update the driver, or", "run.device: cpu"):
        assert part in why, why
    with pytest.raises(ModelError, match=r"'cuda' asked, but .*too old.*CUDA 13.0.*535.104.05: update"):
        gpu.check("cuda", "bfloat16")
    with caplog.at_level(logging.WARNING):
        assert resolve_device(ModelSpec("bundled")) == resolve_device(ModelSpec("bundled")) == "cpu"
    assert [record.message for record in caplog.records] == [f"on the CPU, because {why}"]


def test_a_torch_without_cuda_beside_a_gpu_is_named_too(monkeypatch, tmp_path) -> None:
    plug_in_unusable(monkeypatch, tmp_path, "Torch not compiled with CUDA enabled", None)
    assert "is built for CPUs, the driver here is 535.104.05: install torch's build for CUDA" in str(gpu.unusable())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CUDA_VISIBLE_DEVICES", ""),
        ("CUDA_VISIBLE_DEVICES", "-1"),
        ("CUDA_VISIBLE_DEVICES", "NoDevFiles"),
        ("NVIDIA_VISIBLE_DEVICES", "none"),
    ],
)
def test_no_gpu_is_wanted(monkeypatch, tmp_path, name, value) -> None:
    plug_in_unusable(monkeypatch, tmp_path)
    monkeypatch.setenv(name, value)
    assert gpu.unusable() is None


@pytest.mark.parametrize(
    ("assigned", "files", "why", "said"),
    [
        (None, True, "CUDA unknown error", True),
        (None, False, "Found no NVIDIA driver on your system", False),
        ("all", False, "Found no NVIDIA driver on your system", False),  # an image of CUDA on a node without a GPU
        ("GPU-3c5ea6f1", False, "Found no NVIDIA driver on your system", True),  # by a device plugin
        ("void", True, "Found no NVIDIA driver on your system", False),
        ("void", True, "The NVIDIA driver on your system is too old", True),  # put in by CDI, which says void
    ],
)
def test_what_tells_that_a_gpu_is_plugged_in(monkeypatch, tmp_path, assigned, files, why, said) -> None:
    plug_in_unusable(monkeypatch, tmp_path, why)
    if assigned is not None:
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", assigned)
    if not files:
        monkeypatch.setattr(gpu, "DEVICE_FILES", str(tmp_path / "none"))
        monkeypatch.setattr(gpu, "DRIVER_FILES", ())
    assert (gpu.unusable() is not None) is said


def test_a_gpu_that_works_is_none_of_these(monkeypatch, tmp_path) -> None:
    plug_in(monkeypatch, tmp_path, "NVIDIA A100", A100)
    assert gpu.unusable() is None
