"""How many tokens a micro-batch may have on this device, found by measuring.

Packed forward passes take memory in proportion to their tokens, so two measurements give the line.
"""

from collections.abc import Callable

from actors.spec import DeviceOutOfMemory, ModelError

SMALL, LARGE = 2048, 8192  # tokens of the two measured micro-batches
STEP = 1024
# Beyond this a GPU is busy enough and only the wait for a result grows. A small model is through with so few tokens in
# 3 ms, and the GPU would wait for the host to launch the next kernels: it may have as many as keep it busy for WORK
# operations, 50 ms at the 200 TFLOP/s that such models reach on a large GPU.
MOST, MOST_OF_SMALL_MODELS = 32768, 262144
WORK = 10e12
SHARE = 0.85  # of the free memory; the rest is for what two micro-batches in flight and fragmentation take


def most_tokens(operations: int) -> int:
    """The largest token budget that is of use to a model whose matrix products take so many operations a token."""
    return max(MOST, min(MOST_OF_SMALL_MODELS, int(WORK / max(operations, 1)) // STEP * STEP))


def token_budget(peak_bytes: Callable[[int], int], free_bytes: int, longest: int, most: int = MOST) -> int:
    """The token budget: at most `most`, a multiple of STEP, and within SHARE of the free memory.

    peak_bytes(T) runs a micro-batch of T tokens and gives the most memory it took beside the weights; longest is the
    most tokens of one text, which goes alone when it is longer than the budget.
    Raises ModelError when not even the longest text, or a small micro-batch, fits.
    """
    try:
        small, large = peak_bytes(SMALL), peak_bytes(LARGE)
    except DeviceOutOfMemory as error:
        raise ModelError(
            f"the weights leave too little memory ({free_bytes / 1e9:.1f} GB) to embed {LARGE} tokens at a time: use a "
            "device with more memory, set run.token_budget, or take a smaller model"
        ) from error
    per_token = max((large - small) / (LARGE - SMALL), 1.0)
    room = int((SHARE * free_bytes - max(small - SMALL * per_token, 0.0)) / per_token)
    if room < longest:
        raise ModelError(
            f"a text of {longest} tokens needs {longest * per_token / 1e9:.1f} GB beside the weights, and "
            f"{free_bytes / 1e9:.1f} GB are free: lower max_tokens to {room // STEP * STEP} or less, or use a device "
            "with more memory"
        )
    return max(STEP, min(most, room // STEP * STEP))
