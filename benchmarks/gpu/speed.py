"""How fast: the ceilings of this device, our own paths, and others on the same weights. Each step is one run of
benchmarks.model with sizes that take it a few seconds.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

from benchmarks.gpu.device import apart, device, failures, sampled
from benchmarks.model import ceiling, report, rerank, subjects
from benchmarks.model.ceiling import Ceiling
from benchmarks.model.options import Options
from benchmarks.model.run import run

TOKENS = {"0.6B": 1_000_000, "4B": 300_000, "8B": 200_000, "bert-base": 2_000_000, "minilm": 4_000_000}
PEER_TOKENS = {"0.6B": 500_000, "4B": 120_000, "8B": 80_000}
PEERS = ("st", "st-best", "transformers")
# The ratios of the large ones are far from 1, and a round of theirs is long. Few texts do for the fastest mode of
# sentence-transformers: they are bound by arithmetic from 32 texts on.
FEW_TEXTS = 256
LARGER_BUDGET = 65536
CEILING_SECONDS = {"bfloat16": 4.0, "float8": 2.0}
DRY_TOKENS = 400

_measured: dict[str, Ceiling] = {}


def ceilings(dry: bool) -> dict[str, Any]:
    """Matrix products in bfloat16 and 8 bits; clock, power and throttle reasons through the sustained ones."""
    kinds = CEILING_SECONDS | ({"float32": 0.0} if dry else {})
    found = apart({kind: partial(_ceiling, dry, kind, seconds) for kind, seconds in kinds.items()})
    rates = [f"{kind} {c.burst / 1e12:.4g}, sustained {c.sustained / 1e12:.4g}" for kind, c in _measured.items()]
    states = found["bfloat16"].get("states")
    last = f"; at the end {states[-1]}" if states else ""
    broken = f"; failed: {', '.join(failures(found))}" if failures(found) else ""
    return {"said": f"TFLOP/s in a burst: {'; '.join(rates)}{last}{broken}", **found}


def _ceiling(dry: bool, kind: str, seconds: float) -> dict[str, Any]:
    with sampled(dry) as states:
        _measured[kind] = ceiling.measure(device(dry), kind, 0.05 if dry else seconds, 64 if dry else None)
    return report.ceiling(_measured[kind]) | {"states": states}


def ours(dry: bool, model: str, mix: str, dtype: str) -> dict[str, Any]:
    """Our path alone, of texts that are tokenised."""
    tokens = TOKENS[model] * (2 if mix == "long" else 1)
    return run_here(Options(model, mix, tokens, dtype=dtype, rounds=2, ways=("from_ids",)), dry)


def generic(dry: bool, model: str) -> dict[str, Any]:
    """Through transformers' modules with our packed attention: what a forward pass of our own brings."""
    options = Options(model, tokens=TOKENS[model] // 2, dtype="bfloat16", rounds=2, ways=("from_ids",))
    return run_here(replace(options, path="generic"), dry)


def peers(dry: bool, model: str) -> dict[str, Any]:
    """Ours, from ids and from texts, and the others, in turn."""
    names = PEERS if importlib.util.find_spec("sentence_transformers") else ("transformers",)
    options = Options(model, tokens=PEER_TOKENS[model], dtype="bfloat16", peers=names, rounds=2)
    return run_here(options if model == "0.6B" else replace(options, rounds=1, tried_texts=FEW_TEXTS), dry)


def reranking(dry: bool) -> dict[str, Any]:
    """0.6B as a reranker: each query read once or with every document, and the others' ways."""
    names = ("card", "cross-encoder")
    options = Options("0.6B", tokens=300_000, task="rerank", dtype="bfloat16", rounds=1, peers=names)
    return _short(rerank.run(tiny(options) if dry else options))


def larger_budget(dry: bool) -> dict[str, Any]:
    """0.6B with twice the tokens a micro-batch that it gets where the memory is there."""
    options = Options("0.6B", tokens=TOKENS["0.6B"] // 2, dtype="bfloat16", rounds=1, ways=("from_ids",))
    return run_here(replace(options, token_budget=LARGER_BUDGET), dry)


def run_here(options: Options, dry: bool) -> dict[str, Any]:
    """One run of the benchmark, that goes on where the self-check fails: that is the checks' affair, and recorded."""
    if dry:
        options = tiny(options)
    known = [_measured[kind] for kind in ceiling.kinds(options.dtype) if kind in _measured]
    # Another process may have measured them: then for a second here.
    with mock.patch("actors.embedder.selfcheck.check"):
        found = run(replace(options, ceiling_seconds=0.01 if dry else 1.0), known or None)
    return _short(found)


def _short(found: dict[str, Any]) -> dict[str, Any]:
    """A report without the machine, which one step says for all."""
    return {"said": _said(found), **{name: value for name, value in found.items() if name != "machine"}}


def tiny(options: Options) -> Options:
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
    parts += [f"{name} failed: {error}" for name, error in found.get("failed", {}).items()]
    return "; ".join(parts)
