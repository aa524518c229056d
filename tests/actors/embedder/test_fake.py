"""The fake embedder: the same everywhere, as fast as asked, and alike for texts that share words."""

import subprocess
import sys
import time

import numpy as np

from actors.embedder.embedder import Embedder
from actors.embedder.reference import EmbedReference
from actors.spec import ModelSpec

TEXTS = ["the cat sat", "the dog sat", "quantum field theory", "", "the cat sat on the mat " * 50]
FAKE = ModelSpec("fake")
KNOWN = [-0.742658, -0.440093, 0.165035, 0.262834, 0.247553, 0.311733]


def test_the_fake_knows_shared_words() -> None:
    embedder = Embedder(ModelSpec("fake"))
    vectors = embedder.embed_documents(TEXTS)
    assert embedder.dimensions == 64
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.4 > abs(vectors[0] @ vectors[2])
    np.testing.assert_array_equal(vectors, EmbedReference(FAKE).embed(TEXTS))
    np.testing.assert_array_equal(vectors[[3, 1]], embedder.embed_documents([TEXTS[3], TEXTS[1]]))


def test_the_fake_is_the_same_everywhere() -> None:
    code = (
        "import sys; from actors.embedder.embedder import Embedder; from actors.spec import ModelSpec;"
        "print(Embedder(ModelSpec('fake', dimensions=6)).embed_documents(['the cat sat']).tobytes().hex());"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    vector = Embedder(ModelSpec("fake", dimensions=6)).embed_documents(["the cat sat"])
    assert found == vector.tobytes().hex()
    np.testing.assert_allclose(vector[0], KNOWN, atol=1e-6)


def test_the_fake_runs_at_the_speed_asked() -> None:
    embedder = Embedder(ModelSpec("fake:2000"))
    begin = time.perf_counter()
    embedder.embed_documents(["one two three four five six seven eight nine"] * 40)
    assert 0.2 <= time.perf_counter() - begin < 5
