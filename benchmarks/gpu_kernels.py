"""What is below the model on this device: the memory's rate, and Triton's kernels against torch's."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from actors.network.kernels import plain
from actors.network.kernels.choose import choose
from actors.network.kernels.operations import Heads, Kernels, Quantised, Rotation
from benchmarks import machine as hardware

SEED = 1


def device(dry: bool) -> str:
    return "cpu" if dry else "cuda"


def machine(dry: bool) -> dict[str, Any]:
    """Hardware, versions, and the rate at which memory is copied."""
    size = 1 << (24 if dry else 32)
    source = torch.full((size,), 7, dtype=torch.uint8, device=device(dry))
    seconds = timed(lambda: source.clone(), device(dry), 3)
    found = hardware.facts(device(dry)) | {"copy_gb_per_second": round(2 * size / seconds / 1e9, 1)}
    what = f"{found.get('gpu') or found['cpu']}, torch {torch.__version__}"
    return {"said": f"{what}, copies {found['copy_gb_per_second']} GB/s", **found}


def timed(call: Callable[[], Any], where: str, times: int) -> float:
    """Seconds of one call, after a first one."""
    wait = torch.cuda.synchronize if where == "cuda" else (lambda: None)
    call()
    wait()
    begin = time.perf_counter()
    for _ in range(times):
        call()
    wait()
    return (time.perf_counter() - begin) / times


def inputs_of(dry: bool) -> dict[str, tuple[Any, ...]]:
    """Arguments of every operation, of the sizes of 0.6B."""
    where, tokens = device(dry), 64 if dry else 16384
    torch.manual_seed(SEED)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=where, dtype=torch.bfloat16)

    angles = torch.rand(1024, 64, device=where) * 6.28
    rotation = Rotation(angles.cos(), angles.sin(), torch.randint(0, 1024, (tokens,), device=where))
    weight = torch.rand(1024, device=where, dtype=torch.bfloat16) + 0.5
    return {
        "rms_norm": (normal(tokens, 1024), weight, 1e-6),
        "rms_norm_8": (normal(tokens, 1024), weight, 1e-6),
        "add_rms_norm_8": (normal(tokens, 1024), normal(tokens, 1024), weight, 1e-6),
        "norm_rope_": (Heads(normal(tokens, 32, 128)[:, :24], queries=16), weight[:256].view(2, 128), 1e-6, rotation),
        "silu_mul": (normal(tokens, 6144),),
        "silu_mul_8": (normal(tokens, 6144),),
        "quantise": (normal(tokens, 2048),),
    }


def operations(dry: bool) -> dict[str, Any]:
    """Each of Triton's kernels against the same operation in torch: relative error, and microseconds of both."""
    ours = choose(device(dry))
    found = {name: _operation(ours, name, inputs, device(dry)) for name, inputs in inputs_of(dry).items()}
    worst = max(numbers["error"] for numbers in found.values())
    return {
        "said": f"largest relative error {worst:.1e}",
        "module": ours.rms_norm.__module__,
        "right": worst < 2e-2,
        **found,
    }


def _operation(ours: Kernels, name: str, inputs: tuple[Any, ...], where: str) -> dict[str, float]:
    mine, theirs = _output(ours, name, inputs), _output(plain, name, inputs)
    modules = {"microseconds": ours, "torch": plain}
    seconds = {key: timed(partial(getattr(module, name), *inputs), where, 20) for key, module in modules.items()}
    error = float((mine - theirs).norm() / theirs.norm())
    return {"error": error, **{key: round(taken * 1e6, 1) for key, taken in seconds.items()}}


def _output(module: Kernels, name: str, inputs: tuple[Any, ...]) -> torch.Tensor:
    first = inputs[0]
    if name == "norm_rope_":  # in place, on a slice of wider rows as in the model
        wide = torch.cat([first.x, first.x], dim=1)
        first = first._replace(x=wide[:, : first.x.shape[1]])
        getattr(module, name)(first, *inputs[1:])
        return first.x.float()
    if name == "add_rms_norm_8":
        first = first.clone()
    found = getattr(module, name)(first, *inputs[1:])
    return found.values.float() * found.scale if isinstance(found, Quantised) else found.float()
