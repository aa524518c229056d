"""The real tokenizers of Qwen3-Embedding and Qwen3-Reranker, without a model hub.

The vocabulary is a file in the `dashscope` package (Apache-2.0), which is never imported: 151,643 byte strings by rank.
A tokenizer.json also wants the merges; they follow from the ranks, because the last merge of a token joins the two
pieces that the merges before it leave. Specials, normaliser, splitting and closing token are those of the models'
own files. 2 s.

`tokenizers` gives for these files what Qwen publishes: see tests/actors/tokenizer/test_qwen_ids.py. Not the same as
Qwen's files: the chat template is left out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import itertools
import json
from pathlib import Path
from typing import Any, Literal

VOCABULARY_SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"
# English contractions, words with at most one other character before them, single digits, runs of signs, white space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Ids 151643, 151644, ...
SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
# Parsed in texts like the others, but not "special" to transformers.
NOT_SPECIAL = (
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"),
    *("<|repo_name|>", "<|file_sep|>"),
)
# Qwen3-Embedding-4B and -8B do not have these.
ONLY_LARGE = ("<tool_response>", "</tool_response>", "<think>", "</think>")


def vocabulary_file() -> Path | None:
    """The vocabulary of the installed package; None without it. Raises ValueError when it is another file."""
    found = importlib.util.find_spec("dashscope")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "resources" / "qwen.tiktoken"
    if not path.exists():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != VOCABULARY_SHA256:
        raise ValueError(f"{path} has sha256 {digest}, not that of Qwen's vocabulary")
    return path


def write(folder: Path, kind: Literal["embedding", "reranker"] = "embedding", small_vocabulary: bool = False) -> Path:
    """Writes tokenizer.json, tokenizer_config.json and a config.json with the sizes of the 0.6B; gives the folder.

    kind: "embedding" closes a text with <|endoftext|>, "reranker" adds nothing.
    small_vocabulary: 151,665 ids as in Qwen3-Embedding-4B and -8B, otherwise 151,669 as in all the others.
    """
    vocabulary, merges = _vocabulary_and_merges()
    names = (*SPECIAL, *NOT_SPECIAL, *(() if small_vocabulary else ONLY_LARGE))
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    first = len(vocabulary)
    added = {first + i: {"content": name, **plain, "special": name in SPECIAL} for i, name in enumerate(names)}
    definition = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, **token} for number, token in added.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": _post_processor(kind, first),
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]),
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    model = {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 32768 if kind == "embedding" and not small_vocabulary else 40960,
        "vocab_size": first + len(names),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(model), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(definition, ensure_ascii=False), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def _post_processor(kind: str, end: int) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    if kind == "reranker":
        return byte_level
    sequence = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    closing = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [sequence[0], closing],
        "pair": [sequence[0], closing, sequence[1], closing],
        "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [end], "tokens": [SPECIAL[0]]}},
    }
    return {"type": "Sequence", "processors": [byte_level, template]}


@functools.cache
def _vocabulary_and_merges() -> tuple[dict[str, int], list[list[str]]]:
    path = vocabulary_file()
    if path is None:
        raise FileNotFoundError("the dashscope package with Qwen's vocabulary is not installed")
    lines = (line.split() for line in path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    letters = _letters_of_bytes()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    pairs = (_last_merge(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    return {spelled[token]: rank for token, rank in ranks.items()}, [[spelled[a], spelled[b]] for a, b in pairs]


def _last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two pieces that all merges of lower rank than the token's own make of it."""
    parts = [token[i : i + 1] for i in range(len(token))]
    own = ranks[token]
    while len(parts) > 2:
        joined = [ranks.get(a + b, own) for a, b in itertools.pairwise(parts)]
        at = min(range(len(joined)), key=joined.__getitem__)
        assert joined[at] < own, token
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _letters_of_bytes() -> dict[int, str]:
    """How a byte-level tokenizer.json spells each byte: printable Latin-1 as itself, the others from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
