"""Which kernels and which attention the steps use: Triton's and the variable-length one where their checks passed, and
torch's and the equal-length one where not.

`install` puts a choice in front of the model layer's own, in the worker alone; `take` makes it, by the records. A dry
run has no Triton and no variable-length attention: torch's kernels and the equal-length attention stand in for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from actors.network import attention
from actors.network.kernels import choose, plain
from benchmarks.gpu import faults, records
from benchmarks.gpu.inputs import INPUTS
from benchmarks.gpu.steps import Asked

USES_THE_CHOICE = "actors.network.qwen3"


@dataclass(frozen=True)
class Paths:
    """torch_kernels: those of Triton that did not pass. varlen: whether the variable-length attention may be used."""

    torch_kernels: frozenset[str] = frozenset()
    varlen: bool = True


_now = Paths()
_faults = False


class Mixed:
    """The operations by a fast module, but for those that did not pass."""

    def __init__(self, fast: Any) -> None:
        self._fast = fast

    def __getattr__(self, name: str) -> Any:
        return getattr(plain if name in _now.torch_kernels else self._fast, name)


def fast(device: str) -> Any:
    """The module to check: Triton's, on a CPU torch's. Raises ImportError without Triton."""
    if device.startswith("cuda"):
        from actors.network.kernels import triton

        return triton
    return faults.Broken(plain) if _faults else plain


def install(asked: Asked) -> None:
    """To be called once, before what uses them is imported."""
    global _faults
    assert USES_THE_CHOICE not in sys.modules, "it has taken its kernels already"
    _faults = asked.faults
    choice, pack_queries = choose.choose, attention.pack_queries

    def chosen(device: str) -> Any:
        found = faults.Broken(choice(device)) if _faults else choice(device)
        return Mixed(found) if _now.torch_kernels else found

    def packed(
        queries_n: np.ndarray, keys_n: np.ndarray, key_rows: np.ndarray | None, device: str, varlen: bool
    ) -> attention.Packing:
        return pack_queries(queries_n, keys_n, key_rows, device, (varlen or asked.dry) and _now.varlen)

    mock.patch.object(choose, "choose", chosen).start()
    mock.patch.object(attention, "pack_queries", packed).start()
    if asked.dry:
        mock.patch.object(attention, "_varlen", _varlen_on_a_cpu).start()


def take(found: Sequence[dict[str, Any]], needs: str) -> None:
    """Chooses by the records so far. needs: the check of attention that a step hangs on."""
    global _now
    passed = {record["step"]: records.passed(record) for record in records.finished(found)}
    failed = frozenset(name for name in INPUTS if not passed.get(f"kernel {name}", True))
    _now = Paths(failed, passed.get(f"attention {needs}", True))


@contextmanager
def attention_is(varlen: bool) -> Iterator[None]:
    """The variable-length attention or the equal-length one, whatever passed: for their comparison."""
    global _now
    before, _now = _now, Paths(_now.torch_kernels, varlen)
    try:
        yield
    finally:
        _now = before


def words() -> dict[str, Any]:
    """For a record: what its step was measured with. instead: what is not as it would be in a job, empty if all is."""
    kernels = [f"torch's {name}" for name in INPUTS if name in _now.torch_kernels]
    instead = [*kernels, *([] if _now.varlen else ["equal-length attention"])]
    return {"torch_kernels": sorted(_now.torch_kernels), "varlen": _now.varlen, "instead": instead}


def _varlen_on_a_cpu(
    qkv: tuple[Any, ...], packing: attention.Packing, causal: bool, reach: int | None, scale: float | None
) -> Any:
    """What torch's variable-length kernel computes, which no CPU has."""
    if _faults and causal:
        faults.broken()
    queries_n, keys_n = (np.diff(ends.numpy()).astype(np.int64) for ends in (packing.cu_queries, packing.cu_keys))
    with attention_is(varlen=False):
        runs = attention.pack_queries(queries_n, keys_n, None, "cpu", False)
    return attention._by_equal_lengths(qkv, runs, causal, reach, scale)
