"""The Triton kernels compile for NVIDIA GPUs: a check that needs no GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_every_kernel_compiles_with_wide_accesses_and_spills_nothing():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.support.compile_kernels"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert {one["kernel"] for one in found} == {"_rms_norm", "_norm_rope", "_silu_mul", "_silu_mul_8", "_quantise"}
    for one in found:
        assert one["widest_access_bits"] == 128, one
        assert one["spilled_bytes"] == 0, one
        assert one["registers"] <= 128, one
