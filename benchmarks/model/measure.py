"""Rounds of runs, and what is made of them.

The ways to do the same work take turns, so that a machine that gets slower or busier meets all of them; what counts is
the median of the rounds, and the median of the ratios within a round.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch


@dataclass
class Done:
    """What one run gave. computed_tokens counts padding too; stages are seconds."""

    vectors: np.ndarray
    computed_tokens: int
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    cpu_seconds: float = 0.0  # of all threads
    peak_memory: int | None = None  # bytes


@dataclass(frozen=True)
class Way:
    """A way to do the work. run() does all of it and waits for the end; warm_up() does a part."""

    name: str
    run: Callable[[], Done]
    warm_up: Callable[[], Any]


def rounds(ways: Sequence[Way], count: int, device: str) -> dict[str, list[Done]]:
    """Every way `count` times, taking turns; every second round in the opposite order.

    Of all but the last round the vectors are dropped.
    """
    for way in ways:
        way.warm_up()
    found: dict[str, list[Done]] = {way.name: [] for way in ways}
    for number in range(count):
        for way in ways if number % 2 == 0 else reversed(ways):
            for earlier in found[way.name]:
                earlier.vectors = np.zeros((0, 0), dtype=np.float32)
            found[way.name].append(timed(way, device))
    return found


def timed(way: Way, device: str) -> Done:
    """One run, by the wall clock; CUDA is waited for before it begins and after it ends only."""
    on_cuda = device.startswith("cuda")
    if on_cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    else:
        _forget_peak()
    begin, cpu = time.perf_counter(), time.process_time()
    done = way.run()
    if on_cuda:
        torch.cuda.synchronize(device)
    done.seconds, done.cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    done.peak_memory = torch.cuda.max_memory_allocated(device) if on_cuda else _peak()
    return done


def ratio(ours: Sequence[Done], other: Sequence[Done]) -> float:
    """How many times faster ours is: the median over the rounds."""
    return median(b.seconds / a.seconds for a, b in zip(ours, other, strict=True))


def cpu_ratio(ours: Sequence[Done], other: Sequence[Done]) -> float:
    """The same in CPU time, which other processes on the machine disturb less; it means something on a CPU only."""
    return median(b.cpu_seconds / a.cpu_seconds for a, b in zip(ours, other, strict=True))


def cosines(left_ND: np.ndarray, right_ND: np.ndarray) -> tuple[float, float]:
    """Least and mean cosine of the rows."""
    left, right = left_ND.astype(np.float64), right_ND.astype(np.float64)
    found = (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    return float(found.min()), float(found.mean())


def middle_stages(runs: Sequence[Done]) -> dict[str, float]:
    """The median of each stage's seconds."""
    return {name: round(median(run.stages[name] for run in runs), 4) for name in runs[0].stages}


def _forget_peak() -> None:
    """Lets the process's peak begin anew (Linux; where it is not allowed the peak is that since the start)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None
