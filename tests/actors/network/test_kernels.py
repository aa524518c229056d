"""What Qwen3 does between its matrix products: torch's kernels against formulas in float64, Triton's against torch's.

Triton's run in its interpreter, or compiled on a GPU where there is one (tests/conftest.py chooses).
"""

import importlib.util
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from actors.network import attention
from actors.network.kernels import plain
from actors.network.kernels.choose import choose
from actors.network.kernels.operations import E4M3, SMALLEST_SCALE, Quantised, Rotation
from actors.network.network import Qwen3Network
from tests.support.qwen3 import SMALL, filled
from tests.support.varlen import varlen_of_torch_2_13

EPS = 1e-6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16]
# None of them fills a power of two but 16; 1216 is 9728 / 8, 2560 is 4B's hidden size, 1 is the least.
WIDTHS = [1, 16, 100, 1216, 2560]
GATES = [1, 100, 1024, 1500]  # on both sides of the columns that one program multiplies
EXACT = 2e-6  # float32 against float32, of values near 1


@pytest.fixture(scope="module")
def triton_kernels():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    if DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("a GPU that torch does not see, and TRITON_INTERPRET is not 1")
    from actors.network.kernels import triton

    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == "cpu":
            _round_as_hardware_does(patch)
        yield triton


def _round_as_hardware_does(patch: pytest.MonkeyPatch) -> None:
    """The interpreter of triton 3.7 cuts float32 off to bfloat16, and loses the carry when it rounds to e4m3 (just
    below a power of two the result is half as large). So torch rounds in its place."""
    from triton.runtime import interpreter

    formats = {"bf16": (torch.bfloat16, torch.uint16), "fp8e4nv": (E4M3, torch.uint8)}
    honest = interpreter._convert_float

    def convert(values, source, target, mode):
        if str(source) != "fp32" or str(target) not in formats:
            return honest(values, source, target, mode)
        dtype, bits = formats[str(target)]
        return torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype).view(bits).numpy()

    patch.setattr(interpreter, "_convert_float", convert)


def rows(width: int, dtype: torch.dtype = torch.float32, tokens: int = 7) -> torch.Tensor:
    """Ordinary rows, then one of zeros, one tiny, one large (Qwen3-0.6B's first token has channels of 5,704), one with
    a single large value."""
    x = torch.randn(tokens, width, generator=torch.Generator().manual_seed(width))
    x[1], x[2], x[3] = 0, x[2] * 1e-6, x[3] * 5704
    x[4, 0] = 20000.0
    return x.to(dtype).to(DEVICE)


