"""Tiny random models with a tokenizer of each of transformers' classes, and what people put beside a tokenizer.json."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, ModernBertConfig, Qwen3Config, RobertaConfig, XLMRobertaConfig

from actors.spec import ModelSpec
from actors.weights.locate import locate
from tests.support.models import write_modules

TRAINING = [
    *("the capital of France is Paris and the river runs through it", "Gravity Pulls TWO bodies together"),
    *("naïve café Ünïcödé ÀÉÎ", "今天天气不错 苹果 手机", "1 2 3 1234", "Привет мир"),
] * 10
TEXTS = [
    *(
        "the capital of France",
        "The Capital Of FRANCE",
        "naïve CAFÉ Ünïcödé",
        "今天天气不错",
        "苹果iPhone手机",
        "Привет МИР",
    ),
    *(
        "",
        " ",
        " leading",
        "trailing ",
        "a  b   c",
        "tab\there\nline",
        "🙂 👍🏽",
        "e\u0301 E\u0301",
        "a\u0000b\u0001c\u200bd",
    ),
    *("1234567890 3.14", "don't I'm", "[CLS] a [SEP] [MASK]", "<s> a </s> <mask>", "x<|endoftext|>y", "[cls] <MASK>"),
    *("the river runs through Paris " * 20, "x" * 300, "词" * 100, "word " * 5000),
]
ROBERTA_SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ROWS_TO_SPARE = 16  # of the embedding, for tokens that are added


def byte_level(specials: list[str]) -> Tokenizer:
    """A byte-level BPE of some 330 tokens; the specials have ids 0, 1, 2 ..."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    return tokenizer


def _bert() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Upper case and accents are in the vocabulary, so that it shows whether a text keeps them.
    letters = sorted(set("".join(TRAINING)) - {" "})
    plain = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=500, special_tokens=specials, initial_alphabet=letters, show_progress=False
    )
    plain.train_from_iterator([*TRAINING, *(text.lower() for text in TRAINING)], trainer)
    tokenizer.model = models.WordPiece(plain.get_vocab(), unk_token="[UNK]")
    tokenizer.add_special_tokens(specials)
    around = [("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


def _roberta() -> Tokenizer:
    tokenizer = byte_level(ROBERTA_SPECIALS)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    return tokenizer


def _xlm_roberta() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    steps = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    trainer = trainers.UnigramTrainer(
        vocab_size=300, special_tokens=ROBERTA_SPECIALS, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    around = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=around)
    return tokenizer


def _modernbert() -> Tokenizer:
    tokenizer = byte_level(["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"])
    tokenizer.normalizer = normalizers.NFC()
    around = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return tokenizer


def _qwen3() -> Tokenizer:
    tokenizer = byte_level(["<|endoftext|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    closing = processors.TemplateProcessing(single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.post_processor = closing
    return tokenizer


KINDS: dict[str, tuple[Callable[[], Tokenizer], str, type[Any], dict[str, Any]]] = {
    "bert": (_bert, "BertTokenizer", BertConfig, {"pad_token_id": 0}),
    "roberta": (_roberta, "RobertaTokenizer", RobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1}),
    "xlm-roberta": (_xlm_roberta, "XLMRobertaTokenizer", XLMRobertaConfig, {"pad_token_id": 1, "type_vocab_size": 1}),
    "modernbert": (
        _modernbert,
        "PreTrainedTokenizerFast",
        ModernBertConfig,
        {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2},
    ),
    "qwen3": (_qwen3, "Qwen2Tokenizer", Qwen3Config, {"num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6}),
}


def write_model(folder: Path, kind: str) -> Path:
    """A tiny random model of 64 tokens at most, with the tokenizer of its class; std 0.15, so that an id shows."""
    build, named, config, more = KINDS[kind]
    folder.mkdir(parents=True)
    tokenizer = build()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": named, "model_max_length": 64}
    if named == "PreTrainedTokenizerFast":  # which has no special tokens by itself
        settings |= {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "cls", "sep", "mask", "unk")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    vocabulary = tokenizer.get_vocab_size() + ROWS_TO_SPARE
    positions = {"max_position_embeddings": 130}
    made = config(vocab_size=vocabulary, initializer_range=0.15, **SIZES, **positions, **more)
    AutoModel.from_config(made, dtype=torch.float32).save_pretrained(folder)
    write_modules(folder, "lasttoken" if kind == "qwen3" else "mean")
    edit(folder / "1_Pooling" / "config.json", embedding_dimension=SIZES["hidden_size"])
    return folder


def write_all(base: Path) -> Path:
    """A folder with a model of each kind in a folder of its name."""
    for kind in KINDS:
        write_model(base / kind, kind)
    return base


def minilm(folder: Path) -> Path:
    """A copy of all-MiniLM-L6-v2."""
    return Path(shutil.copytree(locate(ModelSpec("bundled")), folder))


def edit(path: Path, **changes: Any) -> None:
    """Fields of a JSON file set, or, given as `...`, taken out; the file is made when there is none."""
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found |= changes
    kept = {name: value for name, value in found.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


def spelled(content: str, **flags: bool) -> dict[str, Any]:
    """A token as tokenizer_config.json lists it."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content, **plain, **flags}
