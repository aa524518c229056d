"""Never out of memory: the token budget fills its share of what is free, and no more."""

import re

import pytest

from actors.device.memory import LARGE, MOST, MOST_OF_SMALL_MODELS, SHARE, SMALL, STEP, most_tokens, token_budget
from actors.spec import DeviceOutOfMemory, ModelError

GB = 10**9


def linear(base: float, per_token: float):
    asked = []

    def peak_bytes(tokens: int) -> int:
        asked.append(tokens)
        return int(base + per_token * tokens)

    return peak_bytes, asked


@pytest.mark.parametrize("per_token", [20_000, 150_000, 700_000])
@pytest.mark.parametrize("base", [0, 0.5 * GB])
@pytest.mark.parametrize("free", [8 * GB, 20 * GB, 60 * GB])
def test_the_budget_fills_its_share_and_no_more(free: int, base: float, per_token: float) -> None:
    peak_bytes, asked = linear(base, per_token)
    found = token_budget(peak_bytes, free, 512)
    assert asked == [SMALL, LARGE]
    assert found % STEP == 0
    assert STEP <= found <= MOST
    assert peak_bytes(found) <= SHARE * free <= 0.9 * free
    assert found == MOST or peak_bytes(found + STEP) > SHARE * free


def test_memory_that_does_not_grow() -> None:
    assert token_budget(lambda tokens: 1000, GB, 8192) == MOST
    assert token_budget(lambda tokens: 10**6 - tokens, GB, 8192) == MOST


@pytest.mark.parametrize(
    ("name", "operations", "wanted"),
    [
        ("MiniLM-L6", 0.0213e9, 262_144),
        ("e5-small", 0.0425e9, 234_496),
        ("BERT-base", 0.170e9, 58_368),
        ("XLM-R large", 0.604e9, MOST),
        ("Qwen3 0.6B", 0.881e9, MOST),
        ("Qwen3 8B", 13.892e9, MOST),
        ("nothing", 0, MOST_OF_SMALL_MODELS),
    ],
)
def test_a_small_model_may_have_more(name: str, operations: float, wanted: int) -> None:
    assert most_tokens(int(operations)) == wanted


def test_more_is_still_within_the_memory() -> None:
    peak_bytes, _ = linear(GB, 20_000)
    assert token_budget(peak_bytes, 80 * GB, 512, MOST_OF_SMALL_MODELS) == MOST_OF_SMALL_MODELS
    found = token_budget(peak_bytes, 4 * GB, 512, MOST_OF_SMALL_MODELS)
    assert MOST < found < MOST_OF_SMALL_MODELS
    assert peak_bytes(found) <= SHARE * 4 * GB < peak_bytes(found + STEP)


def test_not_even_the_small_measurement_fits() -> None:
    def full(tokens: int) -> int:
        raise DeviceOutOfMemory("full")

    with pytest.raises(ModelError, match=rf"leave too little memory \(1\.5 GB\) to embed {LARGE} tokens") as caught:
        token_budget(full, int(1.5 * GB), 512)
    assert not isinstance(caught.value, DeviceOutOfMemory), "halving would not help"
    assert isinstance(caught.value.__cause__, DeviceOutOfMemory)


def test_the_longest_text_would_not_fit() -> None:
    peak_bytes, _ = linear(GB, 1_000_000)
    with pytest.raises(ModelError, match=r"a text of 32768 tokens needs 32\.8 GB .* 20\.0 GB are free") as caught:
        token_budget(peak_bytes, 20 * GB, 32768)
    advised = int(re.search(r"lower max_tokens to (\d+) or less", str(caught.value))[1])
    assert token_budget(peak_bytes, 20 * GB, advised) >= advised
    with pytest.raises(ModelError, match="lower max_tokens"):
        token_budget(peak_bytes, 20 * GB, advised + STEP)
