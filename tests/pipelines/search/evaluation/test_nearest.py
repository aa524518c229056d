"""The best of many parts are those of the whole."""

from functools import partial

import numpy as np
import pytest

from pipelines.search.evaluation import forms
from pipelines.search.evaluation.nearest import Best
from tests.support.evaluating import unit_vectors

RNG = np.random.default_rng(7)
unit = partial(unit_vectors, RNG)


@pytest.mark.parametrize("passages_each", [1, 3])
def test_parts_give_what_the_whole_gives(passages_each, monkeypatch):
    """Passages of a document lie in one part or in several; its score is the best one's."""
    monkeypatch.setattr("pipelines.search.evaluation.nearest.QUERIES_AT_ONCE", 3)
    passages, queries = unit(300, 24), unit(7, 24)
    documents = RNG.permutation(np.repeat(np.arange(300 // passages_each) * 7, passages_each))
    best = Best(queries, 10, coarse=False)
    for at in range(0, 300, 47):
        best.add(forms.Floats(passages[at : at + 47]), documents[at : at + 47])
    for query, found in enumerate(best.documents()):
        scores = {}
        for document, score in zip(documents.tolist(), queries[query] @ passages.T, strict=True):
            scores[document] = max(score, scores.get(document, -2))
        assert found == sorted(scores, key=scores.get, reverse=True)[:10]


def test_fewer_documents_than_asked_for():
    best = Best(unit(2, 8), 10, coarse=False)
    best.add(forms.Floats(unit(6, 8)), np.array([1, 1, 2, 2, 3, 3]))
    assert [sorted(found) for found in best.documents()] == [[1, 2, 3]] * 2
