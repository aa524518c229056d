"""What a replica needs to know about its model. Imports nothing heavy: the driver and CPU tasks read it too.

The errors of this layer:
    ModelError              2
    |-- WeightsOutOfReach   1  they cannot be fetched now: the network, or the other side, may come back
    |-- DeviceOutOfMemory   2  one micro-batch did not fit the device; it is halved and tried again
    `-- ReplicaBroken       1  this process cannot go on (a poisoned device, or memory that does not come back)
The number is the exit code of a process that ends so: 1, the same command may do better; 2, a person has to look.
"""

import re
from dataclasses import dataclass

DTYPES = ("auto", "bfloat16", "float32", "float16", "float8")
FAKE = "fake"


class ModelError(Exception):
    """A problem with the model that a person can put right: the message says what, where and what to do."""

    exit_code = 2


class WeightsOutOfReach(ModelError):
    """They cannot be fetched now."""

    exit_code = 1


class DeviceOutOfMemory(ModelError):
    """A micro-batch did not fit the device's memory."""


class ReplicaBroken(ModelError):
    """The process can compute nothing more; another one in its place may."""

    exit_code = 1


@dataclass(frozen=True)
class ModelSpec:
    """Which model, and how to run it. Hashable and picklable; holds no credentials.

    weights: "bundled", a local folder, "s3://bucket/folder", a hub id, "modelscope:" and an id of ModelScope, "fake",
        or "fake:N" (N tokens/s).
    revision: branch, tag or commit of a hub id.
    dimensions: length of the output vectors; None = the model's own.
    max_tokens: most tokens of one text, special tokens and prompt included; None = the recipe's.
    dtype: what the model computes in. "auto" is bfloat16 on CUDA and on CPUs made for it (actors/device/cpu.py), else
        float32. "float8": Qwen3's matrices and their inputs in 8 bits, scaled row by row, the rest in bfloat16.
        "float16" only with force_float16: Qwen3-8B overflows in it.
    prompt: put in front of every document; None = the recipe's.
    query_prompt: put in front of every query; None = the recipe's.
    token_budget: most tokens of a micro-batch; None = by device.
    device: "cpu", "cuda" or "cuda:N"; None = CUDA if there is one.
    threads: CPU threads of torch, at most the cores it may use; None = OMP_NUM_THREADS, or those cores.
    s3: endpoint_url, region and anonymous as (name, value) pairs.
    digest: what `weights.locate.digest` must give for the weights found; None = not checked.
    tokenizer_digest: what `weights.tokenizer_files` must give for the tokenizer found; None = not checked.

    Raises ModelError for values outside these.
    """

    weights: str
    revision: str | None = None
    dimensions: int | None = None
    max_tokens: int | None = None
    dtype: str = "auto"
    prompt: str | None = None
    query_prompt: str | None = None
    token_budget: int | None = None
    device: str | None = None
    threads: int | None = None
    s3: tuple[tuple[str, str], ...] = ()
    digest: str | None = None
    tokenizer_digest: str | None = None
    force_float16: bool = False

    def __post_init__(self) -> None:
        if not self.weights:
            raise ModelError('no weights given: name a folder, "s3://bucket/folder", a hub id or "bundled"')
        if self.dtype not in DTYPES:
            raise ModelError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.dtype == "float16" and not self.force_float16:
            raise ModelError(
                "dtype float16 is refused: Qwen3-Embedding-8B gives NaN in it for some texts. Use bfloat16 or float32; "
                "if you know that your model bears it, set force_float16"
            )
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ModelError(f'device {self.device!r} is not "cpu", "cuda" or "cuda:N"')
        for name in ("dimensions", "max_tokens", "token_budget", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ModelError(f"{name} is {value}, it must be at least 1")
        if self.is_fake:
            self.tokens_per_second()

    @property
    def is_fake(self) -> bool:
        return self.weights == FAKE or self.weights.startswith(FAKE + ":")

    def tokens_per_second(self) -> float | None:
        """The speed asked of the fake model ("fake:20000"), tokens/s; None = as fast as it goes."""
        _, colon, speed = self.weights.partition(":")
        if not self.is_fake or not colon:
            return None
        try:
            value = float(speed)
        except ValueError:
            value = 0.0
        if value <= 0:
            raise ModelError(f'weights {self.weights!r}: after "fake:" comes a number of tokens per second')
        return value
