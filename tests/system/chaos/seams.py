"""Named lines of the program, and a driver that kills or stops its own process, or meets an error, at one of them.

python -m tests.system.chaos.seams SEAM NTH kill|stop|fail JOB.YAML [OPTION ...]
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

from tests.system.chaos.embed import embed

# seam: (owner, function, when). Those in a stage are passed by the driver's own process with the inline engine only.
SEAMS = {
    "in mid-read": ("pipelines.corpus.corpus.Corpus", "read", "generator"),
    "after read": ("pipelines.tasks.read", "_read_units", "generator"),
    "after tokenise": ("pipelines.tasks.embed.Tokenise", "__call__", "after"),
    "before write": ("pipelines.table.sink", "write_rows", "before"),
    "in mid-write": ("pipelines.table.files.LanceFileWriter", "close", "before"),
    "after write": ("pipelines.table.sink", "write_rows", "after"),
    "before commit": ("pipelines.table.fence.Fence", "commit", "before"),
    "between commit and look": ("pipelines.table.fence", "check_landed", "before"),
    "after commit": ("pipelines.table.fence.Fence", "commit", "after"),
    "after fence": ("pipelines.table.table.LanceTable", "take_fence", "after"),
    "after creation": ("pipelines.table.table.LanceTable", "take_fence", "before"),
}
IN_A_STAGE = ("in mid-read", "after read", "after tokenise", "before write", "in mid-write", "after write")
MAY_FAIL = ("in mid-read", "before write", "in mid-write")  # where an error of the disk or store is tried again
ONCE = ("after fence", "after creation")  # a run passes these once
INJECTED = "an injected I/O error: connection reset"  # a kind that is tried again
_stderr = os.dup(2)  # a run sends what the engine writes to stderr elsewhere


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _fail() -> None:
    os.write(_stderr, f"{INJECTED}\n".encode())
    raise OSError(INJECTED)


ACTIONS = {"kill": _kill, "stop": _stop, "fail": _fail}


def arm(seam: str, nth: int, act: Callable[[], None]) -> None:
    """From here on `act` happens the `nth` time this process passes the seam."""
    path, name, when = SEAMS[seam]
    owner = _owner(path)
    real, calls = getattr(owner, name), 0

    def patched(*args, **kwargs):
        nonlocal calls
        calls += 1
        if when == "generator":
            return generator(real(*args, **kwargs), calls)
        if when == "before" and calls == nth:
            act()
        result = real(*args, **kwargs)
        if when == "after" and calls == nth:
            act()
        return result

    def generator(items: Iterator, call: int) -> Iterator:
        for item in items:
            if call == nth:
                act()
            yield item

    setattr(owner, name, patched)


def _owner(path: str):
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, cls = path.rpartition(".")
        return getattr(importlib.import_module(module), cls)


def main() -> None:
    seam, nth, action, *arguments = sys.argv[1:]
    arm(seam, int(nth), ACTIONS[action])
    embed(arguments)


if __name__ == "__main__":
    main()
