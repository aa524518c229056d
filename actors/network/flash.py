"""CUDA's flash attention over packed sequences, by torch's operator itself; and FA3's kernels in the place of FA2's,
where they are installed and give the same.

torch's varlen_attn is a custom operator around this one: the same kernel with the same arguments, 12 us of the host's
time where 3 are enough (measured on a CPU), and a tensor of zeros launched for every layer. Thousands of tokens hide
that; the one query of a search does not.

Legend: n sequences; T tokens that ask, K keys; H query heads, G key heads, D head size.
"""

import importlib.util
import logging
from collections.abc import Iterator

import torch
from torch.nn import attention as torch_attention

from actors.spec import ModelError

log = logging.getLogger("vectormill.device")

FA3, FA3_MODULE = "FA3", "flash_attn_interface"
FA3_CAPABILITY = (9, 0)
# Of the operator in torch 2.13; with others torch's own function is called, which knows what has changed.
KNOWN = (
    *("query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"),
    *("return_debug_mask", "scale", "window_size_left", "window_size_right", "seqused_k", "alibi_slopes"),
    *("block_table", "num_splits"),
)
# What FA3 must give as FA2 does: heads of all supported models, whole sequences and last tokens alone, all windows.
SHAPES = ((4, 4, 32), (4, 4, 64), (4, 2, 128))  # H, G, D
LENGTHS = (1, 7, 130, 64, 200)
WINDOWS = ((-1, 0), (-1, -1), (64, 64), (5, 0))
TOLERANCE = 2e-2  # two steps of bfloat16; another mask or another head's keys are off by 0.1 and more


def is_known() -> bool:
    """Whether this torch's operator takes what `varlen` gives it."""
    operator = getattr(torch.ops.aten, "_flash_attention_forward", None)
    return operator is not None and tuple(a.name for a in operator.default._schema.arguments) == KNOWN


def varlen(  # noqa: PLR0913 - the signature of torch's varlen_attn
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_q: torch.Tensor,
    cu_seq_k: torch.Tensor,
    max_q: int,
    max_k: int,
    *,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> torch.Tensor:
    """query [T, H, D], key and value [K, G, D], offsets int32 [n+1] -> [T, H, D]; as torch's varlen_attn, which takes
    no fewer key heads than query heads without being told. Forward alone, and only where `is_known`."""
    left, right = window_size
    return torch.ops.aten._flash_attention_forward.default(
        *(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k),
        *(0.0, window_size == (-1, 0), False),
        scale=scale,
        window_size_left=left,
        window_size_right=right,
    )[0]


def prefer_fa3(device: str) -> None:
    """From here on FA3 computes attention in this process, if it is installed, made for this device, and gives what FA2
    gives on a few random sequences. If it does not, FA2 stays, with a warning.

    Raises ModelError when FA3 leaves the device unusable.
    """
    if torch_attention.current_flash_attention_impl() is not None:  # ours, or somebody chose one
        return
    if importlib.util.find_spec(FA3_MODULE) is None or not is_known():
        return
    if torch.cuda.get_device_capability(device) != FA3_CAPABILITY:
        return
    try:
        wanted = list(_samples(device))
        torch_attention.activate_flash_attention_impl(FA3)
        if all(map(_near, _samples(device), wanted)):
            return
        why = "its results differ from FA2's"
    except torch.AcceleratorError as error:
        raise ModelError(
            f"FA3 ({FA3_MODULE}) broke {device}: {str(error).splitlines()[0]}. Install the build for this torch and "
            "CUDA, or uninstall it: FA2 comes with torch"
        ) from error
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if torch_attention.current_flash_attention_impl() is not None:
        torch_attention.restore_flash_attention_impl()
    log.warning(f"FA3 ({FA3_MODULE}) is not used on {device}, FA2 is: {why}")


def _samples(device: str) -> Iterator[torch.Tensor]:
    """What the kernel in use makes of random sequences, laid out as in a model: q, k and v slices of one product."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor(LENGTHS)
    keys = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32).to(device)
    last = torch.arange(len(LENGTHS) + 1, dtype=torch.int32, device=device)
    longest = max(LENGTHS)
    for heads, kv_heads, size in SHAPES:
        mixed = torch.randn(sum(LENGTHS), heads + 2 * kv_heads, size, generator=generator).bfloat16().to(device)
        query, key, value = mixed.split([heads, kv_heads, kv_heads], dim=1)
        for window in WINDOWS:
            yield varlen(query, key, value, keys, keys, longest, longest, window_size=window)
            yield varlen(query[: len(LENGTHS)], key, value, last, keys, 1, longest, window_size=window)


def _near(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(found.float(), wanted.float(), rtol=TOLERANCE, atol=TOLERANCE)
