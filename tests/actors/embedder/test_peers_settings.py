"""What the files beside a tokenizer.json say changes our vectors as it changes those of sentence-transformers."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from actors.embedder.embedder import Embedder
from actors.embedder.recipe import identity
from actors.spec import ModelError, ModelSpec
from tests.support.tokenizers import KINDS, TEXTS, edit, minilm, spelled, write_all

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed"
)
torch.set_num_threads(1)

LEAST = 0.99999
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
OF_SENTENCES, OF_FILE = "sentence_bert_config.json", "tokenizer.json"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_all(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def copy_of(originals: Path, tmp_path: Path):
    return lambda kind: Path(shutil.copytree(originals / kind, tmp_path / kind))


def spec_of(folder: Path, **changes: Any) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu", dtype="float32", **changes)


def cosines(folder: Path) -> np.ndarray:
    """Of our vectors and those of sentence-transformers, of TEXTS."""
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    ours, theirs = Embedder(spec_of(folder)).embed_documents(TEXTS), peer.encode_document(TEXTS)
    return (ours * theirs).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)


def edited(folder: Path, changes: dict[str, Any]) -> Path:
    for file, fields in changes.items():
        edit(folder / file, **fields)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_as_it_comes(copy_of, kind: str) -> None:
    folder = copy_of(kind)
    assert cosines(folder).min() >= LEAST


SETTINGS = {
    "keeps case": ("bert", {CONFIG: {"do_lower_case": False}}),
    "keeps case but no accents": ("bert", {CONFIG: {"do_lower_case": False, "strip_accents": True}}),
    "keeps accents": ("bert", {CONFIG: {"strip_accents": False}}),
    "keeps Chinese words together": ("bert", {CONFIG: {"tokenize_chinese_chars": False}}),
    "lower case by the class alone": ("bert", {CONFIG: {"tokenizer_class": ...}, OF_FILE: {"normalizer": None}}),
    "the class in config.json": (
        "bert",
        {
            CONFIG: {"tokenizer_class": ...},
            "config.json": {"tokenizer_class": "BertTokenizerFast"},
            OF_FILE: {"normalizer": None},
        },
    ),
    "another special token behind": ("bert", {CONFIG: {"sep_token": "[MASK]"}}),
    "cut on the left": ("bert", {CONFIG: {"truncation_side": "left"}}),
    "cut on the left, roberta": ("roberta", {CONFIG: {"truncation_side": "left"}}),
    "cut on the left, xlm-roberta": ("xlm-roberta", {CONFIG: {"truncation_side": "left"}}),
    "cut on the left, modernbert": ("modernbert", {CONFIG: {"truncation_side": "left"}}),
    "cut on the left, qwen3": ("qwen3", {CONFIG: {"truncation_side": "left"}}),
    "cut on the left by tokenizer.json": (
        "modernbert",
        {OF_FILE: {"truncation": {"direction": "Left", "max_length": 32, "strategy": "LongestFirst", "stride": 0}}},
    ),
    "a shorter text": ("modernbert", {CONFIG: {"model_max_length": 12}}),
    "a shorter text, qwen3": ("qwen3", {CONFIG: {"model_max_length": 12}}),
    "a shorter text by an old name": ("bert", {CONFIG: {"model_max_length": ..., "max_len": 12}}),
    "a shorter text for sentences": ("bert", {OF_SENTENCES: {"max_seq_length": 12}}),
    "a shorter text for sentences, in new words": (
        "bert",
        {OF_SENTENCES: {"processor_kwargs": {"model_max_length": 12}}},
    ),
    "settings for sentences": ("bert", {OF_SENTENCES: {"tokenizer_args": {"do_lower_case": False}}}),
    "a space in front": ("roberta", {CONFIG: {"add_prefix_space": True}}),
    "a space in front, qwen3": ("qwen3", {CONFIG: {"add_prefix_space": True}}),
    "no space in front": ("xlm-roberta", {CONFIG: {"add_prefix_space": False}}),
    "special tokens are split": ("modernbert", {CONFIG: {"split_special_tokens": True}}),
    "special tokens are split, bert": ("bert", {CONFIG: {"split_special_tokens": True}}),
    "an added token in the list": ("roberta", {CONFIG: {"added_tokens_decoder": {
        **{str(i): spelled(token) for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])},
        "360": spelled("France", special=False)}}}),
    "an added token without a list": ("bert", {ADDED: {"café": 500}}),
    "an added token that is special": ("modernbert", {CONFIG: {"additional_special_tokens": ["Paris"]}}),
    "an extra token": ("qwen3", {CONFIG: {"extra_special_tokens": ["the river"]}}),
    "a token of the model's own": ("modernbert", {CONFIG: {"image_token": "river"}}),
    "a token of the old map": ("modernbert", {MAP: {"mask_token": spelled("France", lstrip=True)}}),
    "a flag of a token": (
        "modernbert",
        {CONFIG: {"mask_token": {**spelled("[MASK]", lstrip=True), "__type": "AddedToken"}}},
    ),
    "a normaliser of the file that the class drops": ("roberta", {OF_FILE: {"normalizer": {"type": "Lowercase"}}}),
    "a split of the file that the class drops": ("qwen3", {OF_FILE: {"pre_tokenizer": {
        "type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}}}),
    "an end of the file that the class drops": ("xlm-roberta", {OF_FILE: {"post_processor": None}}),
    "the file as it is": (
        "bert",
        {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "do_lower_case": False}},
    ),
    "lower case for sentences": ("roberta", {OF_SENTENCES: {"do_lower_case": True}}),
    "lower case for sentences, before another normaliser": ("modernbert", {OF_SENTENCES: {"do_lower_case": True}}),
    "lower case for sentences, a normaliser of several steps": (
        "modernbert",
        {
            OF_SENTENCES: {"do_lower_case": True},
            OF_FILE: {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}]}},
        },
    ),
    "lower case for sentences, which is there": (
        "modernbert",
        {OF_SENTENCES: {"do_lower_case": True}, OF_FILE: {"normalizer": {"type": "Lowercase"}}},
    ),
}  # fmt: skip


# What transformers leaves out or makes anew: read by the letter of tokenizer.json, other vectors would come of it.
WITHOUT_EFFECT = (
    "the file as it is",
    "a flag of a token",
    "lower case by the class alone",
    "the class in config.json",
    "a normaliser of the file that the class drops",
    "a split of the file that the class drops",
    "an end of the file that the class drops",
)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_gives_the_vectors_of_sentence_transformers(copy_of, name: str) -> None:
    kind, changes = SETTINGS[name]
    folder = copy_of(kind)
    before = Embedder(spec_of(folder)).embed_documents(TEXTS)
    known = identity(spec_of(folder))
    edited(folder, changes)
    assert cosines(folder).min() >= LEAST
    after = Embedder(spec_of(folder)).embed_documents(TEXTS)
    changed = identity(spec_of(folder)) != known
    assert changed or np.allclose(before, after, atol=1e-6), "what changes vectors is in the fingerprint"
    if name not in WITHOUT_EFFECT:
        assert not np.allclose(before, after, atol=1e-3), "a setting that changes nothing proves nothing"


@pytest.mark.parametrize("changes", [{"do_lower_case": False}, {"strip_accents": False}, {"truncation_side": "left"}])
def test_a_real_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = minilm(tmp_path / "minilm")
    edit(folder / CONFIG, **changes)
    assert cosines(folder).min() >= LEAST


REFUSED = {
    "tokenizer_config.json .*init_inputs": ("bert", {CONFIG: {"init_inputs": ["x"]}}),
    "fast_tokenizer_files": ("bert", {CONFIG: {"fast_tokenizer_files": ["tokenizer.json", "tokenizer.4.0.json"]}}),
    "special_tokens_map.json has add_eos_token": ("qwen3", {MAP: {"add_eos_token": True}}),
    "truncation_side: 'middle'": ("bert", {CONFIG: {"truncation_side": "middle"}}),
    "unk_token: '<unk>', which tokenizer.json has not": ("bert", {CONFIG: {"unk_token": "<unk>"}}),
    "has no sep_token": ("bert", {CONFIG: {"sep_token": None}}),
    "holds a BPE tokenizer, but transformers reads it as BertTokenizer": (
        "roberta",
        {CONFIG: {"tokenizer_class": "BertTokenizer"}},
    ),
    r"puts '' around a text, which the model has no row for": ("roberta", {CONFIG: {"sep_token": ""}}),
    "normalizer cannot be": ("bert", {CONFIG: {"do_lower_case": "no"}}),
    "tokenizer_class: GPT2Tokenizer": ("roberta", {CONFIG: {"tokenizer_class": "GPT2Tokenizer"}}),
    "tokenizer settings that are not known here: tokenizer_type": (
        "bert",
        {OF_SENTENCES: {"tokenizer_args": {"tokenizer_type": "gpt2"}}},
    ),
    "document_length: 12": ("bert", {OF_SENTENCES: {"document_length": 12}}),
    "processing_kwargs": ("bert", {OF_SENTENCES: {"processing_kwargs": {"text": {"max_length": 12}}}}),
    "transformer_task: 'fill-mask'": ("bert", {OF_SENTENCES: {"transformer_task": "fill-mask"}}),
    "config_args": ("bert", {OF_SENTENCES: {"config_args": {"hidden_act": "relu"}}}),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(copy_of, message: str) -> None:
    kind, changes = REFUSED[message]
    folder = edited(copy_of(kind), changes)
    with pytest.raises(ModelError, match=message):
        Embedder(spec_of(folder))


def test_token_types_are_refused(copy_of) -> None:
    folder = copy_of("bert")
    definition = json.loads((folder / OF_FILE).read_text())
    for piece in definition["post_processor"]["single"]:
        next(iter(piece.values()))["type_id"] = 1
    edit(folder / OF_FILE, post_processor=definition["post_processor"])
    assert cosines(folder).min() >= LEAST, "BertTokenizer makes its own"
    edit(folder / CONFIG, tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ModelError, match=r"tokenizer\.json \(post_processor\) gives a text token types other than 0"):
        Embedder(spec_of(folder))


def test_dimensions_of_the_folder(copy_of) -> None:
    folder = copy_of("bert")
    edit(folder / "config_sentence_transformers.json", truncate_dim=8)
    assert Embedder(spec_of(folder)).dimensions == 8
    assert cosines(folder).min() >= LEAST
    assert Embedder(spec_of(folder, dimensions=20)).dimensions == 20
