"""The fake embedder: the same everywhere, as fast as asked, and alike for texts that share words."""

import subprocess
import sys
import time

import numpy as np
import pytest

from actors.embedder.embedder import Embedder
from actors.embedder.fake import FakeEmbedModel
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


def test_only_the_result_is_waited_for() -> None:
    """The simulated device is busy until it has done what was queued, one micro-batch after the other."""
    model = FakeEmbedModel(64, tokens_per_second=20)
    begin = time.perf_counter()
    first, second = (model.encode(np.arange(20), np.array([20])) for _ in range(2))
    assert time.perf_counter() - begin < 1.0
    assert second.at - first.at == pytest.approx(1.0)
    np.testing.assert_array_equal(model.to_host(second), model.vectors(np.arange(20), np.array([20])))
    assert time.perf_counter() - begin >= 2.0 - 1e-3
    assert model.device.busy_seconds == pytest.approx(model.device.free - model.device.began)
    time.sleep(0.1)
    model.encode(np.arange(1), np.array([1]))
    idle = model.device.free - model.device.began - model.device.busy_seconds
    assert idle >= 0.1 - 1e-3
