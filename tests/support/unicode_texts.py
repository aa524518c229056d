"""Random texts that tokenizers disagree about: many scripts, normal forms, emoji, control tokens, white space."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Sequence

# First and last letter of what is drawn from; unassigned places in between are wanted.
BLOCKS = (
    *((0x20, 0x7E), (0xA0, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F)),
    *((0x530, 0x58F), (0x590, 0x5FF), (0x600, 0x6FF), (0x700, 0x7BF), (0x900, 0x97F), (0x980, 0x9FF), (0xA00, 0xAFF)),
    *((0xB00, 0xBFF), (0xC00, 0xCFF), (0xD00, 0xDFF), (0xE00, 0xE7F), (0xE80, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x109F)),
    *((0x10A0, 0x10FF), (0x1100, 0x11FF), (0x1200, 0x137F), (0x1780, 0x17FF), (0x1800, 0x18AF), (0x1AB0, 0x1AFF)),
    *((0x1E00, 0x1FFF), (0x2000, 0x20CF), (0x20D0, 0x20FF), (0x2100, 0x23FF), (0x2460, 0x2BFF), (0x3000, 0x30FF)),
    *((0x3130, 0x318F), (0x4E00, 0x9FFF), (0xA000, 0xABFF), (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xF900, 0xFAFF)),
    *((0xFB00, 0xFDFF), (0xFE00, 0xFE4F), (0xFF00, 0xFFFF), (0x10000, 0x10FFF), (0x11000, 0x11FFF), (0x1D400, 0x1D7FF)),
    *((0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF), (0x0, 0x10FFFF)),
)
SPACES = (
    " ",
    "  ",
    "    ",
    "\n",
    "\n\n",
    "\r\n",
    "\t",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u2028",
    "\x85",
    "\x0b",
    "\x1c",
    "\u200b",
)
PIECES = (
    *(
        "'s",
        "'S",
        "'ſ",
        "'LL",
        "'ve",
        "don't",
        "l'été",
        "...",
        "!?",
        "://",
        "--",
        "=" * 30,
        "{}[]",
        "<",
        "|",
        ">",
        "</",
    ),
    *(
        "1",
        "2026",
        "3.14",
        "１２",
        "٣",
        "²",
        "Ⅻ",
        "½",
        "hello",
        "World",
        "ﬁ",
        "İstanbul",
        "straße",
        "中文",
        "日本語",
        "か\u3099",
    ),
    *(
        "e\u0301",
        "o\u0323\u0302",
        "\u0301",
        "\u212b",
        "\u1e9b\u0323",
        "\u0f73",
        "\u0eb2\u0eba",
        "\u0d15\u0d3b",
        "ที่",
        "ກໍາ",
        "क्षि",
    ),
    *("👨‍👩‍👧", "🇩🇪", "👍🏽", "☕\ufe0f", "🙂", "\u200d", "\ufeff", "\x00", "\x7f", "\U0010ffff", "\ufffd"),
)
CONTROL_TOKENS = (
    *(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_pad|>",
        "<|fim_prefix|>",
        "<tool_call>",
        "</tool_response>",
    ),
    *("<think>", "</think>", "<|endoftext|", "<think >", "[MASK]", "</s>"),
)


def random_texts(count: int, seed: int, control_tokens: Sequence[str] = CONTROL_TOKENS) -> list[str]:
    """`count` texts of 0 to some 300 letters; a seed always gives the same ones. A quarter is decomposed (NFD)."""
    draw = random.Random(seed)
    return [_text(draw, control_tokens) for _ in range(count)]


def every_character() -> list[str]:
    """One text for each of Unicode's 1,112,064 characters: alone, doubled, by letters, digits, marks and breaks."""
    letters = map(chr, (*range(0xD800), *range(0xE000, 0x110000)))
    return [f"a{c}b {c}{c}1{c}\n{c}'s{c}'{c} e{c}\u0301{c}\u0327 {c}" for c in letters]


def _text(draw: random.Random, control_tokens: Sequence[str]) -> str:
    first, last = draw.choice(BLOCKS)
    parts = []
    for _ in range(int(draw.paretovariate(0.7)) % 60):
        kind = draw.random()
        if kind < 0.5:
            parts.append("".join(_letter(draw, first, last) for _ in range(draw.randint(1, 8))))
        elif kind < 0.75:
            parts.append(draw.choice(SPACES))
        elif kind < 0.95 or not control_tokens:
            parts.append(draw.choice(PIECES))
        else:
            parts.append(draw.choice(control_tokens))
        if draw.random() < 0.1:
            first, last = draw.choice(BLOCKS)
    text = "".join(parts)
    return unicodedata.normalize("NFD", text) if draw.random() < 0.25 else text


def _letter(draw: random.Random, first: int, last: int) -> str:
    code = draw.randint(first, last)
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)
