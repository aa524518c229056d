"""What fails while a replica is set up, as one refusal: which device and machine, what went wrong, what to do.

Loading weights, the first kernel, the self-check and the measuring of the token budget go through torch, transformers,
Triton, a C compiler and CUDA, which raise whatever they like. None of it gets better by trying again, so it must not
look as if: it is told in one sentence, the same wherever the replica stands. Once a replica works, errors stay what
they are.
"""

import platform
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actors.device import gpu
from actors.device.auto import resolve_device
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken, WeightsOutOfReach

SHOWN = 300  # characters of an error's first line: a compiler's call is long
# CUDA's errors that say nothing of the card's health: the next start meets them, too.
OF_THE_SET_UP = re.compile(
    r"no kernel image|kernel image is invalid|invalid device (ordinal|function|symbol)|[Nn]ot supported|[Uu]nsupported|"
    r"insufficient|too old|mismatch|no CUDA-capable device|invalid argument"
)
ROOM = (  # in the names of the error's classes and its message -> what to do
    (
        r"OutOfMemory|CUDA out of memory",
        "Use a device with more memory or a smaller model; `nvidia-smi` shows who else holds its memory",
    ),
    (
        r"\bMemoryError\b|[Aa]llocate memory|Errno 12\b",
        "The memory of this machine, or what its container may take of it, is full: fewer replicas a node "
        "(run.replicas), or more memory",
    ),
    (
        r"No space left|Errno (28|122)\b|shared memory|\bshm\b|Bus error",
        "A disk or /dev/shm is full: look with `df -h / /dev/shm /tmp ~/.cache`; containers get more shared memory by "
        "docker run --shm-size, in Kubernetes by an emptyDir of medium Memory at /dev/shm",
    ),
)
ADVICE = (
    *ROOM,
    (r"Permission ?[Dd]enied|PermissionError|Read-only|Errno (13|30)\b", "Give this process the right to that place"),
    (
        r"no kernel image|kernel image is invalid|sm_\d+",
        "This build of torch has no code for this card: install one that has (docs/operations.md, GPUs)",
    ),
    (r"ImportError|cannot open shared object", "Install there what constraints.txt names, in these versions"),
    (
        r"driver|CUDA (init|error|version)|CUDA unknown|NVML|libcuda",
        "Look whether `nvidia-smi` works there, and whether its driver is one for this torch (docs/operations.md, "
        "GPUs)",
    ),
)
OTHERWISE = (
    "Compare the versions of torch, transformers and the driver there with those of constraints.txt; `vectormill "
    "doctor` on that machine shows what works"
)


@contextmanager
def setting_up(spec: ModelSpec, on_device: bool = False) -> Iterator[None]:
    """Around what makes a replica: whatever is raised inside becomes a ModelError in these words, and the device is
    checked before anything else. Our own errors keep their class and what they say; on_device: the device has a part
    in what is done inside, so they name it.

    Raises WeightsOutOfReach, which may come back; ReplicaBroken when the device itself has failed, so that another one
    may do; ModelError (or DeviceOutOfMemory) for all else."""
    try:
        if not spec.is_fake:
            gpu.check(resolve_device(spec), spec.dtype)
        yield
    except WeightsOutOfReach:
        raise
    except ModelError as error:
        if not on_device or spec.is_fake:
            raise
        raise _with_device(error, resolve_device(spec)) from error
    except Exception as error:  # of any library below, see above
        raise refusal(error, spec.weights, resolve_device(spec)) from error


def refusal(error: Exception, what: str, device: str | None = None) -> ModelError:
    """The refusal for an error of somebody else's. what: could not be set up; device: where, None if none was reached
    yet."""
    place = f"on {gpu.describe(device)} of {platform.node()}" if device else f"on {platform.node()}"
    message = f"{what} could not be set up {place}: {told(error)}"
    advice = _found(error, ADVICE) or OTHERWISE
    if "OutOfMemoryError" in _kinds(error):
        return DeviceOutOfMemory(f"{message}. {advice}")
    if is_of_device(error) and not OF_THE_SET_UP.search(str(error)):
        return ReplicaBroken(f"{message}. {_broken_from_the_start()}")
    return ModelError(f"{message}. {advice}")


def told(error: BaseException) -> str:
    """An error of somebody else's in a line."""
    name = type(error).__name__
    if isinstance(error, subprocess.CalledProcessError):  # its command is long, with names made by chance
        command = error.cmd.split() if isinstance(error.cmd, str) else error.cmd
        return f"{name}: {command[0] if command else 'a command'} ended with {error.returncode}"
    return f"{name}: {line}" if (line := _first_line(error)) else name


def lacks_room(error: BaseException) -> bool:
    """Whether memory or a disk is full: no fault of what was read, though it broke off there."""
    return _found(error, ROOM) is not None


def is_of_device(error: BaseException) -> bool:
    """Whether it is CUDA's, after which every call to the device fails in this process."""
    return "CUDA error" in str(error) or type(error).__name__ == "AcceleratorError"


def _with_device(error: ModelError, device: str) -> ModelError:
    said = str(error)
    if isinstance(error, ReplicaBroken) and isinstance(error.__cause__, DeviceOutOfMemory):
        error = error.__cause__  # not even one of the texts that every replica checks itself with
    if isinstance(error, ReplicaBroken) and not OF_THE_SET_UP.search(said):
        said += f". {_broken_from_the_start()}"
    elif isinstance(error, ReplicaBroken):
        error, said = ModelError(), f"{said}. {_found(error.__cause__ or error, ADVICE) or OTHERWISE}"
    if not device.startswith("cuda") or gpu.describe(device) in said:
        return type(error)(said)
    return type(error)(f"{said} (on {gpu.describe(device)} of {platform.node()})")


def _broken_from_the_start() -> str:
    return (
        "The device failed before it had done any work: it is broken, or another process holds it. `nvidia-smi` and "
        "`dmesg` (Xid) on that machine say more; take it out if it happens again"
    )


def _found(error: BaseException, among: Sequence[tuple[str, str]]) -> str | None:
    whole = f"{' '.join(_kinds(error))} {_first_line(error)}"
    return next((advice for sign, advice in among if re.search(sign, whole)), None)


def _kinds(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ")[:SHOWN] if lines else ""
