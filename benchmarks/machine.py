"""What a measurement was made on: printed with every number."""

from __future__ import annotations

import argparse
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("vectormill", "torch", "transformers", "tokenizers", "ray", "pylance", "lancedb", "pyarrow", "numpy")


def facts() -> dict[str, Any]:
    """CPU, cores, load, memory, versions, date. No host name, no path."""
    return {
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),  # what else ran in the minute before
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "date": datetime.now(UTC).date().isoformat(),
    }


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
