"""Cutting, prompts and spans, with the real WordPiece of MiniLM, the real BPE of Qwen3, and with the fake."""

import json
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from actors.embedder.recipe import identity
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.batch import BatchTokenizer
from actors.tokenizer.cutting import HEAD_CHARS_PER_TOKEN, content_of_heads
from actors.tokenizer.qwen_ids import END_OF_TEXT
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import locate
from tests.support.models import build, write_tokenizer
from tests.support.tokenizers import edit, minilm
from tests.support.unicode_texts import CONTROL_TOKENS, random_texts

CLS, SEP = 101, 102


def rows(encoded) -> list[list[int]]:
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def test_truncation_is_counted_and_the_suffix_kept() -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled", max_tokens=6))
    assert (tokenizer.max_tokens, tokenizer.special_tokens) == (6, 2)
    encoded = tokenizer.encode(["one two three four", "one two three four five", "", "one two three four five six"])
    assert encoded.truncated.tolist() == [False, True, False, True]
    found = rows(encoded)
    assert found[1] == found[3] == found[0]
    assert found[2] == [CLS, SEP]
    assert all(row[0] == CLS and row[-1] == SEP for row in found)
    assert (encoded.ids.dtype, encoded.offsets.dtype, encoded.truncated.dtype) == (np.int32, np.int64, np.bool_)


def test_no_texts() -> None:
    encoded = TextTokenizer(ModelSpec("bundled")).encode([])
    assert encoded.offsets.tolist() == [0]
    assert len(encoded.ids) == len(encoded.truncated) == 0


def test_a_prompt_goes_in_front_and_counts() -> None:
    bare = TextTokenizer(ModelSpec("bundled", max_tokens=6))
    prompted = TextTokenizer(ModelSpec("bundled", max_tokens=6, prompt="note: "))
    assert rows(prompted.encode(["one two three"])) == rows(bare.encode(["note: one two"]))
    assert prompted.encode(["one two three"]).truncated.tolist() == [True]
    assert rows(TextTokenizer(ModelSpec("bundled", prompt="")).encode(["one"])) == rows(bare.encode(["one"]))


def test_a_query_prompt_goes_in_front_of_queries_alone() -> None:
    prompted = TextTokenizer(ModelSpec("bundled", prompt="passage: ", query_prompt="query: "))
    bare = TextTokenizer(ModelSpec("bundled"))
    assert rows(prompted.encode_queries(["one"])) == rows(bare.encode(["query: one"]))
    assert rows(prompted.encode(["one"])) == rows(bare.encode(["passage: one"]))
    assert rows(prompted.encode_queries(["one"], "")) == rows(bare.encode(["one"]))
    assert not prompted.takes_instruction
    with pytest.raises(ModelError, match=r"no instruction: .* before each query is the query_prompt"):
        prompted.encode_queries(["one"], "find it")
    instructed = TextTokenizer(ModelSpec("bundled", query_prompt="Instruct: find one\nQuery:"))
    assert rows(instructed.encode_queries(["one"], "find it")) == rows(bare.encode(["Instruct: find it\nQuery:one"]))


@pytest.mark.parametrize("space", [" ", "\n\n  ", "\u3000"])
def test_reading_only_the_head_of_a_long_text_gives_the_same_ids(space: str) -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled", max_tokens=16))
    words = ["antidisestablishmentarianism", "a", "don't", "日本", "...", "[SEP]", "zzz" * 20]
    texts = [space.join(np.random.default_rng(seed).choice(words, 400)) for seed in range(20)]
    texts.append(("zq" * 60 + " ") * 20)  # each word one [UNK], the half of one a lot of tokens
    texts += [" " * 5000 + "end", "x" * 5000 + " end", ("\u200b" * 50 + " ") * 100 + "end"]
    assert all(len(text) > HEAD_CHARS_PER_TOKEN * 16 for text in texts)
    whole = [tokenizer._words._tokenizer.encode(text).ids for text in texts]
    encoded = tokenizer.encode(texts)
    assert rows(encoded) == [ids if len(ids) <= 16 else [*ids[:15], SEP] for ids in whole]
    assert encoded.truncated.tolist() == [len(ids) > 16 for ids in whole]


def test_a_very_long_text_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TextTokenizer(ModelSpec("bundled"))
    read, content = [], tokenizer._words.content
    monkeypatch.setattr(tokenizer._words, "content", lambda texts: read.extend(map(len, texts)) or content(texts))
    assert tokenizer.encode(["word " * 2_000_000]).truncated.tolist() == [True]
    assert 0 < sum(read) < 10_000


