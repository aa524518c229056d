"""Where the device's time goes, and how much of it is none of our work: which kernels, and the share of the time in
which any of them runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from unittest import mock

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.gpu import speed
from benchmarks.model import measure
from benchmarks.model.options import Options

ROWS = 20  # of a profile


def profile(dry: bool, model: str) -> dict[str, Any]:
    """The short mix through our path, from ids."""
    kinds = [ProfilerActivity.CPU] if dry else [ProfilerActivity.CUDA]
    recorded: list[Any] = []
    timed = measure.timed

    def watched(way: Any, where: str) -> Any:
        with profiler(activities=kinds) as found:
            done = timed(way, where)
        recorded.append(found)
        return done

    tokens = speed.TOKENS[model] // 4
    options = Options(model, tokens=tokens, dtype="bfloat16", rounds=1, ways=("from_ids",))
    with mock.patch.object(measure, "timed", watched):
        found = speed.run_here(options, dry)["ours"]["from_ids"]
    name = "self_cpu_time_total" if dry else "self_device_time_total"
    events = sorted(recorded[-1].key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events)
    rows = [
        {"name": event.key[:100], "share": round(getattr(event, name) / max(total, 1), 4), "calls": event.count}
        for event in events[:ROWS]
    ]
    where = DeviceType.CPU if dry else DeviceType.CUDA
    spans = [(e.time_range.start, e.time_range.end) for e in recorded[-1].events() if e.device_type == where]
    if not spans:
        return {"said": "the profiler saw nothing of the device", "right": False}
    busy, whole = union(spans), max(end for _, end in spans) - min(begin for begin, _ in spans)
    shares = {"busy_between_first_and_last": round(busy / whole, 4), "busy": round(busy / 1e6 / found["seconds"], 4)}
    said = (
        f"busy {shares['busy']:.1%} of the time, {shares['busy_between_first_and_last']:.1%} from first to last kernel"
    )
    said += "; " + "; ".join(f"{row['share']:.0%} {row['name'][:40]}" for row in rows[:5])
    return {"said": said, **shares, "microseconds": total, "rows": rows, "seconds": found["seconds"]}


def union(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one of them lasts."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
