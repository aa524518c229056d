"""CUDA's attention operator without what torch puts around it, and FA3 in the place of FA2: on a CPU, where an
emulation takes the operator's place below torch's own dispatcher."""

import importlib.machinery
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import attention as torch_attention
from torch.nn.attention import _registry, varlen
from torch.utils._python_dispatch import TorchDispatchMode

from actors.network import flash
from actors.network.attention import varlen_function
from actors.network.network import Qwen3Network
from actors.spec import ModelError
from tests.support.qwen3 import SMALL, filled
from tests.support.varlen import one_by_one

Kernel = Callable[..., torch.Tensor]


def fa2(q, k, v, cu_q, cu_k, window):
    return one_by_one((q, k, v), cu_q, cu_k, window, q.shape[-1] ** -0.5)


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """aten's operator on this CPU: `kernel` computes, `asked` is what it was given."""
    state = SimpleNamespace(kernel=fa2, asked=[])

    def forward(q, k, v, cu_q, cu_k, max_q, max_k, *rest, window_size_left=None, window_size_right=None, **more):
        state.asked.append((max_q, max_k, rest, window_size_left, window_size_right, more))
        out = state.kernel(q, k, v, cu_q, cu_k, (window_size_left, window_size_right))
        return out, q.new_empty(0), q.new_empty(0), q.new_empty(0), q.new_empty(0)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", forward, "CPU")
        yield state


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("window", [(-1, 0), (-1, -1), (3, 0), (3, 3)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_the_operator_is_asked_what_torch_asks_it(
    operator: SimpleNamespace, window: tuple[int, int], scale: float | None
) -> None:
    """So the numbers are those of torch's function, whatever the kernel."""
    q, k, v = random(7, 4, 16), random(7, 2, 16), random(7, 2, 16) + 1
    offsets = torch.tensor([0, 3, 4, 7], dtype=torch.int32)
    given = (q, k, v, offsets, offsets, 3, 3)
    theirs = varlen.varlen_attn(*given, scale=scale, window_size=window, enable_gqa=True)
    ours = flash.varlen(*given, scale=scale, window_size=window)
    assert torch.equal(ours, theirs)
    theirs_asked, ours_asked = operator.asked
    nothing = dict.fromkeys(("seqused_k", "block_table", "num_splits"))
    assert {**nothing, **ours_asked[-1]} == {**nothing, **theirs_asked[-1]}
    assert ours_asked[:-1] == theirs_asked[:-1]


@torch.inference_mode()
def test_qwen3_by_the_operator_is_transformers(operator: SimpleNamespace) -> None:
    weights, lengths = filled(SMALL), np.array([5, 1, 33, 7, 7])
    ids = np.random.default_rng(0).integers(0, SMALL.vocabulary, lengths.sum())
    found = Qwen3Network(weights, varlen=True).pooled(ids, lengths)
    assert len(operator.asked) == SMALL.layers
    model = weights.reference()
    for row, part in zip(found, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
        wanted = model(input_ids=torch.from_numpy(part)[None]).last_hidden_state[0, -1]
        unit = torch.nn.functional.normalize(torch.stack([row, wanted]).double(), dim=-1)
        torch.testing.assert_close(unit[0], unit[1], atol=1e-5, rtol=0)


def test_nothing_is_launched_beside_it(operator: SimpleNamespace) -> None:
    """torch's function makes zeros for a random state that nobody reads, in every layer."""

    class Launches(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            names.append(function.name())
            return function(*args, **(kwargs or {}))

    q, offsets = random(3, 4, 16), torch.tensor([0, 3], dtype=torch.int32)
    names: list[str] = []
    with Launches(), torch.inference_mode():
        flash.varlen(q, q, q, offsets, offsets, 3, 3, window_size=(-1, 0))
    assert names == ["aten::_flash_attention_forward"]


def test_the_installed_torch_has_the_operator_we_know() -> None:
    assert flash.is_known()
    assert varlen_function() is flash.varlen


@pytest.mark.parametrize("known", [flash.KNOWN[:-1], (*flash.KNOWN, "sinks")], ids=len)
def test_another_operator_is_left_to_torch(known: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "KNOWN", known)
    varlen_function.cache_clear()
    assert varlen_function() is varlen.varlen_attn
    varlen_function.cache_clear()


# FA3


def rounded(q, k, v, cu_q, cu_k, window):
    """Another order of additions: no bit need be the same."""
    return (fa2(q, k, v, cu_q, cu_k, window).float() * (1 + 2**-9)).to(q.dtype)


def window_ignored(q, k, v, cu_q, cu_k, window):
    return fa2(q, k, v, cu_q, cu_k, (-1, window[1]))


def looks_ahead(q, k, v, cu_q, cu_k, window):
    return fa2(q, k, v, cu_q, cu_k, (window[0], -1))


def other_groups(q, k, v, cu_q, cu_k, window):
    return fa2(q, k.flip(1), v.flip(1), cu_q, cu_k, window)


def aligned_at_the_first_key(q, k, v, cu_q, cu_k, window):
    """As other kernels stand a single query: at the first key, of which it then sees nothing else."""
    first = cu_k[:-1].long()
    return (
        v[first].repeat_interleave(q.shape[1] // v.shape[1], dim=1)
        if len(q) == len(first)
        else fa2(q, k, v, cu_q, cu_k, window)
    )


def strides_ignored(q, k, v, cu_q, cu_k, window):
    """q, k and v are slices of one tensor."""
    return fa2(
        *(torch.as_strided(x, x.shape, (x.shape[1] * x.shape[2], x.shape[2], 1)) for x in (q, k, v)), cu_q, cu_k, window
    )


def not_a_number(q, k, v, cu_q, cu_k, window):
    return fa2(q, k, v, cu_q, cu_k, window) * torch.nan


def refuses(q, k, v, cu_q, cu_k, window):
    raise RuntimeError("FA3 flash_attention forward unsupported: today")


def takes_other_arguments(q, k, v, cu_q, cu_k, window):
    raise TypeError("fwd() takes 12 positional arguments")


class Handle:
    def __init__(self, state: SimpleNamespace) -> None:
        self._state = state

    def remove(self) -> None:
        self._state.kernel = fa2


@pytest.fixture
def installed(operator: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """FA3 is installed on an H100: what activates it puts `operator.fa3` in place."""

    def activate() -> Handle:
        operator.kernel = operator.fa3
        return Handle(operator)

    monkeypatch.setitem(_registry._FLASH_ATTENTION_IMPLS, "FA3", activate)
    monkeypatch.setattr(_registry, "_FLASH_ATTENTION_ACTIVE", None)
    spec = importlib.machinery.ModuleSpec("flash_attn_interface", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "flash_attn_interface" else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(flash, "LENGTHS", (1, 7, 12))
    operator.fa3 = rounded
    return operator


def test_fa3_is_taken_where_it_gives_the_same(installed: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    flash.prefer_fa3("cpu")
    assert torch_attention.current_flash_attention_impl() == "FA3"
    assert installed.kernel is rounded
    asked = len(installed.asked)
    flash.prefer_fa3("cpu")
    assert len(installed.asked) == asked, "once a process"
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (window_ignored, "its results differ from FA2's"),
        (looks_ahead, "its results differ from FA2's"),
        (other_groups, "its results differ from FA2's"),
        (aligned_at_the_first_key, "its results differ from FA2's"),
        (strides_ignored, "its results differ from FA2's"),
        (not_a_number, "its results differ from FA2's"),
        (refuses, "RuntimeError: FA3 flash_attention forward unsupported: today"),
        (takes_other_arguments, "TypeError: fwd() takes 12 positional arguments"),
    ],
)
def test_fa3_is_not_taken_where_it_gives_anything_else(
    installed: SimpleNamespace, kernel: Kernel, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    installed.fa3 = kernel
    flash.prefer_fa3("cpu")
    [said] = caplog.messages
    assert said == f"FA3 (flash_attn_interface) is not used on cpu, FA2 is: {why}"
    assert torch_attention.current_flash_attention_impl() is None
    assert installed.kernel is fa2


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), OSError("libcudart.so.12"), RuntimeError("")])
def test_fa3_that_cannot_be_loaded(
    installed: SimpleNamespace,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def activate() -> Handle:
        raise error

    monkeypatch.setitem(_registry._FLASH_ATTENTION_IMPLS, "FA3", activate)
    flash.prefer_fa3("cpu")
    [said] = caplog.messages
    assert said.endswith(f"FA2 is: {type(error).__name__}: {error}")
    assert torch_attention.current_flash_attention_impl() is None


def test_fa3_that_breaks_the_device_is_named(installed: SimpleNamespace) -> None:
    def breaks(*given: object) -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    installed.fa3 = breaks
    with pytest.raises(ModelError, match=r"FA3 \(flash_attn_interface\) broke cpu: CUDA error: .* or uninstall it"):
        flash.prefer_fa3("cpu")


@pytest.mark.parametrize("lacks", ["module", "capability", "operator", "choice of its own"])
def test_fa3_is_not_tried(
    installed: SimpleNamespace, lacks: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if lacks == "module":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    elif lacks == "capability":
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (10, 0))
    elif lacks == "operator":
        monkeypatch.setattr(flash, "KNOWN", ())
    else:
        monkeypatch.setattr(_registry, "_FLASH_ATTENTION_ACTIVE", ("FA4", Handle(installed)))
    before = torch_attention.current_flash_attention_impl()
    flash.prefer_fa3("cpu")
    assert caplog.messages == []
    assert torch_attention.current_flash_attention_impl() == before
    assert installed.asked == []
