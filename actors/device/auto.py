"""What "auto" means on this machine: the device and the dtype of a spec that names none.

Importing this costs nothing: torch, and the timing of the CPU, are imported only where they have to be asked.
"""

from actors.spec import ModelSpec

LEAST_CAPABILITY = {"bfloat16": (8, 0), "float8": (8, 9)}  # of a CUDA device that has it in hardware


def resolve_device(spec: ModelSpec) -> str:
    """The device as torch names it. Imports torch only when none was asked for."""
    if spec.device is not None:
        return spec.device
    if spec.is_fake:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cuda_computes(dtype: str) -> bool:
    """Whether the CUDA device of this process computes in this dtype by itself."""
    import torch

    return torch.cuda.get_device_capability() >= LEAST_CAPABILITY.get(dtype, (0, 0))


def resolve_dtype(spec: ModelSpec) -> str:
    """What the model computes in, "auto" decided. On a CPU that may take a few tens of ms of timing, once."""
    if spec.is_fake:
        return "float32"
    if spec.dtype != "auto":
        return spec.dtype
    if resolve_device(spec).startswith("cuda"):
        return "bfloat16"
    from actors.device import cpu

    return "bfloat16" if cpu.bfloat16_is_faster() else "float32"
