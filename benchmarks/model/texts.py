"""What is embedded in a benchmark: lengths like those of real corpora, and texts of these lengths.

Lengths are log-normal, cut at the mix's most; the spread of 0.8 gives unsorted batches of 32 the 70 % of padding that
is seen with passages of web pages.

Without a real tokenizer the texts are words of a made-up vocabulary, one token each, so that lengths are exact and all
models see the same ids. Their words differ in length from text to text by 13 %, as English does under Qwen's tokenizer:
a tool that sorts by characters shall not sort better here than on real text.

Legend: N texts.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from actors.embedder import selfcheck
from actors.tokenizer.text import TextTokenizer

SPREAD = 0.8  # standard deviation of the logarithm of the lengths
QUANTILES = 4096
CHARACTER_SPREAD = 0.13
CHARACTERS = 10  # of a made-up word, in the mean
CLASSES = range(7, 15)  # characters of a made-up word
UNKNOWN = "[UNK]"
WORD_END = re.compile(r"\s+")


@dataclass(frozen=True)
class Mix:
    """Tokens a text, special tokens included: mean after cutting, and most."""

    mean: int
    most: int


MIXES = {"short": Mix(120, 512), "mid": Mix(400, 2048), "long": Mix(2000, 8192)}


def lengths(mix: Mix, tokens: int, least: int, seed: int) -> np.ndarray:
    """Lengths of about tokens / mean texts, int64 [N], between `least` and mix.most, in random order.

    One length is drawn from each of N equally likely parts of the distribution, so few texts show its shape too.
    """
    count = max(1, round(tokens / mix.mean))
    rng = np.random.default_rng(seed)
    places = rng.permutation((np.arange(count) + rng.random(count)) / count)
    normal = NormalDist()
    drawn = np.array([normal.inv_cdf(min(max(p, 1e-9), 1 - 1e-9)) for p in places.tolist()])
    return np.clip(np.rint(np.exp(_centre(mix) + SPREAD * drawn)), least, mix.most).astype(np.int64)


def _centre(mix: Mix) -> float:
    """The mean of the logarithm that gives mix.mean after cutting, by bisection."""
    normal = NormalDist()
    z = np.array([normal.inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    low, high = 0.0, float(np.log(mix.most))
    for _ in range(50):
        middle = (low + high) / 2
        if np.clip(np.exp(middle + SPREAD * z), 1, mix.most).mean() < mix.mean:
            low = middle
        else:
            high = middle
    return low


# ---------------------------------------------------------------------- made-up words


def write_word_tokenizer(folder: Path, vocabulary: int, template: tuple[str, ...]) -> None:
    """tokenizer.json and tokenizer_config.json of a tokenizer with one token a word and ids 0 .. vocabulary - 1.

    template: the special tokens around a text, "$A" standing for the text: ("[CLS]", "$A", "[SEP]").
    The words of the self-check and "test" are in it, so that these texts are not all unknown words.
    """
    specials = ["[PAD]", UNKNOWN, *(name for name in template if name != "$A")]
    real = sorted({"test", *(word for text in selfcheck.TEXTS for word in text.split())})
    names = [*specials, *real]
    vocab = {name: i for i, name in enumerate(names[:vocabulary])}
    vocab |= {word(i): i for i in range(len(vocab), vocabulary)}
    parts: list[dict[str, Any]] = [
        {"Sequence": {"id": "A", "type_id": 0}} if name == "$A" else {"SpecialToken": {"id": name, "type_id": 0}}
        for name in template
    ]
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(name, i) for i, name in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": parts,
            "pair": [*parts, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {
                name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in specials if name in template
            },
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": UNKNOWN},
    }
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": UNKNOWN}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def word(number: int) -> str:
    """The made-up word with this id; its characters go through CLASSES as the ids go on."""
    return f"w{number}".ljust(CLASSES[number % len(CLASSES)], "x")


def made_up(lengths_N: np.ndarray, vocabulary: int, seed: int) -> list[str]:
    """Texts of exactly so many made-up words (0 gives an empty text)."""
    rng = np.random.default_rng(seed)
    classes = len(CLASSES)
    first, end = (number // classes * classes for number in (vocabulary // 4, vocabulary))  # the first ones are special
    usable = np.arange(first, end).reshape(-1, classes)
    found = []
    wanted_N = CHARACTERS * (1 + CHARACTER_SPREAD * rng.standard_normal(len(lengths_N)))
    for length, characters in zip(lengths_N.tolist(), wanted_N.tolist(), strict=True):
        place = np.clip(characters - CLASSES[0] + rng.random(length), 0, classes - 1).astype(np.int64)
        rows = rng.integers(0, len(usable), length)
        found.append(" ".join(map(word, usable[rows, place].tolist())))
    return found


def _added(name: str, number: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, **flags, "special": True}


# ---------------------------------------------------------------------- real words


def real(lengths_N: np.ndarray, tokenizer: TextTokenizer, seed: int) -> list[str]:
    """Passages of Python's own documentation of about so many tokens, prompt and special tokens not counted.

    A passage ends with a word, so it may be a few tokens short.
    """
    from pydoc_data.topics import topics

    words = WORD_END.split(" ".join(topics[name] for name in sorted(topics)).strip())
    tokens = _tokens_of(sorted(set(words)), tokenizer)
    ends = np.cumsum([tokens[w] for w in words])
    rng = np.random.default_rng(seed)
    found = []
    for length in lengths_N.tolist():
        room = int(ends[-1]) - length
        assert room > 0, f"there are only {ends[-1]} tokens of text"
        first = int(rng.integers(0, int(np.searchsorted(ends, room))))
        before = int(ends[first - 1]) if first else 0
        found.append(" ".join(words[first : int(np.searchsorted(ends, before + length, side="right"))]))
    return found


def _tokens_of(words: Sequence[str], tokenizer: TextTokenizer) -> dict[str, int]:
    """Tokens of each word after a space; in every tokenizer of ours a space ends a word."""
    encoded = tokenizer.encode(["", *(f"a {w}" for w in words), "a"])
    counts = np.diff(encoded.offsets)
    return dict(zip(words, (counts[1:-1] - counts[-1]).tolist(), strict=True))


def summary(lengths_N: np.ndarray) -> dict[str, float]:
    """What the lengths came out as."""
    return {
        "documents": len(lengths_N),
        "tokens": int(lengths_N.sum()),
        "mean": round(float(lengths_N.mean()), 1),
        "median": float(np.median(lengths_N)),
        "most": int(lengths_N.max()),
        "fill_of_batches_of_32": round(_fill(lengths_N, 32), 3),
    }


def _fill(lengths_N: np.ndarray, size: int) -> float:
    """Real tokens over computed tokens when batches are taken as they come and padded to their longest."""
    offsets = range(0, len(lengths_N), size)
    return float(lengths_N.sum() / sum(len(b) * b.max() for b in (lengths_N[i : i + size] for i in offsets)))
