"""What "auto" means on this machine: the device and the dtype of a spec that names none.

Importing this costs nothing: torch is imported only where it has to be asked.
"""

from actors.device import cpu, gpu
from actors.spec import ModelSpec


def resolve_device(spec: ModelSpec) -> str:
    """The device as torch names it. Imports torch only when none was asked for. A GPU that is there and cannot be used
    is said, once."""
    if spec.device is not None:
        return spec.device
    if spec.is_fake:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if why := gpu.unusable():
        gpu.say_once(f"on the CPU, because {why}")
    return "cpu"


def resolve_dtype(spec: ModelSpec, sees_device: bool = True) -> str:
    """What the model computes in, "auto" decided: on a CPU by what this machine's has instructions for.

    sees_device: whether this process is where the model will compute. Elsewhere nobody can ask the card, and a replica
    that cannot compute in what was decided refuses."""
    if spec.is_fake:
        return "float32"
    if spec.dtype != "auto":
        return spec.dtype
    device = resolve_device(spec)
    if device.startswith("cuda"):
        return gpu.best_dtype(device) if sees_device else "bfloat16"
    return "bfloat16" if cpu.bfloat16_is_faster() else "float32"
