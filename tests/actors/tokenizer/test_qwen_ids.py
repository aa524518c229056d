"""The rebuilt tokenizers of Qwen3 give the ids that Qwen, transformers and others have published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from actors.reranker.prompt import PREFIX, SUFFIX
from actors.tokenizer.qwen_ids import END_OF_TEXT, PAIR_PREFIX, PAIR_SUFFIX, TOKEN_COUNTS, TOKEN_IDS, YES_AND_NO

IM_END = 151645


@pytest.fixture(scope="module")
def folders(qwen_tokenizers: dict[str, Path]) -> dict[str, Path]:
    return qwen_tokenizers


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {name: Tokenizer.from_file(str(folder / "tokenizer.json")) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def auto(folders: dict[str, Path]):
    return AutoTokenizer.from_pretrained(folders["embedding"])


def test_the_vocabularies(folders: dict[str, Path], loaded: dict[str, Tokenizer]) -> None:
    model = json.loads((folders["embedding"] / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    assert (len(model["vocab"]), len(model["merges"])) == (151_643, 151_387)
    assert model["merges"][:3] == [["Ġ", "Ġ"], ["ĠĠ", "ĠĠ"], ["i", "n"]]
    sizes = {name: tokenizer.get_vocab_size() for name, tokenizer in loaded.items()}
    assert sizes == {"embedding": 151_669, "embedding-small": 151_665, "reranker": 151_669}
    assert loaded["reranker"].token_to_id("</think>") == 151_668


def test_embedders_close_a_text_and_rerankers_do_not(loaded: dict[str, Tokenizer]) -> None:
    found = {name: tokenizer.encode("test").ids for name, tokenizer in loaded.items()}
    assert found == {"embedding": [1944, END_OF_TEXT], "embedding-small": [1944, END_OF_TEXT], "reranker": [1944]}


@pytest.mark.parametrize("name", ["embedding", "embedding-small"])
def test_published_ids_of_texts(loaded: dict[str, Tokenizer], name: str) -> None:
    assert {text: tuple(loaded[name].encode(text).ids) for text in TOKEN_IDS} == TOKEN_IDS
    assert {text: len(loaded[name].encode(text).ids) for text in TOKEN_COUNTS} == TOKEN_COUNTS


def test_published_ids_of_the_rerankers_prompt(loaded: dict[str, Tokenizer]) -> None:
    def ids(text: str) -> tuple[int, ...]:
        return tuple(loaded["reranker"].encode(text).ids)

    assert (len(PAIR_PREFIX), len(PAIR_SUFFIX)) == (39, 9)
    assert ids(PREFIX) == PAIR_PREFIX
    assert ids(SUFFIX) == PAIR_SUFFIX
    assert ids("yes") + ids("no") == YES_AND_NO
    assert [ids(word) for word in (" yes", "Yes", " no", "No")] == [(9834,), (9454,), (902,), (2753,)]


def test_a_space_changes_the_next_token(loaded: dict[str, Tokenizer]) -> None:
    assert loaded["reranker"].encode("Query:What").ids == [2859, 25, 3838]
    assert loaded["reranker"].encode("Query: What").ids == [2859, 25, 3555]


def test_the_small_vocabulary_spells_some_control_tokens(loaded: dict[str, Tokenizer]) -> None:
    large, small = loaded["embedding"], loaded["embedding-small"]
    assert large.encode("<think>").ids == [151_667, END_OF_TEXT]
    assert small.encode("<think>").ids == [13708, 766, 29, END_OF_TEXT]
    for token in ("<tool_response>", "</tool_response>", "</think>"):
        assert len(large.encode(token).ids) == 2 < len(small.encode(token).ids)
    for token in ("<|endoftext|>", "<tool_call>", "<|file_sep|>"):
        assert len(large.encode(token).ids) == len(small.encode(token).ids) == 2


# What transformers 5 makes of "test", and of other texts, by the way it is asked.
def test_transformers_loads_it_as_its_own(auto) -> None:
    assert (type(auto).__name__, len(auto)) == ("Qwen2Tokenizer", 151_669)
    assert (auto.eos_token_id, auto.pad_token_id) == (IM_END, END_OF_TEXT)


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ("test", {}, [1944, END_OF_TEXT]),
        ("test<|endoftext|>", {}, [1944, END_OF_TEXT, END_OF_TEXT]),
        ("test test test test test", {"truncation": True, "max_length": 4}, [1944, 1273, 1273, END_OF_TEXT]),
        ("test", {"truncation": True, "max_length": 1}, [END_OF_TEXT]),
        ("", {}, [END_OF_TEXT]),
    ],
)
def test_transformers_gives(auto, text: str, arguments: dict, expected: list[int]) -> None:
    assert auto(text, **arguments)["input_ids"] == expected


@pytest.mark.parametrize(
    ("change", "expected"), [({"add_bos_token": False}, [1944]), ({"add_eos_token": True}, [1944, IM_END])]
)
def test_transformers_loses_the_closing_token(folders: dict[str, Path], change: dict, expected: list[int]) -> None:
    changed = AutoTokenizer.from_pretrained(folders["embedding"], **change)
    assert changed("test")["input_ids"] == expected


def test_transformers_without_tokenizer_json(folders: dict[str, Path], tmp_path: Path) -> None:
    model = json.loads((folders["embedding"] / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folders["embedding"] / name).read_bytes())
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("\n".join(map(" ".join, model["merges"])), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(tmp_path)("test")["input_ids"] == [1944]


def test_transformers_saves_it(auto, tmp_path: Path) -> None:
    auto.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path)("test")["input_ids"] == [1944, END_OF_TEXT]


def test_which_control_tokens_transformers_can_split(auto) -> None:
    for token, split in {"<|im_end|>": True, "<|endoftext|>": True, "<think>": False, "<tool_call>": False}.items():
        ids = auto(token, split_special_tokens=True, add_special_tokens=False)["input_ids"]
        assert (len(ids) > 1) == split, token
