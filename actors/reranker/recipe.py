"""What a reranker's scores depend on, how they follow from its logits, and the tokenizer of its pairs: the counterpart
of embedder/recipe.py.
"""

from typing import Any

import numpy as np

from actors import fake
from actors.device.auto import resolve_dtype
from actors.reranker.fake import FakeRerankPrompt
from actors.reranker.prompt import DEFAULT_INSTRUCTION, RerankPrompt
from actors.spec import ModelSpec
from actors.weights.locate import digest, locate
from actors.weights.tokenizer_files import tokenizer_files


def load_prompt(spec: ModelSpec) -> RerankPrompt | FakeRerankPrompt:
    """The tokenizer of the reranker that a spec names. Raises ModelError as RerankPrompt does."""
    return FakeRerankPrompt(spec) if spec.is_fake else RerankPrompt(spec)


def identity(spec: ModelSpec, instruction: str | None) -> dict[str, Any]:
    """All that changes a score, readable and ready for JSON. Two equal identities give equal scores.

    Hashes the weights (once per process). Raises ModelError when the weights are no reranker's, when max_tokens is
    beyond what the model can do, or when the instruction leaves no room for a query.
    """
    folder = None if spec.is_fake else locate(spec)
    if folder is not None:
        from actors.reranker.head import read_config  # torch

        read_config(folder)
    prompt = load_prompt(spec)
    prompt.encode(["test"], ["test"], np.zeros(1, dtype=np.int64), instruction)
    return {
        "weights": digest(folder) if folder else fake.DIGEST,
        "tokenizer": tokenizer_files(folder).digest if folder else fake.DIGEST,
        "architecture": "qwen3 reranker" if folder else "fake",
        "instruction": instruction if instruction is not None else DEFAULT_INSTRUCTION if folder else "",
        "max_tokens": prompt.max_tokens,
        "dtype": resolve_dtype(spec),
    }


def scores_of(logits_N: np.ndarray) -> np.ndarray:
    """From logits to scores between 0 and 1: the sigmoid, float32 [N]; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -logits_N.astype(np.float64))).astype(np.float32)  # without overflow