def test_offsets_are_characters_of_the_text() -> None:
    text = "Café 世界 don't 🙂"
    offsets = TextTokenizer(ModelSpec("bundled", prompt="note: ")).token_offsets(text)
    assert offsets.dtype == np.int32
    assert [text[a:b] for a, b in offsets] == ["Café", "世", "界", "don", "'", "t", "🙂"]
    assert TextTokenizer(ModelSpec("bundled")).token_offsets("").shape == (0, 2)


def test_offsets_survive_letters_that_grow_in_lower_case(tmp_path: Path) -> None:
    folder = minilm(tmp_path / "minilm")
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    text = "İİİ Berlin"
    assert text[slice(*TextTokenizer(ModelSpec(str(folder))).token_offsets(text)[-1])] == "Berlin"


def test_the_fake_has_the_same_surface() -> None:
    tokenizer = TextTokenizer(ModelSpec("fake", max_tokens=4))
    encoded = tokenizer.encode(["The cat, sat", "the CAT sat down", ""])
    assert encoded.truncated.tolist() == [False, True, False]
    first, second, third = rows(encoded)
    assert first == second
    assert len(third) == tokenizer.special_tokens == 1
    assert tokenizer.token_offsets("The cat, sat").tolist() == [[0, 3], [4, 7], [9, 12]]
    assert encoded.ids.max() <= 32768


def test_the_fake_is_fast() -> None:
    tokenizer = TextTokenizer(ModelSpec("fake"))
    texts = ["a short row of text here"] * 20_000
    begin = time.perf_counter()
    tokenizer.encode(texts)
    assert time.perf_counter() - begin < 5  # 0.1 s on an idle core


# Qwen3's tokenizer


@pytest.fixture(scope="module")
def folders(qwen_tokenizers: dict[str, Path]) -> dict[str, Path]:
    return qwen_tokenizers


@pytest.fixture(scope="module")
def qwen(folders: dict[str, Path]) -> TextTokenizer:
    return TextTokenizer(ModelSpec(str(folders["embedding"])))


@pytest.fixture(scope="module")
def auto(folders: dict[str, Path]):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folders["embedding"])


SPECIALS_IN_TEXT = [
    *CONTROL_TOKENS,
    "a<|endoftext|>b<|im_end|>\n<think>\n\n</think>",
    "<|im_start|>user\nsay yes<|im_end|>",
    "ends with <|endoftext|>",
    " <think> ",
    "Instruct: <|im_end|>",
]


def test_qwens_ids_are_those_of_transformers(qwen: TextTokenizer, auto) -> None:
    texts = ["", " ", "\n", "test", *SPECIALS_IN_TEXT, *random_texts(1000, seed=1)]
    assert rows(qwen.encode(texts)) == auto(texts)["input_ids"]


@pytest.mark.parametrize("max_tokens", [2, 17])
def test_qwens_cut_is_that_of_transformers_and_keeps_the_closing_token(
    folders: dict[str, Path], auto, max_tokens: int
) -> None:
    texts = ["", "a", *SPECIALS_IN_TEXT, *(text * 9 for text in random_texts(300, seed=2))]
    encoded = TextTokenizer(ModelSpec(str(folders["embedding"]), max_tokens=max_tokens)).encode(texts)
    found = rows(encoded)
    assert found == auto(texts, truncation=True, max_length=max_tokens)["input_ids"]
    assert all(row[-1] == END_OF_TEXT for row in found)
    assert encoded.truncated.tolist() == [len(ids) > max_tokens for ids in auto(texts)["input_ids"]]


def test_qwens_queries_are_those_of_transformers(qwen: TextTokenizer, auto) -> None:
    queries = ["What?", " What?", "", "\n", *SPECIALS_IN_TEXT, *random_texts(200, seed=3)]
    task = "Given a web search query, retrieve relevant passages that answer the query"
    assert rows(qwen.encode_queries(queries)) == auto([f"Instruct: {task}\nQuery:{q}" for q in queries])["input_ids"]
    own = "找到<|im_end|> {query}"
    assert (
        rows(qwen.encode_queries(queries, own)) == auto([f"Instruct: {own}\nQuery:{q}" for q in queries])["input_ids"]
    )


