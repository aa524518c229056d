"""What can be said of weights without running them."""

import json
import shutil
from pathlib import Path

import pytest

from actors.device import gpu
from actors.doctor import inspection
from actors.network import fast_paths
from actors.network.kernels import choose as chooser
from actors.spec import ModelSpec
from tests.support.devices import plug_in, plug_in_unusable
from tests.support.models import build


def test_the_task_is_read_from_files_and_name(tmp_path: Path) -> None:
    tiny = build(tmp_path / "tiny", "qwen3")
    assert inspection.guess_task("/models/mine", tiny) == "embed"
    assert inspection.guess_task("Qwen/Qwen3-Reranker-0.6B", tiny) == "rerank"
    assert inspection.guess_task("/reranking/embedders/mine", tiny) == "embed"
    folder = Path(shutil.copytree(tiny, tmp_path / "mine"))
    chain = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in ("Transformer", "LogitScore")]
    (folder / "modules.json").write_text(json.dumps(chain))
    assert inspection.guess_task(str(folder), folder) == "rerank"


def works(*arguments: object) -> None:
    pass


def fails(*arguments: object) -> None:
    raise RuntimeError("Failed to find C compiler")


@pytest.mark.parametrize(
    ("capability", "varlen", "triton", "ok", "said"),
    [
        ((8, 0), works, works, True, "attention by variable lengths, triton's kernels, both tried"),
        ((8, 0), works, fails, False, "Triton's kernels do not work on cuda (some card.*Failed to find C compiler"),
        ((8, 0), fails, works, False, "the variable-length attention does not work on"),
        ((7, 5), fails, works, None, "has no variable-length attention (it begins at compute capability 8.0)"),
        ((7, 5), fails, fails, False, "Triton's kernels do not work on"),
    ],
)
def test_fast_paths_are_tried_not_believed(monkeypatch, tmp_path, capability, varlen, triton, ok, said) -> None:
    monkeypatch.setattr(fast_paths, "_TRIED", {})
    monkeypatch.setattr(chooser, "_CHOSEN", {})
    monkeypatch.setattr(fast_paths, "check_variable_lengths", varlen)
    monkeypatch.setattr(chooser, "check", triton)
    plug_in(monkeypatch, tmp_path, "some card", capability)
    (check,) = inspection.device_checks(ModelSpec("bundled"))
    assert (check.name, check.ok) == ("fast paths", ok)
    assert all(part in check.found for part in said.split(".*")), check.found
    assert inspection.device_checks(ModelSpec("bundled", device="cpu")) == []


def test_a_gpu_that_cannot_be_used_is_a_failed_check(monkeypatch, tmp_path) -> None:
    plug_in_unusable(monkeypatch, tmp_path)
    (check,) = inspection.device_checks(ModelSpec("bundled"))
    assert (check.name, check.ok, check.found) == ("GPU", False, gpu.unusable())
    assert inspection.device_checks(ModelSpec("bundled", device="cpu")) == []


def test_a_device_that_has_failed_does_not_end_the_examination(monkeypatch, tmp_path) -> None:
    plug_in(monkeypatch, tmp_path, "some card", (8, 0))
    found = inspection.environment("cuda:7")
    assert (found["driver"], found["free_memory_bytes"], "gpu" in found) == ("535.104.05", None, False)
