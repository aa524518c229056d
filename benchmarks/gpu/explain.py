"""What explains a gap between what a model reaches and what the device can do: its products, its attention, and its
launches, each alone.

Legend: T tokens, h query heads, g key heads, D head size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch

from actors.embedder.model import EmbedModel
from actors.network import attention
from actors.network.attention import attend_packed
from actors.network.kernels.choose import choose
from actors.network.qwen3_weights import RANDOM_STD, Geometry, Matrix
from actors.weights.recipe import resolve
from benchmarks.gpu.device import apart, device, failures, timed
from benchmarks.gpu.kernels import SHAPES, heads
from benchmarks.gpu.models import ANY, SEED, SHORT, loaded, random_ids, wanted
from benchmarks.model import subjects, texts

TOKENS, TOKENS_DRY = 32768, 64
DTYPES = ("bfloat16", "float8")
LENGTHS, LENGTHS_DRY = (32, 128, 512, 2048, 8192), (4, 16)
QUEUED, QUEUED_DRY = (1024, 4096, 32768), (64, 256)  # tokens of a micro-batch
ROUNDS = 5
AHEAD, AHEAD_SIZE = 24, 8192  # products that keep a device busy for 40 ms, while a micro-batch is queued


def products(dry: bool, model: str) -> dict[str, Any]:
    """TFLOP/s of the products of a layer at 32,768 tokens, in bfloat16 and in 8 bits; of those whose result is added
    to the states also with the addition inside the product, and as a pass of its own."""
    parts = {}
    for name, (rows, width) in _matrices(Geometry.of(subjects.RANDOM["tiny" if dry else model])).items():
        for dtype in DTYPES:
            parts[f"{name} {dtype}"] = partial(_product, dry, (rows, width), dtype, name in ("out", "down"))
    found = apart(parts)
    broken = failures(found)
    said = [
        f"{name} {'/'.join(f'{rate:.4g}' for rate in found[name].values())}" for name in found if name not in broken
    ]
    failed = f"; failed: {', '.join(broken)}" if broken else ""
    said_of = f"TFLOP/s alone, added inside, added apart: {', '.join(said)}{failed}"
    return {"said": said_of, "tokens": TOKENS_DRY if dry else TOKENS, "tflops": found}


def _matrices(g: Geometry) -> dict[str, tuple[int, int]]:
    """Rows and width of each weight of a layer."""
    return {
        "qkv": (g.q_width + 2 * g.kv_width, g.hidden),
        "out": (g.hidden, g.q_width),
        "gate_up": (2 * g.intermediate, g.hidden),
        "down": (g.hidden, g.intermediate),
    }


def _product(dry: bool, shape: tuple[int, int], dtype: str, added: bool) -> dict[str, float]:
    where, tokens = device(dry), TOKENS_DRY if dry else TOKENS
    torch.manual_seed(SEED)
    matrix = Matrix(torch.randn(*shape, device=where, dtype=torch.bfloat16) * RANDOM_STD)
    x: Any = torch.randn(tokens, shape[1], device=where, dtype=torch.bfloat16)
    if dtype == "float8":
        matrix.to_8_bits()
        x = choose(where).quantise(x)
    calls: dict[str, Callable[[], Any]] = {"alone": lambda: matrix.times(x)}
    if added:
        sums = torch.zeros(tokens, shape[0], device=where, dtype=torch.bfloat16)
        if dtype == "bfloat16":
            calls["inside"] = lambda: sums.addmm_(x, matrix.weight.t())
        calls["apart"] = lambda: sums.add_(matrix.times(x))
    flop = 2.0 * tokens * shape[0] * shape[1]
    return {name: flop / timed(call, where, 10) / 1e12 for name, call in calls.items()}


def attention_by_length(dry: bool) -> dict[str, Any]:
    """TFLOP/s of attention alone over 32,768 tokens of texts of one length: of 0.6B, of 4B and 8B, causal; of MiniLM
    and BERT, both ways, up to 512."""
    parts = {}
    for causal, shapes in SHAPES.items():
        for shape in shapes:
            for length in LENGTHS_DRY if dry else LENGTHS:
                if causal or length <= 512:
                    name = f"{shape[0]}/{shape[1]} x {shape[2]} at {length}"
                    parts[name] = partial(_attention_rate, dry, shape, length, causal)
    found = apart(parts)
    said = [f"{name} {rate:.4g}" for name, rate in found.items() if isinstance(rate, float)]
    broken = f"; failed: {', '.join(failures(found))}" if failures(found) else ""
    return {"said": f"TFLOP/s: {', '.join(said)}{broken}", "tflops": found}


def _attention_rate(dry: bool, shape: tuple[int, int, int], length: int, causal: bool) -> float:
    where, tokens = device(dry), TOKENS_DRY if dry else TOKENS
    lengths = np.full(tokens // length, length, dtype=np.int64)
    q, k, v = heads(shape, tokens, where).split([shape[0], shape[1], shape[1]], dim=1)
    packing = attention.pack(lengths, where, True)
    seconds = timed(lambda: attend_packed((q, k, v), packing, causal), where, 10)
    pairs = length * (length + 1) / 2 if causal else length * length
    return 4.0 * shape[0] * shape[2] * pairs * len(lengths) / seconds / 1e12


def queueing(dry: bool, model: str) -> dict[str, Any]:
    """Milliseconds of the host to queue a micro-batch, beside the device's to compute it: where the first is more, the
    device waits."""
    found = {}
    with loaded(wanted(dry, model, "bfloat16"), SHORT.most) as (subject, spec):
        ours = EmbedModel(spec, resolve(spec), subject.network)
        ours.start(ANY)
        for tokens in QUEUED_DRY if dry else QUEUED:
            lengths = texts.lengths(SHORT, tokens, 1, SEED)
            ids = np.concatenate(random_ids(subject, lengths))
            found[str(len(ids))] = _queued(ours, ids, lengths, device(dry))
    said = [f"{tokens} tokens: {ms['host_ms']:.2f} and {ms['device_ms']:.2f} ms" for tokens, ms in found.items()]
    return {"said": f"host and device: {'; '.join(said)}", "milliseconds": found}


def _queued(ours: EmbedModel, ids: np.ndarray, lengths: np.ndarray, where: str) -> dict[str, float]:
    """Medians. The device is kept busy until all is queued, so that its own time holds no waiting for the host."""
    on_cuda = where == "cuda"
    ours.to_host(ours.encode(ids, lengths))
    size = AHEAD_SIZE if on_cuda else 1
    filler = torch.randn(size, size, device=where, dtype=torch.bfloat16)
    host, on_device = [], []
    for _ in range(ROUNDS):
        if on_cuda:
            for _ in range(AHEAD):
                torch.mm(filler, filler)
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
        begin = time.perf_counter()
        pending = ours.encode(ids, lengths)
        host.append(time.perf_counter() - begin)
        if on_cuda:
            events[1].record()
        ours.to_host(pending)
        if on_cuda:
            events[1].synchronize()
        on_device.append(events[0].elapsed_time(events[1]) if on_cuda else host[-1] * 1e3)
    return {"host_ms": median(host) * 1e3, "device_ms": median(on_device)}
