"""Compiles every Triton kernel to machine code for NVIDIA GPUs, which needs no GPU; prints one JSON line.

A process of its own: in one that interprets kernels (TRITON_INTERPRET=1) they cannot be compiled.
    .venv/bin/python -m tests.support.compile_kernels
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from actors.network.kernels import triton as kernels
from actors.network.kernels.triton_encoder import _bias_norm

NORM = {"x": "*bf16", "weight": "*bf16", "out": "*bf16", "scales": "*bf16", "eps": "fp32", "width": "i32"}
NORM_8 = {**NORM, "out": "*fp8e4nv", "scales": "*fp32"}
ADD_8 = {"x": "*bf16", "addend": "*bf16", "weight": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "eps": "fp32"}
ADD_8 |= {"width": "i32"}
ROPE = {"x": "*bf16", "weights": "*bf16", "cos": "*fp32", "sin": "*fp32", "positions": "*i64", "eps": "fp32"}
ROPE |= {"stride": "i32", "queries": "i32", "keys": "i32"}
GATE = {"gate_up": "*bf16", "out": "*bf16", "width": "i32"}
GATE_8 = {"gate_up": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "width": "i32"}
EIGHT = {"x": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "width": "i32"}
BIAS_NORM = dict.fromkeys(("x", "bias", "weight", "shift", "out"), "*bf16") | {"eps": "fp32", "width": "i32"}

CAPABILITIES = (75, 80, 86, 89, 90, 100, 120)
CASES = [  # kernel, types, constants (those of the 0.6B and the 8B model), warps, the least capability
    (kernels._rms_norm, NORM, {"BLOCK": 1024, "EIGHT": False}, 4, 75),
    (kernels._rms_norm, NORM, {"BLOCK": 4096, "EIGHT": False}, 8, 75),
    (kernels._rms_norm, NORM_8, {"BLOCK": 4096, "EIGHT": True}, 8, 89),  # 8-bit floats exist from 8.9 on
    (kernels._add_rms_norm_8, ADD_8, {"BLOCK": 1024}, 4, 89),
    (kernels._add_rms_norm_8, ADD_8, {"BLOCK": 4096}, 8, 89),
    (kernels._norm_rope, ROPE, {"QUERIES": 16, "KEYS": 8, "HALF": 64}, 4, 75),
    (kernels._norm_rope, ROPE, {"QUERIES": 32, "KEYS": 8, "HALF": 64}, 4, 75),
    (kernels._norm_rope, ROPE, {"QUERIES": 0, "KEYS": 8, "HALF": 64}, 4, 75),
    (kernels._norm_rope, ROPE, {"QUERIES": 32, "KEYS": 0, "HALF": 64}, 4, 75),
    (kernels._silu_mul, GATE, {"BLOCK": 1024}, 4, 75),
    (kernels._silu_mul_8, GATE_8, {"BLOCK": 16384}, 8, 89),
    (kernels._quantise, EIGHT, {"BLOCK": 4096}, 8, 89),
    (_bias_norm, BIAS_NORM, {"BLOCK": 512}, 2, 75),  # MiniLM's
    (_bias_norm, BIAS_NORM, {"BLOCK": 1024}, 4, 75),  # bert-base's
]


def compile_one(kernel, types, constants, warps, capability) -> dict:
    """What the compiler made of it: widths of its memory accesses in bits, registers, and bytes spilled to memory."""
    signature = types | dict.fromkeys(constants, "constexpr")
    # As at run time, where Triton sees that pointers and widths are multiples of 16.
    even = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind[0] in "*i"}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=even)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": warps})
    accesses = re.findall(r"(?:ld|st)\.global(?:\.[a-z]\w*)*?\.(?:v(\d)\.)?[bf](\d+)", made.asm["ptx"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        command = [str(tool), "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {
        "kernel": kernel.__name__,
        "capability": capability,
        "widest_access_bits": max(int(count or 1) * int(bits) for count, bits in accesses),
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "spilled_bytes": int(re.search(r"LOCAL:(\d+)", usage)[1]) + int(re.search(r"STACK:(\d+)", usage)[1]),
    }


if __name__ == "__main__":
    made = [compile_one(*case, on) for *case, least in CASES for on in CAPABILITIES if on >= least]
    print(json.dumps(made))
