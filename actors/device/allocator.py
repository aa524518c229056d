"""What torch's allocator for CUDA is asked to do. It reads the environment once, when torch is imported, so importing
this imports nothing.
"""

import os
from pathlib import Path

SETTINGS = "PYTORCH_ALLOC_CONF"
# torch 2.13 still reads the names of before, the first of them first, with a warning.
EARLIER = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
DRIVER = Path("/dev/nvidiactl")
VISIBLE = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")


def ask_for_growing_segments() -> None:
    """To be called before torch is imported, by a process that may use a GPU: blocks of its memory grow.

    Micro-batches never have the same number of tokens twice. Blocks of a fixed size, each cut for one of them, leave
    gaps in which the next finds no room; ones that grow do not. Nothing is done where somebody has chosen settings, or
    on a part of a GPU (MIG): there torch asks the driver what it does not answer, and ends.
    """
    chosen = any(name in os.environ for name in (SETTINGS, *EARLIER))
    part = any("MIG-" in os.environ.get(name, "") for name in VISIBLE)
    if DRIVER.exists() and not chosen and not part:
        os.environ[SETTINGS] = "expandable_segments:True"
