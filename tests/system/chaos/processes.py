"""Processes by /proc (Linux): families, states, and an end by pid that cannot hit a stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

Process = tuple[int, str]  # pid and start time: a pid alone may be used again


def descendants(pid: int) -> set[Process]:
    """The process's children, their children, and so on."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (found := _stat(int(name))):
            parents[int(name)] = found
    family: set[Process] = set()
    wave = {pid}
    while wave:
        wave = {child for child, (parent, _, _) in parents.items() if parent in wave}
        family |= {(child, parents[child][1]) for child in wave}
    return family


def titled(pid: int, title: str) -> list[Process]:
    """Descendants whose command line begins with `title` (Ray renames its workers: `ray::...`)."""
    return sorted(one for one in descendants(pid) if _command(one[0]).startswith(title))


def is_alive(process: Process) -> bool:
    found = _stat(process[0])
    return found is not None and found[1] == process[1] and found[2] != "Z"


def kill(process: Process) -> bool:
    """SIGKILL, by pid; False if it was gone. A pid that was given to another process since is left alone."""
    if not is_alive(process):
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(process[0], signal.SIGKILL)
        return True
    return False


def end_leftovers(processes: Iterable[Process]) -> None:
    for process in processes:
        kill(process)


def wait_until_stopped(pid: int, seconds: float) -> bool:
    """Until SIGSTOP has taken hold of it; False if it ended or did not stop in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = _stat(pid)
        if found is None or found[2] == "Z":
            return False
        if found[2] == "T":
            return True
        time.sleep(0.02)
    return False


def _stat(pid: int) -> tuple[int, str, str] | None:
    """Parent, start time, state."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]), fields[19], fields[0]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
