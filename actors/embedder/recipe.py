"""What an embedder's vectors depend on: the counterpart of reranker/recipe.py."""

from typing import Any

from actors import fake
from actors.device.auto import resolve_dtype
from actors.spec import ModelSpec
from actors.weights.locate import digest
from actors.weights.recipe import resolve
from actors.weights.tokenizer_files import tokenizer_files


def identity(spec: ModelSpec) -> dict[str, Any]:
    """All that changes a vector, readable and ready for JSON. Two specs with equal identities give equal vectors.

    Hashes the weights (once per process). Imports torch only for dtype "auto", unless the device is CUDA.
    Raises ModelError as `locate`, `load_recipe` and `resolve` do.
    """
    resolved = resolve(spec)
    recipe, folder = resolved.recipe, resolved.folder
    return {
        "weights": digest(folder) if folder else fake.DIGEST,
        "tokenizer": tokenizer_files(folder).digest if folder else fake.DIGEST,
        "architecture": recipe.architecture,
        "pooling": recipe.pooling,
        "prompt": resolved.document_prompt,
        "dimensions": resolved.dimensions,
        "normalise": recipe.normalise,
        "max_tokens": resolved.max_tokens,
        "dtype": resolve_dtype(spec),
        "lower_case": recipe.lower_case,
    }
