"""What can be said about this machine and about a folder of weights without running them."""

import importlib.metadata
import os
import platform
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
    found["cpu_cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found["cpu_has_bfloat16"] = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    found["cpu_bfloat16_is_faster"] = cpu.bfloat16_is_faster()
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
    found = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
        group = Path("/sys/fs/cgroup")
        found.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # not Linux, or no limit ("max")
        pass
    return min(found, default=None)


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
