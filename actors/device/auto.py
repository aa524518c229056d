"""What "auto" means on this machine: the device and the dtype of a spec that names none.

Importing this costs nothing: torch is imported only where it has to be asked.
"""

from actors.device import cpu
from actors.spec import ModelSpec


def resolve_device(spec: ModelSpec) -> str:
    """The device as torch names it. Imports torch only when none was asked for."""
    if spec.device is not None:
        return spec.device
    if spec.is_fake:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_dtype(spec: ModelSpec) -> str:
    """What the model computes in, "auto" decided: on a CPU by what this machine's has instructions for."""
    if spec.is_fake:
        return "float32"
    if spec.dtype != "auto":
        return spec.dtype
    if resolve_device(spec).startswith("cuda"):
        return "bfloat16"
    return "bfloat16" if cpu.bfloat16_is_faster() else "float32"
