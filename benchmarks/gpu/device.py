"""The device itself: what it is and what is around it, how a call is timed on it, and what its failure looks like."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from actors.device.allocator import SETTINGS
from actors.network.kernels.choose import choose
from benchmarks import machine as hardware

SAMPLE_SECONDS = 0.5
# The second is what drivers before 535 call the first.
REASONS = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")


def device(dry: bool) -> str:
    return "cpu" if dry else "cuda"


def machine(dry: bool) -> dict[str, Any]:
    """Hardware, versions, what Triton needs of the system, and the rate at which memory is copied."""
    where = device(dry)
    size = 1 << (24 if dry else 32)
    source = torch.full((size,), 7, dtype=torch.uint8, device=where)
    rate = round(2 * size / timed(lambda: source.clone(), where, 3) / 1e9, 1)
    found = hardware.facts(where) | {"copy_gb_per_second": rate, "torch_cuda": torch.version.cuda, **around()}
    if not dry:
        found |= gpu()
    said = f"{found.get('gpu') or found['cpu']}, torch {torch.__version__}, copies {rate} GB/s"
    if not dry:
        said += f", capability {found['capability']}, driver {found['driver']}, MIG {found['mig']}"
    return {"said": f"{said}, C compiler {found['compiler'] or 'none'}, kernels of {found['kernels']}", **found}


def around() -> dict[str, Any]:
    """What the kernels need around them, and what this torch has."""
    compiler = shutil.which(os.environ.get("CC") or "gcc") or shutil.which("cc") or shutil.which("clang")
    headers = Path(sysconfig.get_paths()["include"]) / "Python.h"
    cache = Path(os.environ.get("TRITON_CACHE_DIR") or Path.home() / ".triton")
    kept = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "compiler": _first_line([compiler, "--version"]) if compiler else None,
        "python_headers": headers.exists(),
        "triton_cache_writable": os.access(kept, os.W_OK),
        "kernels": getattr(choose(device(not torch.cuda.is_available())), "__name__", "mixed"),
        "varlen_parameters": _varlen_parameters(),
        "scaled_mm": hasattr(torch, "_scaled_mm"),
        "flash_attn": [name for name in ("flash_attn", "flash_attn_interface") if importlib.util.find_spec(name)],
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def gpu() -> dict[str, Any]:
    """What torch and nvidia-smi say of the GPU that this process sees."""
    major, minor = torch.cuda.get_device_capability()
    return {
        "capability": f"{major}.{minor}",
        "mig": hardware.gpu_state("mig.mode.current"),
        "power_and_clock_limits": hardware.gpu_state("power.limit", "clocks.max.sm", "clocks.max.memory"),
        "throttled_at_start": throttled(),
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        "visible": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "allocator": os.environ.get(SETTINGS),
    }


def throttled() -> str | None:
    """The bits of why the clock is lowered now; 0x4 is the power limit."""
    return next((found for name in REASONS if (found := hardware.gpu_state(name))), None)


@contextmanager
def sampled(dry: bool) -> Iterator[list[str]]:
    """Clock, power, temperature and throttle reasons, every half second while it is open."""
    found: list[str] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            state = hardware.gpu_state("clocks.sm", "power.draw", "temperature.gpu")
            found.append(f"{state}, {throttled()}")

    thread = threading.Thread(target=sample, daemon=True)
    if not dry:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        if not dry:
            thread.join()


def timed(call: Callable[[], Any], where: str, times: int) -> float:
    """Seconds of one call, after a first one."""
    wait = torch.cuda.synchronize if where == "cuda" else (lambda: None)
    call()
    wait()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - begin) / times


class PartlyDone(Exception):
    """The device failed; `found` is what was found before."""

    def __init__(self, message: str, found: dict[str, Any]) -> None:
        super().__init__(message)
        self.found = found


def apart(parts: Mapping[str, Callable[[], Any]]) -> dict[str, Any]:
    """What each part gives, {"error": ...} where it raises. Raises PartlyDone when the device can do nothing more."""
    found: dict[str, Any] = {}
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # whatever it was, it must not cost the other numbers
            found[name] = {"error": f"{type(error).__name__}: {error}"[:500]}
            if is_poisoned(error):
                raise PartlyDone(f"{name}: {error}", found) from error
    return found


def failures(found: Mapping[str, Any]) -> list[str]:
    """The parts that raised."""
    return [name for name, gave in found.items() if isinstance(gave, dict) and "error" in gave]


def is_poisoned(error: BaseException) -> bool:
    """Whether every further call to the device fails in this process: it is tried, where there is one."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if not torch.cuda.is_available():
        return "CUDA error" in str(error)
    try:
        torch.ones(1, device="cuda").item()
    except torch.OutOfMemoryError:  # what raised may still be held
        return False
    except RuntimeError:
        return True
    return False


def _varlen_parameters() -> list[str] | None:
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn

        return list(inspect.signature(varlen_attn).parameters)
    return None


def _first_line(command: list[str]) -> str | None:
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    return None
