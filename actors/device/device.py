"""The device a replica works on: its errors under our names, and results that come home without being waited for.

On CUDA nothing waits but `to_host`: what goes over starts in pinned memory (`attention.to_device`), what comes back
ends in it, and the next micro-batch can be queued while the last one is computed.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from actors.device import cpu
from actors.device.auto import resolve_device
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken


@dataclass(frozen=True)
class Pending:
    """A result on its way, in host memory; complete when `done` (CUDA) has happened."""

    values: torch.Tensor
    done: Any  # torch.cuda.Event, or None on a CPU


def prepare(spec: ModelSpec) -> str:
    """The device of the spec, as torch names it. torch computes with the threads that the spec asks for, else with as
    many as OMP_NUM_THREADS says, and in no case with more than the cores that this process may use.

    Raises ModelError when torch does not see it.
    """
    torch.set_num_threads(min(spec.threads or torch.get_num_threads(), cpu.cores()))
    device = resolve_device(spec)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"device {device!r} asked, but torch sees no CUDA device here")
    return device


def send_home(values: torch.Tensor) -> Pending:
    """Queues the copy to host memory; does not wait for it."""
    if not values.is_cuda:
        return Pending(values, None)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    return Pending(host, done)


def to_host(pending: Pending, device: str) -> np.ndarray:
    """The result; waits for it. Raises ReplicaBroken as `translated`."""
    if pending.done is not None:
        with translated(device, "a micro-batch"):
            pending.done.synchronize()
    return pending.values.numpy()


@contextmanager
def translated(device: str, what: str) -> Iterator[None]:
    """torch's errors of the device as DeviceOutOfMemory (`what` did not fit) or ReplicaBroken (it is poisoned)."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        # Its frames hold the very tensors that fill the memory.
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(
            f"{what} does not fit the memory of {device}: lower max_tokens, or use a device with more memory"
        ) from error
    except RuntimeError as error:
        # After such an error every call to the device fails, in this process.
        if "CUDA error" not in str(error) and not isinstance(error, torch.AcceleratorError):
            raise
        raise ReplicaBroken(f"{device} failed on {what}: {str(error).splitlines()[0]}") from error
