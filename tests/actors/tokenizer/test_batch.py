"""fastokens gives the ids of tokenizers, is used only when proven, and never where it is not."""

import importlib.metadata
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from actors.spec import ModelSpec
from actors.tokenizer.batch import PROBE, TESTED_VERSION, BatchTokenizer, is_installed
from actors.tokenizer.text import TextTokenizer
from tests.support.unicode_texts import CONTROL_TOKENS, random_texts


@pytest.fixture(scope="module")
def qwen(qwen_tokenizers: dict[str, Path]) -> TextTokenizer:
    return TextTokenizer(ModelSpec(str(qwen_tokenizers["embedding"])))


@pytest.fixture(scope="module")
def fast(qwen: TextTokenizer) -> BatchTokenizer:
    """Qwen3's tokenizer, read by fastokens from the first character on."""
    if not is_installed():
        pytest.skip(f"fastokens {TESTED_VERSION} is not installed: pip install -e '.[fast]'")
    return BatchTokenizer(qwen._words._tokenizer, fast_after=0)


def same(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_fastokens_gives_the_same_ids(fast: BatchTokenizer, qwen: TextTokenizer) -> None:
    texts = [*CONTROL_TOKENS, *PROBE, *random_texts(4000, seed=4), "x" * 20_000, " \n" * 9000]
    found = fast.content(texts)
    assert fast.is_fast
    assert same(found, qwen._words.content(texts))
    assert same(fast.content([]), qwen._words.content([]))


def test_the_text_tokenizer_gives_the_same_with_fastokens(
    fast: BatchTokenizer, qwen: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [*CONTROL_TOKENS, *random_texts(500, seed=5)]
    slow = qwen.encode(texts)
    monkeypatch.setattr(qwen._words, "content", fast.content)
    found = qwen.encode(texts)
    assert found.ids.tolist() == slow.ids.tolist()
    assert found.offsets.tolist() == slow.offsets.tolist()


def test_half_a_surrogate_pair_is_the_same_error(fast: BatchTokenizer, qwen: TextTokenizer) -> None:
    for content in (fast.content, qwen._words.content):
        with pytest.raises(TypeError):
            content(["a\ud800b"])


class Fastokens:
    """In fastokens' place: what it says of itself, and what it does to the ids of tokenizers."""

    def __init__(self, reference: Tokenizer, spoil: Callable[[list[int]], list[int]]) -> None:
        self.loaded, self._reference, self._spoil = 0, reference, spoil
        self.Tokenizer = self

    def from_json_str(self, definition: str) -> "Fastokens":
        self.loaded += 1
        return self

    def encode_batch_flat(self, texts: list[str], add_special_tokens: bool) -> tuple[bytes, bytes]:
        ids = [self._spoil(found.ids) for found in self._reference.encode_batch(texts, add_special_tokens=False)]
        offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        return np.array([i for row in ids for i in row], dtype=np.int32).tobytes(), offsets.tobytes()


def byte_level(tokens: tuple[str, ...] = ("<mask>",)) -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.add_special_tokens([AddedToken(token) for token in tokens])
    return tokenizer


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch):
    """Puts a Fastokens in fastokens' place."""

    def do(tokenizer: Tokenizer, spoil: Callable = lambda ids: ids, version: str | None = None) -> Fastokens:
        pretended = Fastokens(tokenizer, spoil)
        monkeypatch.setitem(sys.modules, "fastokens", pretended)
        monkeypatch.setattr(importlib.metadata, "version", lambda _: version or TESTED_VERSION)
        return pretended

    return do


def test_fastokens_is_loaded_when_there_is_much_to_read(pretend) -> None:
    tokenizer = byte_level()
    pretended, batch = pretend(tokenizer), BatchTokenizer(tokenizer, fast_after=10)
    batch.content(["12345", "67890"])
    assert (pretended.loaded, batch.is_fast) == (0, False)
    batch.content(["1"])
    assert (pretended.loaded, batch.is_fast) == (1, True)
    batch.content(["2" * 1000])
    assert pretended.loaded == 1


@pytest.mark.parametrize(
    "spoil", [lambda ids: [*ids, 0], lambda ids: ids[:-1], lambda ids: [i ^ (i == 40) for i in ids]]
)
def test_other_ids_in_the_probe_are_the_end_of_fastokens(pretend, spoil: Callable) -> None:
    tokenizer = byte_level()
    pretended, batch = pretend(tokenizer, spoil), BatchTokenizer(tokenizer, fast_after=0)
    found = [batch.content(["It is"])[0].tolist() for _ in range(2)]
    assert found == [tokenizer.encode("It is").ids] * 2
    assert (pretended.loaded, batch.is_fast) == (1, False)


def test_the_probe_has_the_added_tokens_of_the_tokenizer(pretend) -> None:
    tokenizer = byte_level(("<mask>", "«only here»"))
    own = tokenizer.token_to_id("«only here»")
    batch = BatchTokenizer(tokenizer, fast_after=0)
    pretend(tokenizer, lambda ids: [0 if i == own else i for i in ids])
    assert batch.content(["«only here»"])[0].tolist() == [own]
    assert not batch.is_fast


def test_only_the_tested_version_is_used(pretend) -> None:
    tokenizer = byte_level()
    pretended, batch = pretend(tokenizer, version="0.3.6"), BatchTokenizer(tokenizer, fast_after=0)
    batch.content(["a"])
    assert (pretended.loaded, batch.is_fast) == (0, False)


def test_without_fastokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    tokenizer = byte_level()
    batch = BatchTokenizer(tokenizer, fast_after=0)
    assert batch.content(["ab"])[0].tolist() == tokenizer.encode("ab").ids
    assert not batch.is_fast


def test_what_fastokens_cannot_do_tokenizers_does(pretend) -> None:
    for change in (
        {"normalizer": normalizers.NFKC()},
        {"normalizer": normalizers.Lowercase()},
        {"pre_tokenizer": None},
    ):
        tokenizer = byte_level()
        for name, value in change.items():
            setattr(tokenizer, name, value)
        pretended, batch = pretend(tokenizer), BatchTokenizer(tokenizer, fast_after=0)
        batch.content(["a"])
        assert (pretended.loaded, batch.is_fast) == (0, False), change


def test_a_text_that_fastokens_refuses_is_read_by_tokenizers(pretend) -> None:
    tokenizer = byte_level()
    forbidden = tokenizer.encode("Zz").ids

    def refuse(ids: list[int]) -> list[int]:
        if ids == forbidden:
            raise ValueError("match limit exceeded")
        return ids

    pretend(tokenizer, refuse)
    batch = BatchTokenizer(tokenizer, fast_after=0)
    assert batch.content(["a", "Zz"])[0].tolist() == tokenizer.encode("a").ids + forbidden
    assert batch.is_fast
