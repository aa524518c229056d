"""What the files beside a tokenizer.json change is in the tokenizer's digest; what changes nothing is not."""

from pathlib import Path
from typing import Any

import pytest

from actors.spec import ModelError, ModelSpec
from actors.weights.locate import file_sha256, locate
from actors.weights.tokenizer_files import tokenizer_files
from tests.support.tokenizers import KINDS, edit, spelled, write_all, write_model

CONFIG = "tokenizer_config.json"


def same_as_the_file(folder: Path) -> bool:
    found = tokenizer_files(folder)
    return (found.digest == file_sha256(found.path)) and not found.changes


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("originals"))


def test_published_tokenizers_are_their_tokenizer_json(qwen_tokenizers: dict[str, Path]) -> None:
    for folder in (locate(ModelSpec("bundled")), *qwen_tokenizers.values()):
        assert same_as_the_file(folder), "tables that have its sha256 as their tokenizer's digest are gone on with"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "qwen3"])  # which is split otherwise than Qwen's
def test_a_class_that_makes_the_same_changes_nothing(originals: Path, kind: str) -> None:
    assert same_as_the_file(originals / kind)


@pytest.mark.parametrize(
    "change",
    [
        *({"padding_side": "left"}, {"clean_up_tokenization_spaces": True}, {"add_bos_token": True}),
        *({"add_eos_token": True}, {"model_max_length": 12}, {"name_or_path": "a/b"}, {"do_lower_case": True}),
        *({"strip_accents": None}, {"truncation_side": "right"}, {"errors": "strict"}),
    ],
)
def test_what_changes_no_id_changes_no_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    edit(folder / CONFIG, **change)
    assert same_as_the_file(folder)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        *((CONFIG, {name: False}) for name in ("do_lower_case", "strip_accents", "tokenize_chinese_chars")),
        *((CONFIG, change) for change in ({"truncation_side": "left"}, {"split_special_tokens": True})),
        *((CONFIG, change) for change in ({"sep_token": "[MASK]"}, {"additional_special_tokens": ["Paris"]})),
        (CONFIG, {"added_tokens_decoder": {"500": spelled("Paris", special=False)}}),
        ("added_tokens.json", {"Paris": 500}),
        ("special_tokens_map.json", {"cls_token": "[MASK]"}),
        ("sentence_bert_config.json", {"do_lower_case": True}),
        ("sentence_bert_config.json", {"tokenizer_args": {"strip_accents": False}}),
    ],
)
def test_what_changes_ids_is_in_the_digest(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    before = tokenizer_files(folder).digest
    edit(folder / file, **change)
    assert tokenizer_files(folder).digest != before


def test_the_file_as_it_is_when_asked_for(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    edit(folder / CONFIG, do_lower_case=False, tokenizer_class="PreTrainedTokenizerFast")
    assert same_as_the_file(folder)


def test_a_file_that_is_no_tokenizers(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "bert", "bert")
    edit(folder / "tokenizer.json", model={})
    with pytest.raises(ModelError, match=r"is not what a tokenizer's is .*fetch the model again"):
        tokenizer_files(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        tokenizer_files(folder)
