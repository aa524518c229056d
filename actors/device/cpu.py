"""What this process may use of the machine, and what its processor is good at. Imports no torch: the driver asks too.

Nothing here is timed: the same machine gives the same answers however busy it is.
"""

import functools
import os
from collections.abc import Iterator
from pathlib import Path

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
V1_HAS_NO_LIMIT = 1 << 60  # bytes; without a limit there is a number near 2^63


def cores() -> int:
    """Cores that this process may use: those of its affinity, or fewer by the CPU quota of its container or cgroup
    (v2 and v1, also of a group around it; fractions rounded down). At least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min([allowed, *_quotas()])))


def asked_threads() -> int | None:
    """OMP_NUM_THREADS: the most threads that the user wants a process to compute with; None = not set, or no number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def free_memory() -> int | None:
    """Bytes of memory that this process may still take: what the machine has left, or less by the limit of its
    container or cgroup, of which cached files are no part. None where that cannot be known."""
    found = []
    for line in _lines(PROC / "meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return min([*found, *_left_of_limits()], default=None)


@functools.cache
def bfloat16_is_faster() -> bool:
    """Whether matrix products in bfloat16 are clearly faster here than in float32, by the processor's instructions.

    With amx_bf16 they are (tiles of 16 x 32 at once). avx512_bf16 alone counts on AMD, whose units take twice as many
    products in bfloat16 as in float32 (Zen 5: MiniLM 2.5 times faster); Intel's without AMX were measured at 80 GFLOP/s
    against 140 in float32. Processors without either emulate bfloat16 and can be 100 times slower.
    """
    flags, vendor = _processor()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and vendor == "AuthenticAMD")


def _processor() -> tuple[frozenset[str], str]:
    """The instructions that the kernel lets programs use, and who made the processor; ("", "") if it is no x86."""
    first: dict[str, str] = {}
    for line in _lines(PROC / "cpuinfo"):
        name, colon, value = line.partition(":")
        if not colon and first:  # the next processor
            break
        first[name.strip()] = value.strip()
    return frozenset(first.get("flags", "").split()), first.get("vendor_id", "")


def _quotas() -> Iterator[float]:
    for group in _groups("cpu"):
        v2, v1 = _lines(group / "cpu.max"), _lines(group / "cpu.cfs_quota_us")
        quota, period = v2[0].split() if v2 else ["".join(v1), "".join(_lines(group / "cpu.cfs_period_us"))]
        if quota.isdecimal() and period.isdecimal() and int(period):  # neither "max" nor -1
            yield int(quota) / int(period)


def _left_of_limits() -> Iterator[int]:
    for group in _groups("memory"):
        for most, used, cached in (
            ("memory.max", "memory.current", ("active_file", "inactive_file")),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
        ):
            limit, taken = "".join(_lines(group / most)), "".join(_lines(group / used))
            if limit.isdecimal() and taken.isdecimal() and int(limit) < V1_HAS_NO_LIMIT:
                stat = dict(line.split() for line in _lines(group / "memory.stat"))
                yield max(0, int(limit) - int(taken) + sum(int(stat.get(name, 0)) for name in cached))


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the cgroups that this process is in, and of those around them. A container may see its own as the
    root, and have a path that is not there."""
    for line in _lines(PROC / "self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for name in dict.fromkeys((controllers, controller)) if controllers else ("",):
            root = GROUPS / name
            here = root.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
            yield here
            while here != root:
                here = here.parent
                yield here


def _lines(file: Path) -> list[str]:
    """Of a file; none if it cannot be read."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
