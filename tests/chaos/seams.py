"""Named lines of the program, and a driver that kills or stops its own process at one of them.

python -m chaos.seams SEAM NTH kill|stop JOB.YAML [OPTION ...]
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Iterator

# seam: (owner, function, when). A seam in a stage is hit in the driver's process with the inline engine only.
SEAMS = {
    "after read": ("pipelines.stages", "_read_units", "generator"),
    "after tokenise": ("pipelines.stages.Tokenise", "__call__", "generator"),
    "after write": ("pipelines.stages", "write_rows", "after"),
    "before commit": ("pipelines.lance_table.LanceTable", "commit", "before"),
    "after commit": ("pipelines.lance_table.LanceTable", "commit", "after"),
    "after fence": ("pipelines.lance_table.LanceTable", "take_fence", "after"),
    "after creation": ("pipelines.lance_table.LanceTable", "take_fence", "before"),
}
IN_A_WORKER = ("after read", "after tokenise", "after write")
ONCE = ("after fence", "after creation")  # a run passes these once


def arm(seam: str, nth: int, signal_number: int) -> None:
    """From here on the `nth` time this process passes the seam it sends itself the signal."""
    path, name, when = SEAMS[seam]
    owner = _owner(path)
    real, calls = getattr(owner, name), 0

    def hit() -> None:
        os.kill(os.getpid(), signal_number)

    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if when == "generator":
            return generator(real(*args, **kwargs), calls)
        if when == "before" and calls == nth:
            hit()
        result = real(*args, **kwargs)
        if when == "after" and calls == nth:
            hit()
        return result

    def generator(items: Iterator, call: int) -> Iterator:
        for item in items:
            if call == nth:
                hit()
            yield item

    setattr(owner, name, patched)


def _owner(path: str):
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, cls = path.rpartition(".")
        return getattr(importlib.import_module(module), cls)


def main() -> None:
    seam, nth, what, *arguments = sys.argv[1:]
    arm(seam, int(nth), signal.SIGKILL if what == "kill" else signal.SIGSTOP)
    from pipelines.cli import main as vectormill

    sys.argv = ["vectormill", "embed", *arguments]
    vectormill()


if __name__ == "__main__":
    main()
