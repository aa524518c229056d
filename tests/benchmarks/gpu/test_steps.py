"""The list of steps: its order, and that it fits into its time."""

from actors.network.kernels.operations import Kernels
from benchmarks.gpu.inputs import INPUTS
from benchmarks.gpu.steps import HALF_MINUTES, LAST_OF_THE_FIRST_HALF, MINUTES, START_SECONDS, STEPS

NAMES = [step.name for step in STEPS]
RESTART = 15.0  # for one process that has to be started again


def test_no_two_steps_have_one_name():
    assert len(set(NAMES)) == len(NAMES)


def test_what_decides_most_comes_first():
    """Right or not before fast or not; each size's speed with where its time goes; others after ours."""
    order = ["machine", "kernel rms_norm", "attention causal", "check bfloat16", "ours 0.6B short bfloat16"]
    order += ["profile 0.6B", "ceilings", "ours 8B short bfloat16", "profile 8B", "check float8", "check reranker"]
    order += ["peers 0.6B", "peers 4B"]
    assert [name for name in NAMES if name in order] == order
    assert NAMES[: len(INPUTS) + 5][-4:] == ["attention causal", "attention two-way", "check bfloat16", order[4]]


def test_it_fits_into_its_minutes():
    """By the estimates, with one process lost on the way; and its first half into half of them."""
    assert sum(step.seconds for step in STEPS) + START_SECONDS + RESTART <= 60 * MINUTES
    half = STEPS[: NAMES.index(LAST_OF_THE_FIRST_HALF) + 1]
    assert sum(step.seconds for step in half) + START_SECONDS <= 60 * HALF_MINUTES


def test_every_kernel_is_checked():
    """A new operation of actors/network/kernels needs inputs in benchmarks/gpu/inputs.py."""
    assert set(INPUTS) == {name for name in vars(Kernels) if not name.startswith("_")}
