"""What a CUDA device, its driver and torch say of one another: which dtypes it computes in, and why one that is plugged
in cannot be used.

Importing this costs nothing: torch is imported only where it has to be asked.
"""

import functools
import importlib.metadata
import logging
import os
import re
from glob import glob
from pathlib import Path

from actors.spec import ModelError

BFLOAT16_FROM = (8, 0)  # compute capability; Ampere. FlashAttention too, which the variable-length attention is
FLOAT8_FROM = (8, 9)  # Ada, Hopper
DEVICE_FILES = "/dev/nvidia[0-9]*"
OF_WINDOWS = "/dev/dxg"  # any GPU, in WSL
DRIVER_FILES = ("/sys/module/nvidia/version", "/proc/driver/nvidia/version")
NO_DEVICE = ("", "-1", "none", "void", "nodevfiles")  # as CUDA_VISIBLE_DEVICES, for torch and CUDA
NOT_ASSIGNED = ("", "all", "none", "void")  # as NVIDIA_VISIBLE_DEVICES; many images say "all" wherever they run
IN_USE = "runs it on the CPU: run.device: cpu in a job, CUDA_VISIBLE_DEVICES=-1 before any other command"

log = logging.getLogger("vectormill.device")


def capability(device: str) -> tuple[int, int]:
    """The device's compute capability; there must be one."""
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return major, minor


def describe(device: str) -> str:
    """The device, its compute capability, the driver and torch, as far as they can be told; never raises for a device
    that is broken or not there: `cuda:0 (NVIDIA T4, compute capability 7.5, driver 535.104.05, torch 2.13.0+cu130)`."""
    return f"{device} ({', '.join([*_card(device), f'torch {_torch_version()}'])})"


def driver_version() -> str | None:
    """Of NVIDIA's kernel module; None where there is none to be seen."""
    for file in DRIVER_FILES:
        try:
            found = re.search(r"\d{3,}\.\d+(\.\d+)?", Path(file).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found:
            return found.group()
    return None


def usable() -> bool:
    """Whether torch sees a CUDA device here."""
    import torch

    return torch.cuda.is_available()


def unusable() -> str | None:
    """Why torch cannot use the GPU that is plugged in here, with the versions and what to do; None where it can, where
    there is none, and where none is wanted (CUDA_VISIBLE_DEVICES="", NVIDIA_VISIBLE_DEVICES=none)."""
    visible, assigned = (os.environ.get(f"{name}_VISIBLE_DEVICES") for name in ("CUDA", "NVIDIA"))
    if assigned == "none" or (visible is not None and visible.split(",")[0].strip().lower() in NO_DEVICE):
        return None
    plugged_in = assigned != "void" and (glob(DEVICE_FILES) or (assigned or "").lower() not in NOT_ASSIGNED)
    if not plugged_in and driver_version() is None and not Path(OF_WINDOWS).exists():
        return None
    if usable():
        return None
    reason = _why_not()
    # CUDA's libraries are there and meet a driver that is too old: it is one of a GPU, whatever its files are named.
    if not plugged_in and "too old" not in reason:
        return None
    return f"there is a GPU that torch cannot use: {reason}. {_remedy()}, or {IN_USE}"


def check(device: str, dtype: str) -> None:
    """Raises ModelError where this machine has no such device, or one that cannot compute in the dtype ("auto": not
    asked). To be called before anything of the weights is read."""
    if not device.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ModelError(f"device {device!r} asked, but torch sees no CUDA device here: {_why_not()}. {_remedy()}")
    index, there = torch.device(device).index, torch.cuda.device_count()
    if index is not None and index >= there:
        raise ModelError(f"device {device!r} asked, but torch sees {there} CUDA device(s) here, counted from 0")
    if not computes_in(device, dtype):
        least = FLOAT8_FROM if dtype == "float8" else BFLOAT16_FROM
        instead = "float32" if capability(device) < BFLOAT16_FROM else "bfloat16"
        raise ModelError(
            f"{describe(device)} does not compute in {dtype}, which begins at compute capability {_dotted(least)}. For "
            f"a new table set model.dtype: {instead}"
            f"{', or float16 with model.force_float16' if instead == 'float32' else ''}; a table that is in {dtype} "
            f"needs replicas on newer cards{', or' if dtype == 'bfloat16' else ''}"
            f"{f' what {IN_USE}' if dtype == 'bfloat16' else ''}"
        )


def computes_in(device: str, dtype: str) -> bool:
    """Whether a CUDA device that is there has arithmetic of the dtype's own."""
    least = {"bfloat16": BFLOAT16_FROM, "float8": FLOAT8_FROM}.get(dtype)
    return least is None or capability(device) >= least


def best_dtype(device: str) -> str:
    """bfloat16; float32, said once, if this process sees that the device has none."""
    import torch

    try:
        if not torch.cuda.is_available() or computes_in(device, "bfloat16"):
            return "bfloat16"
    except RuntimeError:  # it has failed: whoever is to compute on it says so
        return "bfloat16"
    say_once(f"{describe(device)} has no bfloat16: dtype auto is float32 here")
    return "float32"


@functools.cache
def say_once(message: str) -> None:
    """A warning in the log, once a process."""
    log.warning(message)


def _card(device: str) -> list[str]:
    if not device.startswith("cuda"):
        return []
    said = []
    try:
        import torch

        said = [torch.cuda.get_device_name(device), f"compute capability {_dotted(capability(device))}"]
    except (ImportError, OSError, RuntimeError, AssertionError, ValueError):  # whatever is wrong, it is said elsewhere
        pass
    return [*said, f"driver {driver_version() or 'not known'}"]


def _why_not() -> str:
    """torch's own words. Unlike `is_available`, which warns once a process, this gives them each time."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        return re.split(r"(?<=[.)]) +(?:Please|Alternatively)", said)[0].rstrip(".")
    return "it counts none"


def _remedy() -> str:
    import torch

    cuda = torch.version.cuda
    built = f"torch {torch.__version__} is built for {f'CUDA {cuda}' if cuda else 'CPUs'}"
    there = f"the driver here is {driver_version() or 'not to be seen'}"
    if cuda is None:
        return f"{built}, {there}: install torch's build for CUDA (docs/operations.md, GPUs)"
    return f"{built}, {there}: update the driver, or install torch's build for an older CUDA (docs/operations.md, GPUs)"


def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
