"""Which module computes the operations on a device."""

from actors.network.kernels import plain
from actors.network.kernels.operations import Kernels


def choose(device: str) -> Kernels:
    """Triton's kernels on CUDA where Triton is installed, torch's elsewhere: slower, same numbers."""
    if device.startswith("cuda"):
        try:
            from actors.network.kernels import triton

            return triton
        except ImportError:
            pass
    return plain
