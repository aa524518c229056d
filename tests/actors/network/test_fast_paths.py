"""Which attention a device gets, on devices that are not there, and what a replica says of it."""

import logging

import pytest
import torch

from actors.device import gpu
from actors.network import attention, fast_paths
from actors.network.fast_paths import check_variable_lengths, facts, variable_lengths
from actors.network.kernels import choose as chooser
from actors.network.kernels import plain
from actors.spec import ModelError
from tests.support.devices import plug_in
from tests.support.varlen import varlen_of_torch_2_13

A100, T4 = (8, 0), (7, 5)


@pytest.fixture(autouse=True)
def _nothing_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths, "_TRIED", {})
    monkeypatch.setattr(chooser, "_CHOSEN", {})
    gpu.say_once.cache_clear()


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "by_length"),
    [
        ("cuda", "bfloat16", A100, True),
        ("cuda:1", "float16", A100, True),
        ("cuda", "float8", (8, 9), True),
        ("cuda", "float32", A100, False),
        ("cuda", "float16", T4, False),
        ("cuda", "float16", (7, 0), False),
        ("cpu", "bfloat16", A100, False),
    ],
)
def test_variable_lengths_from_ampere_on(monkeypatch, tmp_path, device, dtype, capability, by_length) -> None:
    plug_in(monkeypatch, tmp_path, "some card", capability, count=2)
    monkeypatch.setattr(fast_paths, "check_variable_lengths", lambda device, dtype: None)
    assert variable_lengths(device, dtype) is by_length
    assert facts(device, dtype)["attention"] == ("variable lengths" if by_length else "equal lengths")


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("USE_FLASH_ATTENTION was not enabled for build."),
        ModelError("torch 2.10 has no variable-length attention"),
        ArithmeticError("it computes wrong numbers"),
    ],
)
def test_a_kernel_that_does_not_work_is_said_once_and_not_used(monkeypatch, tmp_path, caplog, failure) -> None:
    plug_in(monkeypatch, tmp_path, "NVIDIA GH200", (9, 0))

    def failing(device: str, dtype: str) -> None:
        raise failure

    monkeypatch.setattr(fast_paths, "check_variable_lengths", failing)
    with caplog.at_level(logging.WARNING):
        assert variable_lengths("cuda", "bfloat16") is variable_lengths("cuda", "bfloat16") is False
    (record,) = caplog.records
    assert str(failure).rstrip(".") in record.message
    assert facts("cuda", "bfloat16")["slower"] == record.message


def test_what_a_replica_on_an_old_card_says(monkeypatch, tmp_path) -> None:
    plug_in(monkeypatch, tmp_path, "Tesla T4", T4)
    monkeypatch.setitem(chooser._CHOSEN, "cuda", chooser.Choice(plain, "Triton's kernels do not work on ..."))
    found = facts("cuda", "float16")
    assert found.pop("device").startswith("cuda (Tesla T4, compute capability 7.5")
    slower = found.pop("slower")
    assert "has no variable-length attention (it begins at compute capability 8.0)" in slower
    assert "Triton's kernels do not work on ..." in slower
    assert found == {"dtype": "float16", "attention": "equal lengths", "kernels": "torch"}


def test_a_cpu_lacks_nothing() -> None:
    assert facts("cpu", "float32") == {
        "device": f"cpu (torch {torch.__version__})",
        "dtype": "float32",
        "attention": "equal lengths",
    }


def test_the_kernel_is_tried_on_numbers(monkeypatch) -> None:
    monkeypatch.setattr(attention, "varlen_function", lambda: varlen_of_torch_2_13)
    attention._varlen_parameters.cache_clear()
    for dtype in ("float16", "bfloat16", "float8"):
        check_variable_lengths("cpu", dtype)
    monkeypatch.setattr(
        attention, "varlen_function", lambda: lambda *a, **k: torch.zeros_like(varlen_of_torch_2_13(*a, **k))
    )
    with pytest.raises(ArithmeticError, match="wrong numbers"):
        check_variable_lengths("cpu", "bfloat16")
    attention._varlen_parameters.cache_clear()
