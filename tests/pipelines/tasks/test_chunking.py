import re

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from pipelines.tasks.chunking import passages


def words(text):
    return np.array([m.span() for m in re.finditer(r"\w", text)], np.int32).reshape(-1, 2)  # a token a letter


@given(st.text("ab \n", max_size=300), st.integers(1, 20), st.data())
def test_passages_cover_every_token_and_fit(text, most, data):
    overlap = data.draw(st.integers(0, most // 2))
    tokens = words(text)
    spans = passages(text, tokens, most, overlap)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    for start, end in tokens:
        assert any(a <= start and end <= b for a, b in spans)
    for a, b in spans:
        assert sum(1 for s, e in tokens if a <= s and e <= b) <= most
    assert [a for a, _ in spans] == sorted({a for a, _ in spans}), "each starts later than the one before"


def test_short_text_is_one_passage():
    assert passages("hello", words("hello"), 10, 2) == [(0, 5)]
    assert passages("", words(""), 10, 2) == [(0, 0)]


def test_overlap_is_shared():
    text = "abcdefghij"
    assert [text[a:b] for a, b in passages(text, words(text), 4, 1)] == ["abcd", "defg", "ghij"]


def test_cut_at_a_word_boundary_when_one_is_near():
    text = "aaaa aaaa aaaaaa aaaaaaaa"
    pieces = [text[a:b] for a, b in passages(text, words(text), 16, 0)]
    assert pieces[0] == "aaaa aaaa aaaaaa"
    text = "aaaaaaaaaaaaaaa aaaaaaaaaa"
    assert passages(text, words(text), 16, 0)[0] == (0, 15), "one token before the end of the window"
