"""The forms that vectors may be stored in: what is found in each, and how large it is."""

from functools import partial

import numpy as np
import pytest

from pipelines.search.evaluation import forms
from pipelines.search.evaluation.nearest import Best
from tests.support.evaluating import unit_vectors

unit = partial(unit_vectors, np.random.default_rng(7))


@pytest.mark.parametrize("dimensions", [32, 100])
def test_coarse_forms_find_what_their_definition_says(dimensions):
    documents, queries = unit(700, dimensions), unit(3, dimensions)
    signs = np.where(documents > 0, 1.0, -1.0)
    binary, beside = (form for form in forms.FORMS if form.coarse)
    for form, exact in (binary, queries @ signs.T), (beside, queries @ documents.astype(np.float16).T):
        best = Best(queries, 20, coarse=True)
        best.add(form.encode(documents, np.abs(documents).max(axis=0)), np.arange(700))
        hamming = ((queries[:, None, :] > 0) != (documents[None] > 0)).sum(axis=2)
        for query, found in enumerate(best.documents()):
            candidates = np.partition(hamming[query], 79)[79]
            assert all(hamming[query, one] <= candidates for one in found)
            nearer = np.flatnonzero(hamming[query] < candidates)
            right = sorted({*found, *nearer.tolist()}, key=lambda one: -exact[query, one])[:20]
            assert exact[query, found] == pytest.approx(exact[query, right], abs=1e-3)
    assert [form.bytes(dimensions) for form in (binary, beside)] == [
        -(-dimensions // 8),
        -(-dimensions // 8) + 2 * dimensions,
    ]


@pytest.mark.parametrize("name", ["int8, per dimension", "int8, per vector", "float16"])
def test_rounded_forms_are_near(name):
    documents, queries = unit(200, 64), unit(5, 64)
    form = next(form for form in forms.FORMS if form.name == name)
    codes = form.encode(documents, np.abs(documents).max(axis=0))
    found = codes.scores(queries)
    assert 0 < np.abs(found - queries @ documents.T).max() < 0.01
    assert form.bytes(64) == {"int8, per dimension": 64, "int8, per vector": 68, "float16": 128}[name]


def test_cutting_gives_unit_vectors_and_keeps_zeros():
    vectors = np.vstack([unit(4, 64), np.zeros((1, 64))])
    short = forms.cut(vectors, 16)
    assert np.linalg.norm(short, axis=1) == pytest.approx([1, 1, 1, 1, 0])
    assert short[0] == pytest.approx(vectors[0, :16] / np.linalg.norm(vectors[0, :16]))
