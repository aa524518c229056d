"""Texts cut to a room of so many tokens, without reading a huge text to its end. Pure numpy.

Legend: N texts, T tokens in all.
"""

from collections.abc import Callable, Sequence

import numpy as np

from actors import packed

# N texts -> their ids int32 [T], without special tokens, and lengths int64 [N]
Content = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]
# A text is first read up to this many characters per wanted token; the longest words of real text stay well below.
HEAD_CHARS_PER_TOKEN = 24


def content_of_heads(content: Content, texts: list[str], room: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 [T] and lengths int64 [N] of the texts, of which a long one is read only until it fills `room`.

    A head ends before a white space, which changes no token but the last ones, and two more than `room` are asked for.
    """
    heads = [_head(text, HEAD_CHARS_PER_TOKEN * (room + 2)) for text in texts]
    ids_T, lengths_N = content(heads)
    short = [i for i in np.flatnonzero(lengths_N < room + 2).tolist() if len(heads[i]) < len(texts[i])]
    if not short:
        return ids_T, lengths_N
    pieces = np.split(ids_T, np.cumsum(lengths_N)[:-1])
    for i in short:
        pieces[i] = content([texts[i]])[0]
    return np.concatenate(pieces), np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))


def around(
    content_T: np.ndarray,
    content_N: np.ndarray,
    kept_N: np.ndarray,
    prefix: np.ndarray,
    suffix: np.ndarray,
    cut_left: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The first kept_N tokens of every text, or its last, between prefix and suffix: ids int32 [T], lengths int64 [N].

    content_T holds content_N tokens of each text.
    """
    lengths_N = kept_N + len(prefix) + len(suffix)
    ends_N = np.cumsum(lengths_N)
    starts_N = ends_N - lengths_N
    ids_T = np.empty(int(lengths_N.sum()), dtype=np.int32)
    ids_T[(starts_N[:, None] + np.arange(len(prefix))).ravel()] = np.tile(prefix, len(kept_N))
    ids_T[(ends_N[:, None] - len(suffix) + np.arange(len(suffix))).ravel()] = np.tile(suffix, len(kept_N))
    source = packed.ranges(np.cumsum(content_N) - (kept_N if cut_left else content_N), kept_N)
    ids_T[packed.ranges(starts_N + len(prefix), kept_N)] = content_T[source]
    return ids_T, lengths_N


def _head(text: str, characters: int) -> str:
    """The text up to the last word end within so many characters; the whole text if it has none there."""
    if len(text) <= characters:
        return text
    # Not inside a run of white space: some vocabularies have tokens for whole runs.
    places = range(characters, characters // 2, -1)
    end = next((i for i in places if text[i].isspace() and not text[i - 1].isspace()), None)
    return text if end is None else text[:end]