def weight_of(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(width).uniform_(-2, 2, generator=torch.Generator().manual_seed(1)).to(dtype).to(DEVICE)


def rotation(tokens: int, size: int, positions: int = 50) -> Rotation:
    generator = torch.Generator().manual_seed(2)
    angles = torch.rand(positions, size // 2, generator=generator) * 6.3
    places = torch.randint(positions, (tokens,), generator=generator)
    return Rotation(angles.cos().to(DEVICE), angles.sin().to(DEVICE), places.to(DEVICE))


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """float32 within EXACT of the size of the values; bfloat16 to one rounding step, and that rarely."""
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if found.dtype == torch.float32:
        torch.testing.assert_close(found, wanted, rtol=EXACT, atol=EXACT)
        return
    torch.testing.assert_close(found.float(), wanted.float(), rtol=2**-7, atol=1e-30)
    assert (found != wanted).float().mean() < 0.02


def close_8(found: Quantised, wanted: Quantised) -> None:
    """Scales equal; values to one step of e4m3, and that rarely."""
    assert found.values.dtype == E4M3
    assert found.scale.shape == wanted.scale.shape == (len(found.values), 1)
    torch.testing.assert_close(found.scale, wanted.scale, rtol=1e-6, atol=0)
    steps = (_ordered(found.values) - _ordered(wanted.values)).abs()
    assert steps.max() <= 1
    assert (steps > 0).float().mean() < 0.02


def _ordered(values: torch.Tensor) -> torch.Tensor:
    """The place of each value among all of its format."""
    bits = values.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


# The formulas, in float64.


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def turned(x: torch.Tensor, turn: Rotation) -> torch.Tensor:
    """x [T, h, D]: (value i, value i + D/2) is a point of the plane, turned by its token's angle i."""
    half = x.shape[-1] // 2
    angles = torch.complex(turn.cos.double(), turn.sin.double())[turn.positions][:, None]
    points = torch.complex(x[..., :half], x[..., half:]) * angles
    return torch.cat([points.real, points.imag], dim=-1)


def gated(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().split(gate_up.shape[-1] // 2, dim=-1)
    return gate / (1 + (-gate).exp()) * up


def undone(x: Quantised) -> torch.Tensor:
    return x.values.double() * x.scale.double()


def near_8(found: Quantised, wanted: torch.Tensor) -> None:
    """Of a value at most 1/16 lost (3 bits behind the point), or half the smallest step; the largest of a row kept."""
    lost = (undone(found) - wanted).abs()
    assert (lost <= wanted.abs() / 16 + found.scale * 2**-10 + 1e-12).all()
    assert (found.values.double().abs().amax(-1)[wanted.abs().amax(-1) > 1e-3] == torch.finfo(E4M3).max).all()
    assert (found.scale >= SMALLEST_SCALE * 0.999).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("eps", [EPS, 0.5])
def test_torch_norms(width: int, eps: float) -> None:
    x, weight = rows(width), weight_of(width, torch.float32)
    torch.testing.assert_close(plain.rms_norm(x, weight, eps).double(), normed(x, weight, eps), rtol=EXACT, atol=EXACT)
    near_8(plain.rms_norm_8(x, weight, eps), normed(x, weight, eps))


@pytest.mark.parametrize("size", [2, 16, 128])
def test_torch_rotates(size: int) -> None:
    x, weight = rows(3 * size).unflatten(1, (3, size)), weight_of(size, torch.float32)
    wanted = turned(normed(x, weight, EPS), rotation(len(x), size))
    plain.norm_rope_(x, weight, EPS, rotation(len(x), size))
    torch.testing.assert_close(x.double(), wanted, rtol=EXACT, atol=4e-6)


def test_torch_gates_and_quantises() -> None:
    x = rows(200)
    torch.testing.assert_close(plain.silu_mul(x).double(), gated(x), rtol=EXACT, atol=EXACT)
    near_8(plain.silu_mul_8(x), gated(x))
    near_8(plain.quantise(x), x.double())
    assert plain.quantise(x)[1][1].item() == pytest.approx(SMALLEST_SCALE)


def test_rounded_once_at_the_end() -> None:
    """What is computed in bfloat16 all along is off by several steps."""
    x, weight = rows(100, torch.bfloat16), weight_of(100, torch.bfloat16)
    assert torch.equal(plain.rms_norm(x, weight, EPS), normed(x, weight, EPS).float().bfloat16())
    assert torch.equal(plain.silu_mul(x), gated(x).float().bfloat16())
    heads = x.unflatten(1, (1, 100)).clone()
    plain.norm_rope_(heads, weight, EPS, rotation(len(x), 100))
    close(heads, turned(normed(x[:, None], weight, EPS), rotation(len(x), 100)).float().bfloat16())


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_norms(triton_kernels, dtype: torch.dtype, width: int) -> None:
    x, weight = rows(width, dtype), weight_of(width, dtype)
    before = x.clone()
    for eps in (EPS, 0.5):
        close(triton_kernels.rms_norm(x, weight, eps), plain.rms_norm(x, weight, eps))
        close_8(triton_kernels.rms_norm_8(x, weight, eps), plain.rms_norm_8(x, weight, eps))
    assert torch.equal(x, before)


@pytest.mark.parametrize(("heads", "size"), [(1, 2), (2, 16), (3, 64), (5, 128), (16, 128)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_rotates_its_slice_and_nothing_beside_it(
    triton_kernels, dtype: torch.dtype, heads: int, size: int
) -> None:
    """Queries and keys lie in the middle of one product of q, k and v."""
    whole = rows((heads + 3) * size, dtype).unflatten(1, (heads + 3, size))
    wanted, weight, turn = whole.clone(), weight_of(size, dtype), rotation(len(whole), size)
    plain.norm_rope_(wanted[:, 1 : heads + 1], weight, EPS, turn)
    found = whole.clone()
    triton_kernels.norm_rope_(found[:, 1 : heads + 1], weight, EPS, turn)
    close(found[:, 1 : heads + 1], wanted[:, 1 : heads + 1])
    for beside in (slice(0, 1), slice(heads + 1, None)):
        assert torch.equal(found[:, beside], whole[:, beside])


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # numpy's word for sigmoid(-200) = 0
@pytest.mark.parametrize("width", GATES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_gates(triton_kernels, dtype: torch.dtype, width: int) -> None:
    gate_up = rows(2 * width, dtype)
    gate_up[5, :width], gate_up[6, :width] = -200, 200
    close(triton_kernels.silu_mul(gate_up), plain.silu_mul(gate_up))
    close_8(triton_kernels.silu_mul_8(gate_up), plain.silu_mul_8(gate_up))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_triton_quantises(triton_kernels, dtype: torch.dtype, width: int) -> None:
    x = rows(width, dtype)
    found = triton_kernels.quantise(x)
    close_8(found, plain.quantise(x))
    assert found.values[1].float().eq(0).all(), "a row of zeros stays zeros"


def test_triton_takes_no_layout_that_it_would_misread(triton_kernels) -> None:
    wide, weight = rows(64), weight_of(32, torch.float32)
    for refused in (
        lambda: triton_kernels.rms_norm(wide[:, :32], weight, EPS),
        lambda: triton_kernels.rms_norm_8(wide[:, :32], weight, EPS),
        lambda: triton_kernels.silu_mul(wide[:, :32]),
        lambda: triton_kernels.silu_mul_8(wide[:, :32]),
        lambda: triton_kernels.quantise(wide[:, :32]),
        lambda: triton_kernels.norm_rope_(wide.unflatten(1, (2, 32))[..., :16], weight[:16], EPS, rotation(7, 16)),
        lambda: triton_kernels.norm_rope_(wide[:, :60].reshape(7, 5, 12), weight[:12], EPS, rotation(7, 12)),
    ):
        with pytest.raises(AssertionError):
            refused()


@pytest.mark.parametrize(("dtype", "least"), [("float32", 1 - 1e-10), ("bfloat16", 0.9995), ("float8", 0.998)])
def test_the_whole_forward_pass_of_a_gpu(
    triton_kernels, dtype: str, least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton's kernels around the variable-length attention (emulated where there is no GPU): layouts and strides fit,
    and the vectors are those of torch's kernels."""
    weights = filled(replace(SMALL, layers=2, hidden=96, heads=6, kv_heads=2), dtype, 0.05, DEVICE)
    if dtype == "float8":
        weights.to_8_bits()
    lengths = np.array([5, 1, 6, 6])
    ids = np.random.default_rng(0).integers(0, SMALL.vocabulary, lengths.sum())
    if DEVICE == "cpu":
        monkeypatch.setattr(attention, "varlen_function", lambda: varlen_of_torch_2_13)
    found = []
    for chosen in (plain, triton_kernels):
        monkeypatch.setattr("actors.network.qwen3.choose", lambda device, chosen=chosen: chosen)
        network = Qwen3Network(weights, varlen=chosen is triton_kernels and (DEVICE == "cpu" or dtype != "float32"))
        with torch.inference_mode():
            found.append(network.pooled(ids, lengths).double())
    assert torch.cosine_similarity(*found).min() >= least


def test_a_cpu_gets_torch() -> None:
    assert choose("cpu") is plain


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_gets_triton_where_there_is_one(triton_kernels, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose(device) is triton_kernels
    monkeypatch.delattr("actors.network.kernels.triton")
    monkeypatch.setitem(sys.modules, "actors.network.kernels.triton", None)
    assert choose(device) is plain


def test_both_have_every_operation(triton_kernels) -> None:
    for name in ("rms_norm", "rms_norm_8", "norm_rope_", "silu_mul", "silu_mul_8", "quantise"):
        assert callable(getattr(plain, name))
        assert callable(getattr(triton_kernels, name))
