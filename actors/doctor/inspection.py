"""What can be said about this machine and about a folder of weights without running them."""

import importlib.metadata
import platform
import time
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from actors.checks.check import Check
from actors.device import cpu, gpu
from actors.device.auto import resolve_device
from actors.network import fast_paths
from actors.network.kernels.choose import choose
from actors.spec import ModelError, ModelSpec
from actors.weights import modules
from actors.weights.locate import digest, revision_of
from actors.weights.modules import read_json
from actors.weights.recipe import load_recipe

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "triton", "fastokens")
FINAL_NORM = ("norm.weight", "model.norm.weight")
TOKENS, WIDTH, ROUNDS = 512, 1024, 5  # of the product that is timed: about 10 ms on a slow core


def environment(device: str) -> dict[str, Any]:
    """Versions and the device; readable, ready for JSON. A device that has failed or is not there has no facts."""
    found: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    found |= {name: _version(name) for name in PACKAGES}
    found["cuda"] = torch.version.cuda
    found["device"] = device
    if device.startswith("cuda"):
        found["driver"] = gpu.driver_version()
        with suppress(RuntimeError, AssertionError):
            card = torch.cuda.get_device_properties(device)
            found["gpu"] = f"{card.name}, compute capability {card.major}.{card.minor}"
            found["gpu_memory_bytes"] = card.total_memory
    found["cpu_cores"] = cpu.cores()
    found["cpu_threads"] = min(torch.get_num_threads(), cpu.cores())
    found["cpu_auto_dtype"] = "bfloat16" if cpu.bfloat16_is_faster() else "float32"
    found["cpu_bfloat16_gain_now"] = _bfloat16_gain()
    found["free_memory_bytes"] = free_memory(device)
    return found


def device_checks(spec: ModelSpec) -> list[Check]:
    """That a GPU which is there is used, unless a CPU is asked for, and that what makes it fast works: tried, not told
    from imports. A card that is too old for the variable-length attention is no fault."""
    if spec.device == "cpu":
        return []
    found, device = [], resolve_device(spec)
    if why := gpu.unusable():
        found.append(Check("GPU", False, why))
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return found
    half = "bfloat16" if gpu.computes_in(device, "bfloat16") else "float16"
    choose(device)
    facts = fast_paths.facts(device, half)
    said = f"attention by {facts['attention']}, {facts['kernels']}'s kernels, both tried"
    old_alone = half == "float16" and facts["kernels"] == "triton"
    slower = facts.get("slower")
    return [*found, Check("fast paths", None if old_alone else slower is None, slower or said)]


def free_memory(device: str) -> int | None:
    """Bytes that are free on the device, a container's limit counted in; None where that cannot be known."""
    if device.startswith("cuda"):
        with suppress(RuntimeError, AssertionError):
            return int(torch.cuda.mem_get_info(device)[0])
        return None
    return cpu.free_memory()


def folder(spec: ModelSpec, place: Path) -> dict[str, Any]:
    """Where the weights lie and what they are. Hashes them: about 1 s per 2 GB and core.

    Raises ModelError when config.json cannot be read.
    """
    config = read_json(place / "config.json")
    shapes = [shape for path in place.glob("*.safetensors") for shape in _shapes(path).values()]
    return {
        "weights": spec.weights,
        "folder": str(place),
        "revision": revision_of(place) or spec.revision,
        "digest": digest(place),
        "architecture": config.get("model_type"),
        "layers": config.get("num_hidden_layers"),
        "hidden_size": config.get("hidden_size"),
        "vocabulary": config.get("vocab_size"),
        "parameters": sum(map(prod, shapes)),
        "size_bytes": sum(path.stat().st_size for path in place.glob("*.safetensors")),
    }


def embedding_recipe(place: Path) -> dict[str, Any]:
    """The recipe as read from the folder. Raises ModelError when it is not supported."""
    recipe = load_recipe(place)
    return {
        "pooling": recipe.pooling,
        "normalise": recipe.normalise,
        "query_prompt": recipe.query_prompt,
        "document_prompt": recipe.document_prompt,
        "max_tokens": recipe.max_tokens,
        "max_positions": recipe.max_positions,
        "dimensions": recipe.dimensions,
    }


def guess_task(name: str, place: Path) -> str:
    """What the weights are for: "rerank" if their files say that they score pairs, or their name; else "embed"."""
    try:
        modules.refuse_reranker(read_json(place / "config.json"), place)
    except ModelError:
        return "rerank"
    return "rerank" if "rerank" in Path(name).name.lower() else "embed"


def is_untrained(place: Path) -> bool:
    """Whether the weights are at their random start: the final norm of a Qwen3 is then all ones."""
    for path in place.glob("*.safetensors"):
        name = next((name for name in FINAL_NORM if name in _shapes(path)), None)
        if name is not None:
            with safe_open(path, framework="pt") as opened:
                return bool((opened.get_tensor(name) == 1).all())
    return False


def _shapes(path: Path) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no dictionary
    except SafetensorError as error:
        raise ModelError(f"{path} could not be read: {error}. Fetch the weights again") from error


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bfloat16_gain() -> float | None:
    """How much faster one product is in bfloat16 on this CPU, now; None where torch emulates bfloat16, perhaps 100
    times slower. A measurement to read: nothing is decided by it."""
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return round(_seconds(torch.float32) / _seconds(torch.bfloat16), 1)


def _seconds(dtype: torch.dtype) -> float:
    x, w = torch.ones(TOKENS, WIDTH, dtype=dtype), torch.ones(WIDTH, WIDTH, dtype=dtype)
    torch.nn.functional.linear(x, w)
    found = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        torch.nn.functional.linear(x, w)
        found.append(time.perf_counter() - begin)
    return min(found)
