"""A replica whose texts get other ids than transformers gives them does not work, and the doctor says so."""

from pathlib import Path

import pytest

from actors.checks import tokens
from actors.doctor.examine import examine
from actors.embedder.embedder import Embedder
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights import tokenizer_classes, tokenizer_files
from actors.weights.recipe import resolve
from tests.support.tokenizers import edit, minilm, write_model

CONFIG = "tokenizer_config.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "bert", "bert")


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only tokenizer.json is read, whatever lies beside it."""
    monkeypatch.setattr(tokenizer_classes, "CLASSES", {})
    monkeypatch.setattr(tokenizer_files, "CLASSES", {})
    tokenizer_files._read.cache_clear()


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu", dtype="float32")


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"do_lower_case": False}, "normalizer"),
        ({"strip_accents": False}, "normalizer"),
        ({"tokenize_chinese_chars": False}, "normalizer"),
        ({"sep_token": "[MASK]"}, "post_processor"),
    ],
)
def test_a_setting_that_is_not_read_is_refused_by_name(folder: Path, change: dict[str, object], differs: str) -> None:
    Embedder(spec_of(folder))
    edit(folder / CONFIG, **change)
    with pytest.raises(ModelError, match=rf"gives other ids than transformers.* What differs: .*{differs}") as refused:
        Embedder(spec_of(folder))
    assert "PreTrainedTokenizerFast" in str(refused.value), "what helps"
    found = examine(spec_of(folder))
    assert not found.ok
    assert [(check.name, check.ok) for check in found.checks][1:] == [("ids beside transformers", False)]
    assert "What differs" in found.checks[1].found


def test_it_is_proven_once_and_again_when_a_file_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], tokens.transformers_tokenizer
    monkeypatch.setattr(tokens, "transformers_tokenizer", lambda place: asked.append(place) or real(place))
    for _ in range(2):
        tokens.check_texts(TextTokenizer(spec_of(folder)), resolve(spec_of(folder)))
    assert asked == [folder]
    edit(folder / CONFIG, do_lower_case=False)
    proof = tokens.check_texts(TextTokenizer(spec_of(folder)), resolve(spec_of(folder)))
    assert asked == [folder, folder]
    assert "BertTokenizer" in str(proof)
    assert "beside tokenizer.json count: normalizer" in str(proof)


def test_another_end_is_cut(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(folder / CONFIG, truncation_side="left")
    monkeypatch.setattr(tokenizer_files, "_cut_side", lambda *_: "right")
    with pytest.raises(ModelError, match="which end of a long text is cut"):
        Embedder(spec_of(folder))


def test_another_length(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(folder / CONFIG, model_max_length=12)
    monkeypatch.setattr(tokenizer_files, "longest", lambda _: None)
    with pytest.raises(ModelError, match="takes 12 tokens of a text in transformers, and 130 here"):
        Embedder(spec_of(folder))


def test_a_tokenizer_that_transformers_cannot_read(folder: Path) -> None:
    edit(folder / CONFIG, additional_special_tokens="Paris", extra_special_tokens=7)
    with pytest.raises(ModelError, match=r"transformers cannot use the tokenizer in|is not what a tokenizer's is"):
        Embedder(spec_of(folder))


def test_the_doctor_says_what_counts_beside_the_file(tmp_path: Path) -> None:
    folder = minilm(tmp_path / "minilm")
    edit(folder / CONFIG, do_lower_case=False, truncation_side="left")
    found = examine(spec_of(folder))
    check = next(check for check in found.checks if check.name == "ids beside transformers")
    assert check.ok
    assert "those of transformers' BertTokenizer" in check.found
    assert "count: normalizer, the beginning of a long text is cut" in check.found
