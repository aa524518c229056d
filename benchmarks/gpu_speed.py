"""How fast: the ceilings of this device, our own paths, and others on the same weights. Each step is one run of
benchmarks.model with sizes that take it a few seconds on an H200.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any
from unittest import mock

from benchmarks import machine
from benchmarks.gpu_kernels import device
from benchmarks.model import ceiling, measure, report, rerank, subjects
from benchmarks.model.ceiling import Ceiling
from benchmarks.model.options import Options
from benchmarks.model.run import run

TOKENS = {"0.6B": 1_000_000, "4B": 300_000, "8B": 200_000, "bert-base": 2_000_000}  # in a few seconds
PEER_TOKENS = {"0.6B": 500_000, "4B": 150_000, "8B": 100_000}
PEERS = ("st", "st-best", "transformers")
DRY_TOKENS = 400
ROWS = 15  # of a profile

_measured: dict[str, Ceiling] = {}


def ceilings(dry: bool) -> dict[str, Any]:
    """Matrix products in bfloat16 and 8 bits; clock and power at the end of the sustained ones."""
    kinds = {"bfloat16": 5.0, "float8": 3.0} | ({"float32": 0.0} if dry else {})
    found: dict[str, Any] = {}
    for kind, seconds in kinds.items():
        try:
            _measured[kind] = ceiling.measure(device(dry), kind, 0.05 if dry else seconds, 64 if dry else None)
        except RuntimeError as error:  # torch 2.11 has no such products of 8 bits on a CPU; the others still count
            found[kind] = {"error": str(error)[:300]}
            continue
        state = None if dry else machine.gpu_state("clocks.sm", "power.draw", "temperature.gpu")
        found[kind] = report.ceiling(_measured[kind]) | {"state": state}
    rates = [f"{kind} {c.burst / 1e12:.4g}, sustained {c.sustained / 1e12:.4g}" for kind, c in _measured.items()]
    return {"said": f"TFLOP/s in a burst: {'; '.join(rates)}", **found}


def ours(dry: bool, model: str, mix: str, dtype: str) -> dict[str, Any]:
    """Our path alone, of texts that are tokenised."""
    tokens = TOKENS[model] * (2 if mix == "long" else 1)
    return _run(Options(model, mix, tokens, dtype=dtype, rounds=2, ways=("from_ids",)), dry)


def generic(dry: bool) -> dict[str, Any]:
    """0.6B through transformers' modules with our packed attention: what the fused forward pass brings."""
    options = Options("0.6B", tokens=TOKENS["0.6B"] // 2, dtype="bfloat16", rounds=2, ways=("from_ids",))
    return _run(replace(options, path="generic"), dry)


def peers(dry: bool, model: str) -> dict[str, Any]:
    """Ours, from ids and from texts, and the others, in turn."""
    names = PEERS if importlib.util.find_spec("sentence_transformers") else ("transformers",)
    return _run(Options(model, tokens=PEER_TOKENS[model], dtype="bfloat16", peers=names, rounds=3), dry)


def reranking(dry: bool) -> dict[str, Any]:
    """0.6B as a reranker: each query read once or with every document, and the others' ways."""
    names = ("card", "cross-encoder")
    options = Options("0.6B", tokens=400_000, task="rerank", dtype="bfloat16", rounds=2, peers=names)
    found = rerank.run(_tiny(options) if dry else options)
    return {"said": _said(found), **found}


def budgets(dry: bool) -> dict[str, Any]:
    """0.6B at several token budgets."""
    found: dict[str, Any] = {}
    for budget in (8192, 16384, 32768, 65536):
        options = Options("0.6B", tokens=500_000, dtype="bfloat16", rounds=2, token_budget=budget, ways=("from_ids",))
        found[str(budget)] = _run(options, dry)["ours"]["from_ids"]["tokens_per_second"]
    return {"said": ", ".join(f"{budget}: {rate:,.0f} tokens/s" for budget, rate in found.items()), "rates": found}


def profile(dry: bool, model: str) -> dict[str, Any]:
    """Which kernels the device's time goes into, for the short mix."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    kinds = [ProfilerActivity.CPU] if dry else [ProfilerActivity.CUDA]
    recorded: list[Any] = []
    timed = measure.timed

    def watched(way: Any, where: str) -> Any:
        with profiler(activities=kinds) as found:
            done = timed(way, where)
        recorded.append(found)
        return done

    options = Options(model, tokens=TOKENS[model] // 4, dtype="bfloat16", rounds=1, ways=("from_ids",))
    with mock.patch.object(measure, "timed", watched):
        result = _run(options, dry)
    name = "self_cpu_time_total" if dry else "self_device_time_total"
    events = sorted(recorded[-1].key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    rows = [
        {"name": event.key[:100], "share": round(getattr(event, name) / total, 4), "calls": event.count}
        for event in events[:ROWS]
    ]
    said = "; ".join(f"{row['share']:.0%} {row['name'][:40]}" for row in rows[:5])
    return {"said": said, "microseconds": total, "rows": rows, "seconds": result["ours"]["from_ids"]["seconds"]}


def _run(options: Options, dry: bool) -> dict[str, Any]:
    """One run of the benchmark, that goes on where the self-check fails: that is the checks' affair, and recorded."""
    if dry:
        options = _tiny(options)
    known = [_measured[kind] for kind in ceiling.kinds(options.dtype) if kind in _measured]
    # Another process may have measured them: then for a second here.
    with mock.patch("actors.embedder.selfcheck.check"):
        found = run(replace(options, ceiling_seconds=0.01 if dry else 1.0), known or None)
    return {"said": _said(found), **found}


def _tiny(options: Options) -> Options:
    """The same on a CPU in a second. Most CPUs only emulate bfloat16."""
    qwen3 = subjects.RANDOM[options.model]["model_type"] == "qwen3"
    return replace(
        options,
        model="tiny" if qwen3 else "minilm",
        dtype=options.dtype if options.dtype == "float8" else "float32",
        tokens=DRY_TOKENS,
        peers=options.peers if options.model == "0.6B" else options.peers[-1:],
        rounds=1,
        token_budget=options.token_budget or 512,
        device="cpu",
        threads=1,
    )


def _said(found: dict[str, Any]) -> str:
    ways = found["ours"] | found["peers"]
    parts = []
    for name, way in ways.items():
        share = next((f" ({way[key]:.0%} of {key[3:]})" for key in way if key.startswith("of_")), "")
        faster = f", ours is {way['ours_is']:.2f}x, {way['agrees']}" if "ours_is" in way else ""
        parts.append(f"{name} {way['tokens_per_second']:,.0f} tokens/s{share}{faster}")
    return "; ".join(parts)
