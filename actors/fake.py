"""The words of the fake models: a word is known by a hash, and has a fixed random vector.

Nothing is learnt and nothing is downloaded. Word vectors are small integers and their sums are exact, so what a fake
model makes of them is the same bit for bit in every process, micro-batch and platform.

Legend: N texts, T tokens in all, D dimensions.
"""

import functools
import re
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DIMENSIONS = 64
MAX_DIMENSIONS = 1024
MAX_TOKENS = 512
MAX_POSITIONS = 32768
WORDS = 32768
END_ID = WORDS
VOCABULARY = WORDS + 1
DIGEST = "fake-1"
TOKEN_BUDGET = 65536

_WORD = re.compile(r"\w+")


class HashedWords:
    """The fakes' tokenizer: every lower-cased word is crc32(word) % 32768; an end token closes the text."""

    prefix = np.zeros(0, dtype=np.int32)
    # An empty text has this one token, so that it has a vector as it has with a real model.
    suffix = np.array([END_ID], dtype=np.int32)
    unknown_id: int | None = None
    cut_left = False

    def content(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Word ids, int32 [T], and words per text, int64 [N]."""
        words_N = [_WORD.findall(text.lower()) for text in texts]
        lengths_N = np.fromiter(map(len, words_N), dtype=np.int64, count=len(words_N))
        crc32 = zlib.crc32
        hashes = (crc32(word.encode()) for words in words_N for word in words)
        hashes_T = np.fromiter(hashes, dtype=np.uint32, count=int(lengths_N.sum()))
        return (hashes_T % WORDS).astype(np.int32), lengths_N

    def offsets(self, text: str) -> np.ndarray:
        """Where each word stands, in characters, int32 [n, 2]."""
        pairs = [match.span() for match in _WORD.finditer(text)]
        return np.array(pairs, dtype=np.int32).reshape(-1, 2)


@functools.lru_cache(maxsize=2)
def word_vectors(dimensions: int) -> np.ndarray:
    """int32 [VOCABULARY, D] in -127..128; a shorter D is a prefix of a longer one. splitmix64, spelled out so that no
    library's choice of generator can change it."""
    words = np.arange(VOCABULARY, dtype=np.uint64)[:, None]
    columns = np.arange(dimensions, dtype=np.uint64)[None, :]
    state = (words * np.uint64(MAX_DIMENSIONS) + columns + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    table = ((state ^ (state >> np.uint64(31))) & np.uint64(0xFF)).astype(np.int32) - 127
    # Every text ends with this token: kept small, or it would make all texts alike.
    table[END_ID] = np.sign(table[END_ID])
    return table


@dataclass(frozen=True)
class Pending:
    """A result on its way, and when the simulated device has it (time.monotonic)."""

    values: np.ndarray
    at: float


class SimulatedDevice:
    """Does so many tokens a second of what is queued on it, one micro-batch after the other; None: in no time.

    Like a GPU it is waited for by `fetch` alone. began: when it first had something to do; free: when it has done all
    that is queued; busy_seconds: of work in all, done or queued."""

    def __init__(self, tokens_per_second: float | None) -> None:
        self._seconds_per_token = 1 / tokens_per_second if tokens_per_second else 0.0
        self.began: float | None = None
        self.free = 0.0
        self.busy_seconds = 0.0

    def queue(self, tokens: int) -> float:
        """When a micro-batch is done that comes now."""
        now = time.monotonic()
        self.began = now if self.began is None else self.began
        seconds = tokens * self._seconds_per_token
        self.free = max(now, self.free) + seconds
        self.busy_seconds += seconds
        return self.free

    def fetch(self, pending: Pending) -> np.ndarray:
        """The result; waits for it."""
        time.sleep(max(0.0, pending.at - time.monotonic()))
        return pending.values
