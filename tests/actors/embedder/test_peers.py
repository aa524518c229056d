"""The same weights give the vectors of sentence-transformers, whatever the text."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.embedder.embedder import Embedder
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import locate
from actors.weights.recipe import QWEN_QUERY_PROMPT
from tests.support.models import build, write_modules
from tests.support.qwen3 import SMALL, filled, write

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
torch.set_num_threads(1)

MAX_TOKENS = 96
LETTERS = {
    "latin": "abcdefghijklmnopqrstuvwxyzàéîõüßøæœ",
    "cyrillic": "абвгдежзийклмнопрстуфхцчшщыьэюя",
    "greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "arabic": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "devanagari": "अआइईउऊएऐकखगघचछजझटठडढतथदधनपफबभमयरलवशषसहािीुे",
    "thai": "กขคงจฉชซญดตถทนบปผพฟมยรลวสหอะาิีึืเแโ",
    "han": "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏苹果手机真好用今天气不错",
    "kana": "あいうえおかきくけこさしすせそカタカナヒラガナ",
    "hangul": "가나다라마바사아자차카타파하한국어문장",
    "signs": "0123456789+-*/=<>{}[]()\\\"'#@&%$.,;:!?",
    "emoji": "🙂🙃👩‍👧🎉🇫🇷❤️",
}
ODD = [
    *("", " ", "\n", "\t\t\n ", "a", "。", "\u0000", "\u200b\u200d", "\ufeff", "￿", "e\u0301", "İ ẞ ǅ"),
    *("word " * 400, "x" * 3000, "词" * 1500, "🙂" * 300),
    *(
        "<|endoftext|>",
        "a<|endoftext|>b<|im_end|>",
        "<think></think> <tool_call>",
        "<|im_start|>system\nhi<|im_end|>\n",
    ),
    *("[CLS] a [SEP] b [PAD] [MASK]", "<s> a </s> <pad> <mask> </s>", "Instruct: x\nQuery:y"),
]


def random_texts(count: int) -> list[str]:
    """Words of one script or a few, 0 to 80 of them; then the odd ones, and 40 of equal length."""
    rng = np.random.default_rng(5)
    scripts = list(LETTERS.values())

    def word(letters: str) -> str:
        return "".join(rng.choice(list(letters), size=rng.integers(1, 9)))

    def text() -> str:
        chosen = [scripts[i] for i in rng.integers(0, len(scripts), size=rng.integers(1, 3))]
        words = [word(chosen[i % len(chosen)]) for i in range(int(rng.lognormal(2, 1)))][:80]
        return str(rng.choice([" ", " ", "", "\n"])).join(words)

    equal = [f"item {i}" for i in range(10, 50)]
    return [text() for _ in range(count - len(ODD) - len(equal))] + ODD + equal


def peer_of(folder: Path):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})


def resaved(folder: Path, pooling: str, max_tokens: int = MAX_TOKENS, **settings: object) -> Path:
    """The folder as sentence-transformers itself would write it."""
    write_modules(folder, pooling)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 64, "pooling_mode": pooling}))
    peer = peer_of(folder)
    peer.max_seq_length = max_tokens
    for name, value in settings.items():
        setattr(peer, name, value)
    saved = folder.parent / f"{folder.name}-saved"
    peer.save(str(saved))
    return saved


def spec_of(folder: Path, **changes: object) -> ModelSpec:
    return ModelSpec(str(folder), **{"device": "cpu", "dtype": "float32", **changes})


def qwen3_of(folder: Path, **changes: object) -> ModelSpec:
    return spec_of(folder, max_tokens=MAX_TOKENS, **changes)


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


# MiniLM: the one real model at hand.


def test_minilm() -> None:
    folder = locate(ModelSpec("bundled"))
    peer, embedder = peer_of(folder), Embedder(spec_of(folder))
    texts = random_texts(75)
    np.testing.assert_allclose(embedder.embed_documents(texts), peer.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(texts[:20]), peer.encode_query(texts[:20]), atol=1e-5)
    cut = Embedder(spec_of(folder, dimensions=100)).embed_documents(texts[:20])
    wanted = peer.encode_document(texts[:20], truncate_dim=100, normalize_embeddings=True)
    np.testing.assert_allclose(cut, wanted, atol=1e-5)


# Qwen3 with random weights, and the real tokenizer.


@pytest.fixture(scope="module")
def qwen3(qwen_tokenizers: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    shutil.copytree(qwen_tokenizers["embedding"], folder)
    geometry = replace(SMALL, hidden=64, layers=2, head_size=32, vocabulary=151669)
    write(folder, filled(geometry, std=0.05), prefix="model.")
    prompts = {"query": QWEN_QUERY_PROMPT, "document": ""}
    return resaved(folder, "lasttoken", prompts=prompts, default_prompt_name=None)


@pytest.fixture(scope="module")
def qwen3_peer(qwen3: Path):
    return peer_of(qwen3)


@pytest.fixture(scope="module")
def thousand() -> list[str]:
    return random_texts(1000)


def test_a_thousand_texts(qwen3: Path, qwen3_peer, thousand: list[str]) -> None:
    encoded = TextTokenizer(qwen3_of(qwen3)).encode(thousand)
    lengths = np.diff(encoded.offsets)
    assert lengths.min() == 1
    assert (lengths == 2).sum() >= 5
    assert encoded.truncated.sum() >= 20
    assert lengths.max() == MAX_TOKENS
    assert np.bincount(lengths).max() >= 40
    found = Embedder(qwen3_of(qwen3)).embed_documents(thousand)
    np.testing.assert_allclose(found, qwen3_peer.encode_document(thousand), atol=1e-5)
    different = found[:200] @ found[:200].T
    assert np.median(different) < 0.9, "vectors that are all alike would prove nothing"


def test_ids_are_those_of_the_peer(qwen3: Path, qwen3_peer, thousand: list[str]) -> None:
    encoded = TextTokenizer(qwen3_of(qwen3)).encode(thousand)
    found = [row.tolist() for row in np.split(encoded.ids, encoded.offsets[1:-1])]
    tokenizer = qwen3_peer.tokenizer
    assert found == [tokenizer(text, truncation=True, max_length=MAX_TOKENS).input_ids for text in thousand]


def test_queries(qwen3: Path, qwen3_peer, thousand: list[str]) -> None:
    embedder, texts = Embedder(qwen3_of(qwen3)), thousand[-120:]
    np.testing.assert_allclose(embedder.embed_queries(texts), qwen3_peer.encode_query(texts), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(texts), qwen3_peer.encode(texts, prompt_name="query"), atol=1e-5)
    own = qwen3_peer.encode(texts, prompt="Instruct: Find code\nQuery:")
    np.testing.assert_allclose(embedder.embed_queries(texts, "Find code"), own, atol=1e-5)


@pytest.mark.parametrize("dimensions", [1, 32, 63])
def test_fewer_dimensions(qwen3: Path, qwen3_peer, thousand: list[str], dimensions: int) -> None:
    texts = thousand[-120:]
    found = Embedder(qwen3_of(qwen3, dimensions=dimensions)).embed_documents(texts)
    wanted = qwen3_peer.encode_document(texts, truncate_dim=dimensions, normalize_embeddings=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 100, 4096])
def test_micro_batches_change_nothing(qwen3: Path, qwen3_peer, thousand: list[str], token_budget: int) -> None:
    texts = thousand[-150:]
    found = Embedder(qwen3_of(qwen3, token_budget=token_budget)).embed_documents(texts)
    np.testing.assert_allclose(found, qwen3_peer.encode_document(texts), atol=1e-5)


@pytest.mark.parametrize(("dtype", "least"), [("bfloat16", 0.999), ("float8", 0.99)])
def test_fewer_bits(qwen3: Path, qwen3_peer, thousand: list[str], dtype: str, least: float) -> None:
    texts = thousand[-200:]
    found = Embedder(qwen3_of(qwen3, dtype=dtype)).embed_documents(texts)
    assert cosines(found, qwen3_peer.encode_document(texts)).min() >= least


# The other architectures, tiny, as sentence-transformers saves them.

SPECIALS = {
    "bert": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "modernbert": {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "xlm-roberta": {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"},
}
POOLINGS = [("bert", "mean"), ("bert", "cls"), ("modernbert", "cls"), ("modernbert", "mean"), ("xlm-roberta", "mean")]


@pytest.mark.parametrize(("name", "pooling"), [*POOLINGS, ("xlm-roberta", "lasttoken")])
def test_other_architectures(tmp_path: Path, name: str, pooling: str) -> None:
    folder = build(tmp_path / name, name)
    tokenizer = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256, **SPECIALS[name]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    saved = resaved(folder, pooling, prompts={"query": "query: ", "document": "passage: "})
    peer, texts = peer_of(saved), random_texts(100)
    embedder = Embedder(spec_of(saved))
    np.testing.assert_allclose(embedder.embed_documents(texts), peer.encode_document(texts), atol=1e-5)
    np.testing.assert_allclose(embedder.embed_queries(texts), peer.encode_query(texts), atol=1e-5)
