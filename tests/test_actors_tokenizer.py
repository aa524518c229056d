"""Cutting, prompts and spans, with the real WordPiece of MiniLM and with the fake."""

import time

import numpy as np
import pytest

from actors.spec import ModelSpec
from actors.tokenizer import HEAD_CHARS_PER_TOKEN, TextTokenizer

CLS, SEP = 101, 102


def rows(encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def test_truncation_is_counted_and_the_suffix_kept() -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled", max_tokens=6))
    assert (tokenizer.max_tokens, tokenizer.special_tokens) == (6, 2)
    encoded = tokenizer.encode(["one two three four", "one two three four five", "", "one two three four five six"])
    assert encoded.truncated.tolist() == [False, True, False, True]
    found = rows(encoded)
    assert found[1] == found[3] == found[0]
    assert found[2] == [CLS, SEP]
    assert all(row[0] == CLS and row[-1] == SEP for row in found)
    assert (encoded.ids.dtype, encoded.offsets.dtype, encoded.truncated.dtype) == (np.int32, np.int64, np.bool_)


def test_no_texts() -> None:
    encoded = TextTokenizer(ModelSpec("bundled")).encode([])
    assert encoded.offsets.tolist() == [0]
    assert len(encoded.ids) == len(encoded.truncated) == 0


def test_a_prompt_goes_in_front_and_counts() -> None:
    bare = TextTokenizer(ModelSpec("bundled", max_tokens=6))
    prompted = TextTokenizer(ModelSpec("bundled", max_tokens=6, prompt="note: "))
    assert rows(prompted.encode(["one two three"])) == rows(bare.encode(["note: one two"]))
    assert prompted.encode(["one two three"]).truncated.tolist() == [True]
    assert rows(TextTokenizer(ModelSpec("bundled", prompt="")).encode(["one"])) == rows(bare.encode(["one"]))


@pytest.mark.parametrize("space", [" ", "\n\n  ", "\u3000"])
def test_reading_only_the_head_of_a_long_text_gives_the_same_ids(space: str) -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled", max_tokens=16))
    words = ["antidisestablishmentarianism", "a", "don't", "日本", "...", "[SEP]", "zzz" * 20]
    texts = [space.join(np.random.default_rng(seed).choice(words, 400)) for seed in range(20)]
    texts.append(("zq" * 60 + " ") * 20)  # each word one [UNK], the half of one a lot of tokens
    texts += [" " * 5000 + "end", "x" * 5000 + " end", ("\u200b" * 50 + " ") * 100 + "end"]
    assert all(len(text) > HEAD_CHARS_PER_TOKEN * 16 for text in texts)
    whole = [tokenizer._words._tokenizer.encode(text).ids for text in texts]
    encoded = tokenizer.encode(texts)
    assert rows(encoded) == [ids if len(ids) <= 16 else [*ids[:15], SEP] for ids in whole]
    assert encoded.truncated.tolist() == [len(ids) > 16 for ids in whole]


def test_a_very_long_text_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled"))
    read, content = [], tokenizer._words.content
    monkeypatch.setattr(tokenizer._words, "content", lambda texts: read.extend(map(len, texts)) or content(texts))
    assert tokenizer.encode(["word " * 2_000_000]).truncated.tolist() == [True]
    assert 0 < sum(read) < 10_000


def test_spans_are_characters_of_the_text() -> None:
    text = "Café 世界 don't 🙂"
    spans = TextTokenizer(ModelSpec("bundled", prompt="note: ")).token_spans(text)
    assert spans.dtype == np.int32
    assert [text[a:b] for a, b in spans] == ["Café", "世", "界", "don", "'", "t", "🙂"]
    assert TextTokenizer(ModelSpec("bundled")).token_spans("").shape == (0, 2)


def test_spans_survive_letters_that_grow_in_lower_case() -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled"))
    tokenizer._lower_case = True
    text = "İİİ Berlin"
    assert text[slice(*tokenizer.token_spans(text)[-1])] == "Berlin"


def test_the_fake_has_the_same_surface() -> None:
    tokenizer = TextTokenizer(ModelSpec("fake", max_tokens=4))
    encoded = tokenizer.encode(["The cat, sat", "the CAT sat down", ""])
    assert encoded.truncated.tolist() == [False, True, False]
    first, second, third = rows(encoded)
    assert first == second
    assert len(third) == tokenizer.special_tokens == 1
    assert tokenizer.token_spans("The cat, sat").tolist() == [[0, 3], [4, 7], [9, 12]]
    assert encoded.ids.max() <= 32768


def test_the_fake_is_fast() -> None:
    tokenizer = TextTokenizer(ModelSpec("fake"))
    texts = ["a short row of text here"] * 20_000
    begin = time.perf_counter()
    tokenizer.encode(texts)
    assert time.perf_counter() - begin < 5  # 0.1 s on an idle core
