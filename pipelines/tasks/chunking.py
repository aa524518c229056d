"""Cut a text into passages of at most so many tokens, with overlap.

Works on the character offsets of a text's tokens, so it needs no tokenizer. A passage ends at a word boundary when one
lies in the last eighth of the window, because a cut word embeds badly.
"""

from __future__ import annotations

import numpy as np

Offsets = tuple[int, int]


def passages(text: str, token_offsets: np.ndarray, max_tokens: int, overlap_tokens: int) -> list[Offsets]:
    """Character offsets [start, end) of the passages of `text`, in order; each starts later than the one before.

    token_offsets: int [n, 2], start and end character of each token, special tokens left out.
    max_tokens: content tokens in a passage. Together the passages cover every token; a text without tokens is one."""
    count = len(token_offsets)
    if count <= max_tokens:
        return [(0, len(text))]
    found: list[Offsets] = []
    first = 0
    while True:
        last = min(first + max_tokens, count)  # one past the passage's last token
        if last < count:
            last = _word_boundary(text, token_offsets, last, first + max_tokens - max_tokens // 8)
        start = 0 if first == 0 else int(token_offsets[first][0])
        end = len(text) if last == count else int(token_offsets[last - 1][1])
        found.append((start, end))
        if last == count:
            return found
        first = max(first + 1, last - overlap_tokens)


def _word_boundary(text: str, token_offsets: np.ndarray, last: int, earliest: int) -> int:
    """The largest n <= last, n >= earliest, such that a word ends before token n; `last` if there is none."""
    for n in range(last, earliest - 1, -1):
        start = int(token_offsets[n][0])
        if start < len(text) and (text[start].isspace() or (start > 0 and text[start - 1].isspace())):
            return n
    return last