def test_heads_of_signs_and_spaces_give_qwens_ids(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    draw, signs = random.Random(0), ["=", "-", ".", "*", "/", "\x1c", ";", "\u0301", "'", "<|", "a", "ก็", "🙂", "，"]
    bare = Tokenizer.from_file(str(folders["embedding"] / "tokenizer.json"))
    texts = []
    for _ in range(1500):
        some = [*draw.sample(signs, draw.randint(1, 3)), " ", "\n"]
        texts.append("".join(draw.choices(some, [draw.random() ** 2 for _ in some], k=200)))
    whole = [found.ids for found in bare.encode_batch(texts, add_special_tokens=False)]
    # So few characters that many heads have not much more than the tokens that are asked of them.
    monkeypatch.setattr("actors.tokenizer.cutting.HEAD_CHARS_PER_TOKEN", 4)
    for room in (1, 3, 8):
        ids_T, lengths_N = content_of_heads(BatchTokenizer(bare).content, texts, room)
        assert (lengths_N < [len(ids) for ids in whole]).sum() > 100
        found = [part[:room].tolist() for part in np.split(ids_T, np.cumsum(lengths_N)[:-1])]
        assert found == [ids[:room] for ids in whole]


def changed(folder: Path, target: Path, change: Callable[[dict], None]) -> ModelSpec:
    """A copy of a tokenizer's folder with tokenizer.json changed."""
    shutil.copytree(folder, target)
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    change(definition)
    (target / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    return ModelSpec(str(target))


def test_both_of_qwens_vocabularies_load(folders: dict[str, Path]) -> None:
    for name in ("embedding", "embedding-small"):
        assert TextTokenizer(ModelSpec(str(folders[name]))).encode(["test"]).ids.tolist() == [1944, END_OF_TEXT]


def test_a_rerankers_tokenizer_is_refused(folders: dict[str, Path]) -> None:
    message = r'"test" gives \[1944\], and must give \[1944, 151643\]. .*reranker'
    with pytest.raises(ModelError, match=message):
        TextTokenizer(ModelSpec(str(folders["reranker"])))


def test_qwens_tokenizer_with_another_closing_token_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def close_with_im_end(definition: dict) -> None:
        template = definition["post_processor"]["processors"][1]
        template["special_tokens"]["<|endoftext|>"]["ids"] = [151645]

    with pytest.raises(ModelError, match=r'"test" gives \[1944, 151645\], and must give \[1944, 151643\]') as refused:
        TextTokenizer(changed(folders["embedding"], tmp_path / "changed", close_with_im_end))
    assert "reranker" not in str(refused.value)


def test_qwens_closing_token_behind_other_words_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def exchange_two_words(definition: dict) -> None:
        words = definition["model"]["vocab"]
        words["test"], words["ing"] = words["ing"], words["test"]

    with pytest.raises(
        ModelError, match=r'gives \[\d+, 151643\] for "test", but Qwen3\'s tokenizer gives \[1944, 151643\]'
    ):
        TextTokenizer(changed(folders["embedding"], tmp_path / "changed", exchange_two_words))


def test_no_weights_are_needed(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def remember(spec: ModelSpec, tokenizer_only: bool = False) -> Path:
        asked.append(tokenizer_only)
        return locate(spec, tokenizer_only)

    monkeypatch.setattr("actors.weights.recipe.locate", remember)
    assert not list(folders["embedding"].glob("*.safetensors"))
    TextTokenizer(ModelSpec(str(folders["embedding"])))
    assert asked == [True]


# Tiny models of two architectures.


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("originals")
    build(base / "qwen3", "qwen3")
    build(base / "bert", "bert")
    return base


@pytest.fixture
def tiny_qwen(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "qwen3", tmp_path / "qwen3"))


@pytest.fixture
def bert(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "bert", tmp_path / "bert"))


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu")


@pytest.mark.parametrize("template", ["", "$A <|im_end|>", "$A <|endoftext|> <|endoftext|>", "<|im_end|> $A"])
def test_qwen3_without_its_closing_token(tiny_qwen: Path, template: str) -> None:
    write_tokenizer(tiny_qwen, ["<|endoftext|>", "<|im_end|>"], template)
    with pytest.raises(ModelError, match=r"does not close a text with <\|endoftext\|>"):
        TextTokenizer(spec_of(tiny_qwen))


def test_tokenizer_of_a_larger_model(bert: Path) -> None:
    edit(bert / "config.json", vocab_size=100)
    with pytest.raises(ModelError, match=r"belongs to another model"):
        TextTokenizer(spec_of(bert))


def test_no_tokenizer(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        TextTokenizer(spec_of(bert))


def test_another_tokenizer(bert: Path) -> None:
    right = identity(spec_of(bert))["tokenizer"]
    TextTokenizer(replace(spec_of(bert), tokenizer_digest=right))
    with (bert / "tokenizer.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=f"tokenizer.json .* {right[:16]}.* was expected"):
        TextTokenizer(replace(spec_of(bert), tokenizer_digest=right))
