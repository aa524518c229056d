"""What was measured, on what, in words and numbers."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.model.ceiling import Ceiling
from benchmarks.model.flops import Shape
from benchmarks.model.measure import Done, middle_stages


def result(
    runs: Sequence[Done], lengths_N: np.ndarray, shape: Shape | None, ceilings: Sequence[Ceiling], price: float | None
) -> dict[str, Any]:
    """The numbers of one way. seconds: the median of the rounds; utilisation: of the first ceiling's rates."""
    seconds = median(run.seconds for run in runs)
    tokens = int(lengths_N.sum())
    rate = tokens / seconds
    found: dict[str, Any] = {
        "tokens_per_second": round(rate, 1),
        "documents_per_second": round(len(lengths_N) / seconds, 1),
        "padding_efficiency": round(tokens / runs[-1].computed_tokens, 4),
        "seconds": round(seconds, 4),
        "seconds_of_rounds": [round(run.seconds, 4) for run in runs],
        "cores_used": round(median(run.cpu_seconds / run.seconds for run in runs), 2),
        "stages": middle_stages(runs),
        "peak_memory_gb": None if runs[-1].peak_memory is None else round(runs[-1].peak_memory / 1e9, 3),
    }
    if shape is not None:
        found |= utilisation(shape.useful(lengths_N) / seconds, ceilings)
    if price is not None:
        found["cost_per_1e9_tokens"] = round(price / (rate * 3600) * 1e9, 3)
    return found


def utilisation(flops: float, ceilings: Sequence[Ceiling]) -> dict[str, float]:
    """Useful TFLOP/s, and its share of each ceiling."""
    found = {"useful_tflops": round(flops / 1e12, 4)}
    for ceiling in ceilings:
        found[f"of_{ceiling.dtype}_burst"] = round(flops / ceiling.burst, 4)
        found[f"of_{ceiling.dtype}_sustained"] = round(flops / ceiling.sustained, 4)
    return found


def table(report: dict[str, Any]) -> str:
    """For people; the JSON line is for machines."""
    s, work, m = report["settings"], report["work"], report["machine"]
    lines = [
        f"{report['model']} ({report['weights']} weights), {s['dtype']} on {m.get('gpu') or m['cpu']}, "
        f"{s['device']}, token budget {s['token_budget']:,}, {s['rounds']} rounds, load before {m['load_before']}",
        f"{work['documents']:,} texts, {work['tokens']:,} tokens, mean {work['mean']}, most {work['most']} "
        f"(mix {work['mix']!r}, {work['words']})",
        "",
        f"{'':34} {'tokens/s':>11} {'texts/s':>9} {'real/run':>10} {'burst':>6} {'sust.':>6} {'GB':>7}  ours is",
    ]
    rows = {f"ours, {name.replace('_', ' ')}": found for name, found in report["ours"].items()} | report["peers"]
    lines += [_row(name, found) for name, found in rows.items()]
    lines += [f"{name}: does not run here, {error}" for name, error in report.get("failed", {}).items()]
    lines.append("")
    lines += [_ceiling(c) for c in report["ceilings"]]
    for name, found in report["ours"].items():
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in found["stages"].items())
        lines.append(f"seconds of {found['seconds']:.2f}, {name.replace('_', ' ')}: {stages}")
    if words := report["tokenising"]:
        lines.append(f"tokenising: {words['tokens_per_second_and_core']:,.0f} tokens/s and core ({words['what']})")
    for name, found in rows.items():
        if "cost_per_1e9_tokens" in found:
            lines.append(f"cost of 10^9 tokens, {name}: {found['cost_per_1e9_tokens']:,.2f}")
    return "\n".join(lines)


def _row(name: str, found: dict[str, Any]) -> str:
    shares = [found.get(key) for key in _first_shares(found)]
    shown = " ".join(f"{share:6.1%}" if share is not None else f"{'-':>6}" for share in shares)
    memory = f"{found['peak_memory_gb']:7.2f}" if found["peak_memory_gb"] is not None else f"{'-':>7}"
    faster = f"{found['ours_is']:.2f}x, {found['agrees']}" if "ours_is" in found else ""
    rates = f"{found['tokens_per_second']:11,.0f} {found['documents_per_second']:9,.1f}"
    return f"{name:34.34} {rates} {found['padding_efficiency']:10.1%} {shown} {memory}  {faster}"


def _first_shares(found: dict[str, Any]) -> list[str]:
    shares = [key for key in found if key.startswith("of_")][:2]
    return shares + [""] * (2 - len(shares))


def _ceiling(found: dict[str, Any]) -> str:
    burst, sustained = found["burst_tflops"], found["sustained_tflops"]
    return (
        f"matrix products of {found['size']}, {found['dtype']}: {burst:,.3f} TFLOP/s in a burst, {sustained:,.3f} over "
        f"{found['seconds']} s"
    )


def ceiling(found: Ceiling) -> dict[str, Any]:
    """For the JSON line."""
    return {
        "dtype": found.dtype,
        "size": found.size,
        "burst_tflops": round(found.burst / 1e12, 4),
        "sustained_tflops": round(found.sustained / 1e12, 4),
        "seconds": found.sustained_seconds,
    }


def settings(token_budget: int) -> dict[str, int]:
    """What was found out for the run."""
    return {"token_budget": token_budget, "threads": torch.get_num_threads()}
