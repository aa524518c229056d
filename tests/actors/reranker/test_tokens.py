"""A reranker whose pairs get other ids than the model card's code gives them does not work."""

import shutil
from pathlib import Path

import pytest

from actors.reranker import prompt as prompts
from actors.reranker.prompt import RerankPrompt
from actors.reranker.tokens import check_pairs
from actors.spec import ModelError, ModelSpec
from tests.support.tokenizers import edit

CONFIG = "tokenizer_config.json"


@pytest.fixture
def folder(qwen_tokenizers: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(qwen_tokenizers["reranker"], tmp_path / "reranker"))


def prompt_of(folder: Path) -> RerankPrompt:
    return RerankPrompt(ModelSpec(str(folder), device="cpu", max_tokens=128))


def test_published_tokenizers_pass(folder: Path) -> None:
    prompt = prompt_of(folder)
    found = check_pairs(prompt, folder)
    assert (found.name, found.beside, prompt.max_tokens) == ("Qwen2Tokenizer", (), 128)
    assert found.texts > 1000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"truncation_side": "left"}, "truncation_side: left, but a pair is cut at the end"),
        ({"split_special_tokens": True}, "split_special_tokens, but the prompt is made of special tokens"),
        ({"extra_special_tokens": ["gravity"]}, "words as added tokens, such as 'gravity'"),
        ({"tokenizer_class": "BertTokenizer"}, "holds a BPE tokenizer, but transformers reads it as BertTokenizer"),
    ],
)
def test_what_would_change_the_ids_is_refused_by_name(folder: Path, change: dict[str, object], named: str) -> None:
    edit(folder / "config.json", vocab_size=151700)
    edit(folder / CONFIG, **change)
    with pytest.raises(ModelError) as refused:
        check_pairs(prompt_of(folder), folder)
    assert named in str(refused.value)


def test_lower_case_is_refused(folder: Path) -> None:
    edit(folder / "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(ModelError, match=r"do_lower_case in .*, but the prompt has upper case"):
        prompt_of(folder)


def test_a_setting_that_is_taken_over(folder: Path) -> None:
    edit(folder / "tokenizer.json", normalizer={"type": "NFD"})  # transformers' class has NFC whatever the file says
    assert check_pairs(prompt_of(folder), folder).beside == ("normalizer",)


def test_ids_that_are_not_the_model_cards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "BEFORE_DOCUMENT", "\n<Document>: ")
    with pytest.raises(ModelError, match="gives other ids than transformers"):
        check_pairs(prompt_of(folder), folder)
