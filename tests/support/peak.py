"""The most memory that a function takes, in a process of its own."""

import multiprocessing
from pathlib import Path


def peak_mib(function, *args):
    """MiB by which the process grew over what it had when `function`, of a module, was called."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (function, args))


def _measured(function, args):
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = _kib("VmRSS")
    function(*args)
    return (_kib("VmHWM") - before) >> 10


def _kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
