"""Tiny random models of every supported architecture, each in a folder with its tokenizer and recipe."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModel, BertConfig, ModernBertConfig, Qwen3Config, XLMRobertaConfig

# Threads that wait for one another make a busy machine many times slower, and nothing here is large.
torch.set_num_threads(1)

TRAINING = ["the capital of France is Paris and the river runs through it", "gravity pulls two bodies together"] * 20
TEXTS = [
    "gravity",
    "the capital of France",
    "",
    "x" * 40,
    "the river runs through Paris " * 6,
    "abc def",
    "def abc",
    "今天天气不错 🙂",
    "the capital of Prussia",
]
ARCHITECTURES = ["bert", "xlm-roberta", "modernbert", "qwen3", "qwen3-window"]


def write_tokenizer(folder: Path, specials: list[str], template: str) -> int:
    """A small byte-level BPE, used as it is; gives its vocabulary size. The specials have ids 0, 1, 2 ..."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    if template:
        ids = [(name, tokenizer.token_to_id(name)) for name in specials]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return tokenizer.get_vocab_size()


def write_modules(
    folder: Path, pooling: str, modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize")
) -> None:
    """modules.json and 1_Pooling/config.json as sentence-transformers writes them."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": paths.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))


def build(folder: Path, name: str) -> Path:
    """A random model of one architecture with its tokenizer and recipe; std 0.15, so that a leak would show."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if name.startswith("qwen3"):
        vocabulary = write_tokenizer(folder, ["<|endoftext|>", "<|im_end|>"], "$A <|endoftext|>")
    elif name == "xlm-roberta":
        vocabulary = write_tokenizer(folder, ["<s>", "<pad>", "</s>"], "<s> $A </s>")
        write_modules(folder, "cls")
    else:
        vocabulary = write_tokenizer(folder, ["[PAD]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]")
        write_modules(folder, "mean")
    AutoModel.from_config(_config(name, vocabulary), dtype=torch.float32).save_pretrained(folder)
    return folder


def _config(name: str, vocabulary: int):
    shape = {"vocab_size": vocabulary, "hidden_size": 64, "num_attention_heads": 4, "initializer_range": 0.15}
    if name == "bert":
        return BertConfig(
            **shape, num_hidden_layers=2, intermediate_size=128, max_position_embeddings=256, pad_token_id=0
        )
    if name == "xlm-roberta":
        return XLMRobertaConfig(
            **shape, num_hidden_layers=2, intermediate_size=128, max_position_embeddings=258, pad_token_id=1
        )
    if name == "modernbert":
        ends = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
        return ModernBertConfig(
            **shape,
            **ends,
            num_hidden_layers=4,
            intermediate_size=96,
            max_position_embeddings=256,
            local_attention=8,
            global_attn_every_n_layers=3,
        )
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1} if name == "qwen3-window" else {}
    return Qwen3Config(
        **shape,
        **window,
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        max_position_embeddings=512,
    )
