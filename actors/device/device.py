"""The device a replica works on: its errors under our names, and results that come home without being waited for.

On CUDA nothing waits but `to_host`: what goes over starts in pinned memory (`attention.to_device`), what comes back
ends in it, and the next micro-batch can be queued while the last one is computed.
"""

import traceback
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from actors.device import cpu, gpu
from actors.device.auto import resolve_device
from actors.device.refusal import is_of_device
from actors.spec import DeviceOutOfMemory, ModelSpec, ReplicaBroken


@dataclass(frozen=True)
class Pending:
    """A result on its way, in host memory; complete when `done` (CUDA) has happened."""

    values: torch.Tensor
    done: Any  # torch.cuda.Event, or None on a CPU


def prepare(spec: ModelSpec) -> str:
    """The device of the spec, as torch names it, and this thread set to it: what names no device, as Triton's launches
    and pinned memory do, takes the thread's. torch computes with the threads that the spec asks for, else with as many
    as OMP_NUM_THREADS says, and in no case with more than the cores that this process may use.

    Raises ModelError when torch does not see it, or it cannot compute in the spec's dtype.
    """
    torch.set_num_threads(min(spec.threads or torch.get_num_threads(), cpu.cores()))
    device = resolve_device(spec)
    gpu.check(device, spec.dtype)
    if device.startswith("cuda"):
        if torch.device(device).index is not None:
            torch.cuda.set_device(device)
        # Else cuBLAS rounds parts of the sums of short micro-batches to bfloat16. Long ones are not split: no cost.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    return device


def send_home(values: torch.Tensor) -> Pending:
    """Queues the copy to host memory; does not wait for it."""
    if not values.is_cuda:
        return Pending(values, None)
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    # Blocking: a thread that waits for the others would keep a core busy.
    done = torch.cuda.Event(blocking=True)
    done.record(torch.cuda.current_stream(values.device))
    return Pending(host, done)


def to_host(pending: Pending, device: str) -> np.ndarray:
    """The result; waits for it. Raises ReplicaBroken as `translated`."""
    if pending.done is not None:
        with translated(device, "a micro-batch"):
            pending.done.synchronize()
    return pending.values.numpy()


@contextmanager
def translated(device: str, what: str) -> Iterator[None]:
    """torch's errors of the device as DeviceOutOfMemory (`what` did not fit) or ReplicaBroken (it is poisoned).

    Inside, the device is this thread's, also in another one than that of `prepare`."""
    try:
        with current(device):
            yield
    except torch.OutOfMemoryError as error:
        # Its frames hold the very tensors that fill the memory.
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()
        raise DeviceOutOfMemory(
            f"{what} does not fit the memory of {device}: lower max_tokens, or use a device with more memory"
        ) from error
    except RuntimeError as error:
        if not is_of_device(error):
            raise
        raise ReplicaBroken(f"{device} failed on {what}: {str(error).splitlines()[0]}") from error


def current(device: str) -> AbstractContextManager[None]:
    """The device as this thread's, for what names none."""
    return torch.cuda.device(device) if device.startswith("cuda") else nullcontext()
