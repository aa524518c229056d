"""What a measurement was made on, and the one form of a result, a JSON line:

{"benchmark": its name, "settings": what it was asked for, "machine": `facts`, ... what was measured}
"""

from __future__ import annotations

import argparse
import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actors.device import cpu

PACKAGES = (
    *("vectormill", "ray", "pylance", "lancedb", "pyarrow", "numpy", "torch", "triton", "transformers"),
    *("sentence-transformers", "tokenizers", "fastokens", "flash-attn"),
)
NO_SETTINGS = ("folder", "one_run", "ask", "search", "texts")  # paths, and what a script asks of its own processes


def result(benchmark: str, settings: Mapping[str, Any], machine: Mapping[str, Any], **measured: Any) -> dict[str, Any]:
    """A result in the one form. machine: `facts`, taken before anything was measured."""
    shown = {name: value for name, value in settings.items() if name not in NO_SETTINGS}
    return {"benchmark": benchmark, "settings": shown, "machine": dict(machine), **measured}


def facts(device: str = "cpu") -> dict[str, Any]:
    """Date, CPU, cores, load, memory, versions, and what GPU a CUDA device is. No host name, no path."""
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cpu.cores(),
        "load_before": round(os.getloadavg()[0], 2),  # what else ran in the minute before
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }
    return found | (_gpu(device) if device.startswith("cuda") else {})


def _gpu(device: str) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(device)
    return {
        "gpu": properties.name,
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "cuda": torch.version.cuda,
        "driver": gpu_state("driver_version"),
    }


def gpu_state(*fields: str) -> str | None:
    """What nvidia-smi says now of the GPU that this process sees first: "driver_version", "clocks.sm", "power.draw" ...

    None without it, and for a field that it does not know."""
    for which in (*_uuids(), None):  # a slice of a GPU may have a name of its own: then it must be the only one
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        command += [f"--id={which}"] if which else []
        with suppress(OSError, subprocess.SubprocessError):
            said = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
            if "\n" not in said:
                return said
    return None


@functools.cache
def _uuids() -> tuple[str, ...]:
    """The name of the first GPU that torch sees here, which need not be the node's first."""
    import torch

    if not torch.cuda.is_available():
        return ()
    found = str(getattr(torch.cuda.get_device_properties(0), "uuid", ""))
    return (found if found.startswith(("GPU-", "MIG-")) else f"GPU-{found}",) if found else ()


def memory_mb(field: str = "VmHWM") -> float:
    """This process's memory in MB: VmHWM is the peak since its start, VmRSS what it holds now.

    Not getrusage: its ru_maxrss starts at what the parent held when it forked."""
    return round(int(_field("/proc/self/status", field).split()[0]) / 1024, 1)


def cpu_seconds_of_tree() -> float:
    """CPU seconds, user and system, of this process, of all its descendants, and of those that they waited for."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        parents[int(folder.name)] = int(fields[1])
        ticks[int(folder.name)] = sum(int(field) for field in fields[11:15])
    ours = {os.getpid()}
    while more := {process for process, parent in parents.items() if parent in ours and process not in ours}:
        ours |= more
    return round(sum(ticks.get(process, 0) for process in ours) / os.sysconf("SC_CLK_TCK"), 2)


def parser(description: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def _field(file: str, name: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
