"""A real model (all-MiniLM-L6-v2) against transformers' plain padded forward and mean pooling, written out here."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from actors.embedder.embedder import Embedder
from actors.embedder.reference import EmbedReference
from actors.spec import ModelSpec, ReplicaBroken
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import locate

SPEC = ModelSpec("bundled", device="cpu", threads=1, dtype="float32")
SCRIPTS = [
    "The cat sits on the mat.",
    "苹果手机真好用",
    "今天天气不错",
    "Быстрая лиса прыгает через собаку",
    "שלום עולם",
    "สวัสดีชาวโลก",
    "नमस्ते दुनिया",
    "カタカナとひらがな",
    "naïve café, Ǆ İstanbul ẞ",
    "def f(x):\n\treturn x ** 2  # comment",
    "🙂🙃 emoji 👩‍👩‍👧",
]
ODD = [
    "",
    " ",
    "a",
    "\u0000\u200b",
    "[SEP] in the [CLS] text [PAD] [MASK]",
    "a\n\n\nb",
    "word " * 5000,
    "x" * 5000,
    "￿",
]


def varied_texts() -> list[str]:
    rng = np.random.default_rng(3)
    words = " ".join(SCRIPTS).split()
    drawn = [" ".join(rng.choice(words, size=n)) for n in rng.integers(1, 60, size=60)]
    equal = [f"item {i}" for i in range(20)]
    return [*SCRIPTS, *drawn, *ODD, *equal]


def padded_mean(texts: list[str]) -> np.ndarray:
    folder = str(locate(SPEC))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    vectors = []
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for at in range(0, len(texts), 16):
        some = [texts[i] for i in order[at : at + 16]]
        batch = tokenizer(some, padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state.double()
        weight = batch["attention_mask"].double()[..., None]
        vectors.append((states * weight).sum(1) / weight.sum(1))
    pooled = torch.cat(vectors).numpy()[np.argsort(order)]
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(SPEC)


def test_equals_the_padded_forward(embedder: Embedder) -> None:
    texts = varied_texts()
    assert len(texts) == 100
    np.testing.assert_allclose(embedder.embed_documents(texts), padded_mean(texts), atol=1e-5)


def test_neighbours_and_order_change_nothing(embedder: Embedder) -> None:
    texts = varied_texts()[:30]
    together = embedder.embed_documents(texts)
    alone = np.concatenate([embedder.embed_documents([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(texts))
    np.testing.assert_allclose(embedder.embed_documents([texts[i] for i in order]), together[order], atol=1e-5)


def test_ids_are_those_of_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(locate(SPEC)))
    texts = varied_texts()
    wanted = [tokenizer(text, truncation=True, max_length=256).input_ids for text in texts]
    encoded = TextTokenizer(SPEC).encode(texts)
    found = [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]
    assert found == wanted
    full = [len(tokenizer(text).input_ids) > 256 for text in texts]
    assert encoded.truncated.tolist() == full
    assert sum(full) == 1


def test_the_reference_agrees(embedder: Embedder) -> None:
    texts = [*SCRIPTS, *ODD]
    np.testing.assert_allclose(embedder.embed_documents(texts), EmbedReference(SPEC).embed(texts), atol=1e-5)


def test_nothing_to_embed(embedder: Embedder) -> None:
    assert embedder.embed_documents([]).shape == (0, 384)
    with pytest.raises(ValueError, match="sequence 1 has no tokens"):
        embedder.embed(np.array([101, 102], dtype=np.int32), np.array([0, 2, 2]))


def test_meaning_crosses_from_query_to_document(embedder: Embedder) -> None:
    documents = embedder.embed_documents(["Beijing is the capital of China.", "Gravity pulls bodies together."])
    queries = embedder.embed_queries(["What is the capital of China?", "Explain gravity"])
    assert (queries @ documents.T).argmax(axis=1).tolist() == [0, 1]


def test_a_micro_batch_that_does_not_fit_is_halved(embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = varied_texts()[:40]
    wanted = embedder.embed_documents(texts)
    monkeypatch.setattr(embedder, "token_budget", embedder.token_budget)  # it stays halved
    pooled, sizes = embedder._model._network.pooled, []

    def small_memory(ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 100 and len(lengths) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pooled(ids, lengths)

    monkeypatch.setattr(embedder._model._network, "pooled", small_memory)
    np.testing.assert_allclose(embedder.embed_documents(texts), wanted, atol=1e-5)
    assert max(sizes) > 100

    def no_memory(ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedder._model._network, "pooled", no_memory)
    with pytest.raises(ReplicaBroken, match=r"not even a single text fits: .*1 texts, .* lower max_tokens"):
        embedder.embed_documents(texts)
