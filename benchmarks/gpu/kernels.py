"""Each of Triton's kernels against the same operation in torch, and the variable-length attention against the
equal-length one: whether the steps after them may use it.

Legend: T tokens, h query heads, g key heads, D head size.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from actors.network import attention as packed_attention
from actors.network.attention import Packing, attend_packed
from actors.network.kernels import plain
from actors.network.kernels.operations import Heads, Quantised, Rotation
from benchmarks.gpu import paths
from benchmarks.gpu.device import apart, device, failures, timed
from benchmarks.gpu.inputs import INPUTS
from benchmarks.gpu.steps import CAUSAL

SEED = 1
TOKENS, TOKENS_DRY = 32768, 64
POSITIONS = 1024
MOST_ERROR = 2e-2  # relative, in bfloat16 and in 8 bits
# Query heads, key heads, size: of 0.6B, of 4B and 8B; of MiniLM, of BERT.
SHAPES = {True: ((16, 8, 128), (32, 8, 128)), False: ((12, 12, 32), (12, 12, 64))}
LENGTHS = (1, 2, 7, 33, 33, 64, 100, 129, 500, 1000)
REACH = 64  # tokens back and ahead that a layer of ModernBERT sees


class Random:
    """Makes arguments of kernels."""

    def __init__(self, dry: bool) -> None:
        self._device, self._tokens = device(dry), TOKENS_DRY if dry else TOKENS
        torch.manual_seed(SEED)

    def rows(self, *shape: int) -> torch.Tensor:
        """Normal, bfloat16 [T, *shape]."""
        return torch.randn(self._tokens, *shape, device=self._device, dtype=torch.bfloat16)

    def heads(self, queries: int, keys: int, size: int) -> Heads:
        """Those of queries and keys, with values beside them as a layer's product gives them."""
        return Heads(self.rows(queries + 2 * keys, size)[:, : queries + keys], queries)

    def weight(self, *shape: int) -> torch.Tensor:
        """Between 0.5 and 1.5, bfloat16."""
        return torch.rand(*shape, device=self._device, dtype=torch.bfloat16) + 0.5

    def rotation(self, size: int) -> Rotation:
        """Of heads of this size, at random positions."""
        angles = torch.rand(POSITIONS, size // 2, device=self._device) * 6.28
        positions = torch.randint(0, POSITIONS, (self._tokens,), device=self._device)
        return Rotation(angles.cos(), angles.sin(), positions)


def kernel(dry: bool, name: str) -> dict[str, Any]:
    """Relative error against torch's, and microseconds of both."""
    ours, inputs = paths.fast(device(dry)), INPUTS[name](Random(dry))
    errors = [
        float((mine - theirs).norm() / theirs.norm())
        for mine, theirs in zip(_written(ours, name, inputs), _written(plain, name, inputs), strict=True)
    ]
    taken = {
        key: timed(partial(getattr(module, name), *inputs), device(dry), 20) * 1e6
        for key, module in {"microseconds": ours, "torch_microseconds": plain}.items()
    }
    worst = float(np.max(errors))  # NaN if one is, unlike max()
    said = f"error {worst:.1e}, {taken['microseconds']:.0f} us, torch's {taken['torch_microseconds']:.0f} us"
    return {
        "said": said,
        "right": worst <= MOST_ERROR,
        "error": worst,
        "module": getattr(ours, "__name__", "plain"),
        **taken,
    }


def _written(module: Any, name: str, inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """What the operation gives and what it leaves in its arguments, float32; on copies, which keep their strides."""
    given = copy.deepcopy(inputs)
    return _tensors((getattr(module, name)(*given), given))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, Quantised):
        return [value.values.float() * value.scale]
    if isinstance(value, torch.Tensor):
        return [value.float()]
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, tuple) else []


def attention(dry: bool, kind: str) -> dict[str, Any]:
    """The variable-length attention against the equal-length one, over sequences of all kinds of lengths."""
    causal = kind == CAUSAL
    lengths = np.array([n for n in LENGTHS if not dry or n < 50], dtype=np.int64)
    ones = np.ones_like(lengths)
    asking = {"all": lengths, "last": ones} if causal else {"all": lengths}
    parts: dict[str, Callable[[], float]] = {}
    for shape in SHAPES[causal]:
        for name, queries in asking.items():
            parts[f"{shape}, {name} ask"] = partial(_attention_error, dry, shape, (queries, lengths), causal)
        if not causal:
            parts[f"{shape}, window"] = partial(_attention_error, dry, shape, (lengths, lengths), causal, REACH)
    found = apart(parts)
    if broken := failures(found):
        raise RuntimeError(f"{', '.join(broken)}: {found[broken[0]]['error']}")
    worst = float(np.max(list(found.values())))
    return {"said": f"error {worst:.1e}", "right": worst <= MOST_ERROR, "errors": found}


def _attention_error(
    dry: bool,
    shape: tuple[int, int, int],
    lengths: tuple[np.ndarray, np.ndarray],
    causal: bool,
    reach: int | None = None,
) -> float:
    """Relative. lengths: of the queries and keys of each sequence."""
    queries, keys = lengths
    mixed = heads(shape, int(keys.sum()), device(dry))
    q, k, v = mixed.split([shape[0], shape[1], shape[1]], dim=1)
    if queries is not keys:
        q = q[torch.from_numpy(np.cumsum(keys) - 1).to(q.device)]
    mine, theirs = (
        attend_packed((q, k, v), packing(dry, queries, keys, varlen), causal, reach).float() for varlen in (True, False)
    )
    return float((mine - theirs).norm() / theirs.norm())


def heads(shape: tuple[int, int, int], tokens: int, where: str) -> torch.Tensor:
    """Queries, keys and values side by side, as a layer's product gives them: bfloat16 [T, h + 2g, D]."""
    torch.manual_seed(SEED)
    return torch.randn(tokens, shape[0] + 2 * shape[1], shape[2], device=where, dtype=torch.bfloat16)


def packing(dry: bool, queries_n: np.ndarray, keys_n: np.ndarray, varlen: bool) -> Packing:
    """For the variable-length attention or the equal-length one, whatever passed."""
    with paths.attention_is(varlen):
        return packed_attention.pack_queries(queries_n, keys_n, None, device(dry), varlen)
