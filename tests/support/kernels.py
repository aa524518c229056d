"""Inputs for the operations between Qwen3's matrix products, and how near two results must be."""

import torch

from actors.network.kernels.operations import Rotation

EPS = 1e-6
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EXACT = 2e-6  # float32 against float32, of values near 1
# None of them fills a power of two but 16; 1216 is 9728 / 8, 2560 is 4B's hidden size, 1 is the least.
WIDTHS = [1, 16, 100, 1216, 2560]


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
