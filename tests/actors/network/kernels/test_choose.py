"""Which kernels a device gets: Triton's only if one of them ran there."""

import logging
import subprocess
import sys
from types import ModuleType

import pytest
import torch
from triton.compiler.errors import CompilationError

from actors.device import gpu
from actors.network.kernels import choose as chooser
from actors.network.kernels import plain
from actors.network.kernels.choose import check, choose, chosen
from actors.network.kernels.operations import Kernels

FAILURES = [
    RuntimeError("Failed to find C compiler. Please specify via CC environment variable"),
    AssertionError("libcuda.so cannot found!\nPossible files are located at"),
    subprocess.CalledProcessError(1, ["/usr/bin/gcc", "/some/folder/tmpx1/main.c", "-I/usr/include/python3.11"]),
    PermissionError(13, "Permission denied", "/.triton"),
    OSError(28, "No space left on device"),
    ImportError("libtriton.so: undefined symbol"),
    CompilationError(None, None, "type fp8e4nv not supported in this architecture"),
    NotImplementedError("no such target"),
    ArithmeticError("a tiny kernel computes wrong numbers"),
]


@pytest.fixture(autouse=True)
def _nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chooser, "_CHOSEN", {})
    gpu.say_once.cache_clear()


def test_a_cpu_gets_torch() -> None:
    assert chosen("cpu") is None
    assert choose("cpu") is plain
    assert chosen("cpu") == (plain, None)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_gets_triton_where_it_works(triton_kernels, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(chooser, "check", lambda kernels, device: tried.append((kernels, device)))
    assert choose(device) is choose(device) is triton_kernels
    assert tried == [(triton_kernels, device)], "once a device"
    assert chosen(device) == (triton_kernels, None)


def test_without_triton_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("actors.network.kernels.triton", raising=False)
    monkeypatch.setitem(sys.modules, "actors.network.kernels.triton", None)
    assert choose("cuda") is plain


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_triton_that_cannot_compile_is_said_once_and_torch_computes(
    triton_kernels, monkeypatch: pytest.MonkeyPatch, caplog, failure: Exception
) -> None:
    def failing(*arguments: object) -> None:
        raise failure

    monkeypatch.setattr(chooser, "check", failing)
    with caplog.at_level(logging.WARNING):
        assert choose("cuda") is choose("cuda") is plain
    (record,) = caplog.records
    found = chosen("cuda")
    assert found is not None
    assert record.message == found.slower
    assert type(failure).__name__ in record.message
    assert "a C compiler (gcc), Python's headers, the driver's libcuda.so, and a TRITON_CACHE_DIR" in record.message
    assert "tmpx1" not in record.message, "the same words from every replica"


def test_the_tiny_kernel_is_triton_s_and_its_numbers_count(triton_kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    check(triton_kernels, "cpu")

    class NoCompiler:
        def __getitem__(self, grid: object) -> None:
            raise FAILURES[0]

    monkeypatch.setattr(triton_kernels, "_rms_norm", NoCompiler())
    with pytest.raises(RuntimeError, match="Failed to find C compiler"):
        check(triton_kernels, "cpu")
    wrong = ModuleType("wrong")
    wrong.rms_norm = lambda x, weight, eps: torch.zeros_like(x)
    with pytest.raises(ArithmeticError, match="wrong numbers"):
        check(wrong, "cpu")


def test_both_have_every_operation(triton_kernels) -> None:
    names = [name for name in vars(Kernels) if not name.startswith("_")]
    assert {"rms_norm", "add_rms_norm_8", "norm_rope_"} <= set(names)
    for name in names:
        assert callable(getattr(plain, name))
        assert callable(getattr(triton_kernels, name))
