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
ROPE = {"x": "*bf16", "weight": "*bf16", "cos": "*fp32", "sin": "*fp32", "positions": "*i64", "eps": "fp32"}
ROPE |= {"stride": "i32", "heads": "i32"}
GATE = {"gate_up": "*bf16", "out": "*bf16", "width": "i32"}
GATE_8 = {"gate_up": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "width": "i32"}
EIGHT = {"x": "*bf16", "out": "*fp8e4nv", "scales": "*fp32", "width": "i32"}
BIAS_NORM = dict.fromkeys(("x", "bias", "weight", "shift", "out"), "*bf16") | {"eps": "fp32", "width": "i32"}

CASES = [  # kernel, types, constants (those of the 0.6B and the 8B model), warps; 8-bit floats exist from 8.9 on
    (kernels._rms_norm, NORM, {"BLOCK": 1024, "EIGHT": False}, 4, 80),
    (kernels._rms_norm, NORM, {"BLOCK": 4096, "EIGHT": False}, 8, 90),
    (kernels._rms_norm, NORM_8, {"BLOCK": 4096, "EIGHT": True}, 8, 90),
    (kernels._norm_rope, ROPE, {"HEADS": 16, "HALF": 64}, 4, 80),
    (kernels._norm_rope, ROPE, {"HEADS": 32, "HALF": 64}, 4, 90),
    (kernels._silu_mul, GATE, {"BLOCK": 1024}, 4, 80),
    (kernels._silu_mul, GATE, {"BLOCK": 1024}, 4, 90),
    (kernels._silu_mul_8, GATE_8, {"BLOCK": 16384}, 8, 90),
    (kernels._quantise, EIGHT, {"BLOCK": 4096}, 8, 90),
    # MiniLM's and bert-base's.
    *((_bias_norm, BIAS_NORM, {"BLOCK": 512}, 2, capability) for capability in (80, 89, 90, 100)),
    (_bias_norm, BIAS_NORM, {"BLOCK": 1024}, 4, 90),
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
    print(json.dumps([compile_one(*case) for case in CASES]))
