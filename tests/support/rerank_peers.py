"""Random Qwen3 rerankers, and the ways other people run such a folder: the model card's code, sentence-transformers.

Used by tests and by benchmarks/rerank.py.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
from transformers import logging as transformers_logging

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
VOCABULARY = 151669
YES, NO = 9693, 2152

transformers_logging.disable_progress_bar()


def build(folder: Path, tokenizer: Path, tied: bool = True, std: float = 0.15, **sizes: int) -> Path:
    """A random reranker, of the real vocabulary unless told otherwise. std 0.15: a leak would show."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in tokenizer.iterdir():
        shutil.copy(file, folder)
    torch.manual_seed(0)
    shape = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "vocab_size": VOCABULARY,
    } | sizes
    config = Qwen3Config(initializer_range=std, tie_word_embeddings=tied, **shape)
    model = Qwen3ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.uniform_(0.7, 1.3)
    model.save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, closing: bool = False) -> int:
    """A small byte-level BPE with Qwen's control tokens, in which yes and no are tokens; gives its vocabulary size."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=control, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([PREFIX, SUFFIX, "yes", "no"] * 20, trainer)
    if closing:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", 0)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return tokenizer.get_vocab_size()


def build_tiny(folder: Path) -> Path:
    """The same with a tokenizer of a few hundred tokens: Qwen's takes seconds to load."""
    with tempfile.TemporaryDirectory() as place:
        size = write_tokenizer(Path(place))
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64, "vocab_size": size}
        return build(folder, Path(place), std=0.2, **sizes)


def convert(folder: Path, target: Path, yes: int = YES, no: int = NO) -> Path:
    """The conversion to sequence classification that its users make of a reranker: score.weight = w_yes - w_no."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    head = tensors.pop("lm_head.weight", tensors["model.embed_tokens.weight"])
    tensors["score.weight"] = (head[yes].float() - head[no].float())[None].contiguous()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config |= {"architectures": ["Qwen3ForSequenceClassification"], "num_labels": 1, "pad_token_id": 151643}
    (target / "config.json").write_text(json.dumps(config))
    return target


class ModelCard:
    """As the model card and QwenLM/Qwen3-Embedding's examples/qwen3_reranker_transformers.py do it: padded on the left
    by tokenizer.pad, logits at every position, a softmax over two of them.

    head_rows: how much of the vocabulary has a logit. 151,669 rows cost a small model many times what the rest of it
    does; fewer change none of the two that count.
    """

    def __init__(
        self, folder: Path, dtype: torch.dtype = torch.float32, max_length: int = 8192, head_rows: int = YES + 1
    ) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.model.lm_head.weight = torch.nn.Parameter(self.model.lm_head.weight[:head_rows].detach().clone())
        self._prefix, self._suffix = (
            self.tokenizer.encode(part, add_special_tokens=False) for part in (PREFIX, SUFFIX)
        )
        self._max_length = max_length

    def ids(self, pairs: Sequence[tuple[str, str]], instruction: str = INSTRUCTION) -> list[list[int]]:
        bodies = [f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}" for query, document in pairs]
        found = self.tokenizer(
            bodies,
            padding=False,
            truncation="longest_first",
            return_attention_mask=False,
            max_length=self._max_length - len(self._prefix) - len(self._suffix),
        )
        return [self._prefix + row + self._suffix for row in found["input_ids"]]

    @torch.inference_mode()
    def scores(
        self, pairs: Sequence[tuple[str, str]], instruction: str = INSTRUCTION, batch: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logit differences and scores, float32 [N]."""
        rows, logits, scores = self.ids(pairs, instruction), [], []
        for at in range(0, len(rows), batch):
            inputs = self.tokenizer.pad({"input_ids": rows[at : at + batch]}, padding=True, return_tensors="pt")
            last = self.model(**inputs).logits[:, -1, :]
            two = torch.stack([last[:, NO], last[:, YES]], dim=1)
            scores.append(torch.nn.functional.log_softmax(two, dim=1)[:, 1].exp())
            logits.append(two[:, 1] - two[:, 0])
        return torch.cat(logits).float().numpy(), torch.cat(scores).float().numpy()


def cross_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """sentence-transformers' CrossEncoder with the recipe as its chat template; gives logit differences.

    The template ends in three newlines, because jinja drops one.
    """
    from sentence_transformers import CrossEncoder

    def content(role: str) -> str:
        return f"messages | selectattr('role', 'eq', '{role}') | map(attribute='content') | first"

    template = (
        f"{PREFIX}<Instruct>: {{{{ ({content('system')}) | default('{INSTRUCTION}', true) }}}}\n"
        f"<Query>: {{{{ {content('query')} }}}}\n<Document>: {{{{ {content('document')} }}}}{SUFFIX}\n"
    )
    return CrossEncoder(
        str(folder),
        device="cpu",
        model_kwargs={"dtype": dtype},
        processor_kwargs={"chat_template": template},
        activation_fn=torch.nn.Identity(),
    )
