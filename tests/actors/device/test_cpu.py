"""What a process may use of its machine, and whether that machine's CPU is made for bfloat16."""

import os
import time

import pytest
import torch

from actors.device import cpu
from actors.device.device import prepare
from actors.spec import ModelSpec

decide = cpu.bfloat16_is_faster.__wrapped__  # without its cache, as it is before a fixture replaces it


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose files are those that are written with it."""
    monkeypatch.setattr(cpu, "PROC", tmp_path / "proc")
    monkeypatch.setattr(cpu, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return lambda files: write(**files)


# ----------------------------------------------------------------- cores


def test_cores_are_those_of_the_affinity(machine, monkeypatch):
    assert cpu.cores() == 16
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5})
    assert cpu.cores() == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/\n", "groups/cpu.max": "400000 100000\n"}, 4),
        ({"proc/self/cgroup": "0::/\n", "groups/cpu.max": "350000 100000\n"}, 3),
        ({"proc/self/cgroup": "0::/\n", "groups/cpu.max": "50000 100000\n"}, 1),
        ({"proc/self/cgroup": "0::/\n", "groups/cpu.max": "max 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/\n", "groups/cpu.max": "6400000 100000\n"}, 16),
        ({"proc/self/cgroup": "0::/a.slice/b.scope\n", "groups/a.slice/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/../../not/there\n", "groups/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/\n",
          "groups/cpu,cpuacct/cpu.cfs_quota_us": "300000\n", "groups/cpu,cpuacct/cpu.cfs_period_us": "100000\n"}, 3),
        ({"proc/self/cgroup": "4:cpuacct,cpu:/docker/x\n",
          "groups/cpu/docker/x/cpu.cfs_quota_us": "300000\n", "groups/cpu/docker/x/cpu.cfs_period_us": "100000\n"}, 3),
        ({"proc/self/cgroup": "1:cpu:/\n", "groups/cpu/cpu.cfs_quota_us": "-1\n",
          "groups/cpu/cpu.cfs_period_us": "100000\n"}, 16),
    ],
)  # fmt: skip
def test_cores_within_the_quota(machine, files, cores):
    """v2, also of a group around ours and as a container sees it; v1, by either name; none."""
    machine(files)
    assert cpu.cores() == cores


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("4,2", 4), ("", None), ("many", None), ("0", None)])
def test_what_the_user_asked_for(monkeypatch, said, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cpu.asked_threads() == threads


def test_a_model_computes_with_no_more_threads_than_it_has_cores(monkeypatch):
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(cpu, "cores", lambda: 4)
    for threads in (None, 2, 9):
        prepare(ModelSpec("bundled", device="cpu", threads=threads))
    assert set_to == [4, 2, 4]


# ----------------------------------------------------------------- memory


def test_memory_that_is_free(machine):
    machine({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n", "proc/self/cgroup": "0::/\n"})
    assert cpu.free_memory() == 8000 * 1024
    stat = "anon 5\ninactive_file 300\nactive_file 100\n"
    machine({"groups/memory.max": "1000\n", "groups/memory.current": "900\n", "groups/memory.stat": stat})
    assert cpu.free_memory() == 500, "the files that it has read are no part of what is taken"
    machine({"proc/self/cgroup": "3:memory:/x\n", "groups/memory/memory.limit_in_bytes": "700\n"})
    machine({"groups/memory/memory.usage_in_bytes": "600\n"})
    assert cpu.free_memory() == 100
    machine({"groups/memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert cpu.free_memory() == 8000 * 1024


def test_memory_that_nobody_tells(machine):
    assert cpu.free_memory() is None


# ----------------------------------------------------------------- bfloat16


AMX, AVX512_BF16, AVX2 = "fpu amx_tile amx_bf16 avx512_bf16", "fpu avx512f avx512_bf16", "fpu avx2"


@pytest.mark.parametrize(
    ("vendor", "flags", "faster"),
    [
        ("GenuineIntel", AMX, True),
        ("AuthenticAMD", AVX512_BF16, True),
        ("GenuineIntel", AVX512_BF16, False),
        ("AuthenticAMD", AVX2, False),
        ("GenuineIntel", AVX2, False),
    ],
)
def test_bfloat16_by_the_processors_instructions(machine, monkeypatch, vendor, flags, faster):
    one = f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\n"
    machine({"proc/cpuinfo": one + "processor\t: 1\nvendor_id\t: X\nflags\t\t: amx_bf16\n"})
    for clock in ("perf_counter", "monotonic", "process_time", "time"):
        monkeypatch.setattr(time, clock, lambda: pytest.fail("decided by a race"))
    assert decide() is faster


def test_a_processor_that_says_nothing_of_it_computes_in_float32(machine):
    assert decide() is False
    machine({"proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd bf16\n"})
    assert decide() is False
