"""What a folder must be to be run as a Qwen3 reranker, and the two rows of its head that the score needs.

Sources: the models' own repository (QwenLM/Qwen3-Embedding: README, examples/qwen3_reranker_transformers.py); the
conversion to Qwen3ForSequenceClassification (score.weight = lm_head[yes] - lm_head[no]).

Legend: H hidden size, V vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from actors.spec import ModelError
from actors.weights.modules import RERANKER_MODULE, read_json

CONVERTED = "Qwen3ForSequenceClassification"
EMBEDDING = ("embed_tokens.weight", "model.embed_tokens.weight")


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a reranker. Raises ModelError when this layer cannot run the model, or it is no reranker."""
    config = read_json(folder / "config.json")
    modules = _modules(folder)
    problem = None
    if config.get("model_type") != "qwen3":
        problem = f"is of architecture {config.get('model_type')!r}"
    elif config.get("quantization_config"):
        problem = "has quantised weights"
    elif config.get("is_causal") is False or config.get("use_bidirectional_attention"):
        problem = "is a Qwen3 with two-way attention"
    elif others := sorted(set(modules) - {"Transformer", "Pooling", "Normalize", RERANKER_MODULE}):
        problem = f"has the module {', '.join(others)}"
    if problem:
        raise ModelError(f"the model in {folder} {problem}; as a reranker only Qwen3-Reranker is supported")
    # A tokenizer that closes texts is no sign of it: the prompt is made of ids, without what a tokenizer adds.
    if "Pooling" in modules:
        raise ModelError(
            f"{folder} is an embedding model (its modules.json has Pooling), not a reranker: its scores would mean "
            "nothing. Give the weights of Qwen3-Reranker, with the files of its own repository"
        )
    return config


def head_direction(folder: Path, config: dict[str, Any], yes: int, no: int) -> torch.Tensor:
    """w_yes - w_no, float32 [H], read from the folder's safetensors without the rest of the head.

    From lm_head.weight; from the embedding where config.json ties the two (0.6B, 4B); or from score.weight [1, H],
    which holds the difference already. Raises ModelError when the folder has none of them, or is
    scored by other tokens.
    """
    _check_answers(folder, yes, no)
    names = _names(folder)
    if CONVERTED in (config.get("architectures") or ()):
        return _checked(_converted(folder, names), folder)
    name = "lm_head.weight" if "lm_head.weight" in names else None
    if name is None and config.get("tie_word_embeddings"):
        name = next((name for name in EMBEDDING if name in names), None)
    if name is None:
        raise ModelError(
            f"{folder} has no lm_head.weight, and its config.json does not tie it to the embedding: without it there "
            "is nothing to score with. Fetch the weights again"
        )
    yes_H, no_H = (_rows(names[name], name, row, row + 1)[0] for row in (yes, no))
    return _checked(yes_H - no_H, folder)


def _check_answers(folder: Path, yes: int, no: int) -> None:
    """Raises ModelError when sentence-transformers would score by other tokens than these."""
    place = _modules(folder).get(RERANKER_MODULE)
    asked = {} if place is None else read_json(folder / place / "config.json")
    found = asked.get("true_token_id", yes), asked.get("false_token_id", no)
    if found != (yes, no):
        raise ModelError(
            f"{folder} is scored by tokens {found[0]} and {found[1]}, Qwen3-Reranker by yes and no, {yes} and {no}: it "
            "is another reranker, which is not supported"
        )


def _converted(folder: Path, names: dict[str, Path]) -> torch.Tensor:
    if "score.weight" not in names:
        raise ModelError(
            f"{folder} is said to be a {CONVERTED} but has no score.weight: its head was never converted. Take the "
            "original weights, or the conversion of tomaarsen/Qwen3-Reranker-*-seq-cls"
        )
    score = _rows(names["score.weight"], "score.weight", 0, None)
    if len(score) != 1:
        raise ModelError(f"score.weight in {folder} has {len(score)} rows; supported is one, w_yes - w_no")
    return score[0]


def _checked(direction_H: torch.Tensor, folder: Path) -> torch.Tensor:
    if not (direction_H.isfinite().all() and direction_H.any()):
        raise ModelError(f"the head in {folder} does not tell yes from no: it is damaged, fetch the weights again")
    return direction_H


def _names(folder: Path) -> dict[str, Path]:
    """The file of every tensor."""
    return {name: file for file in sorted(folder.glob("*.safetensors")) for name in _open_names(file)}


def _open_names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} could not be read: {error}. Fetch the weights again") from error


def _rows(file: Path, name: str, first: int, end: int | None) -> torch.Tensor:
    """Rows first:end of a tensor, float32."""
    with safe_open(file, framework="pt") as opened:
        part = opened.get_slice(name)
        if end is not None and end > part.get_shape()[0]:
            raise ModelError(f"{file}: {name} has {part.get_shape()[0]} rows and none for id {first}")
        return part[first:end].float()


def _modules(folder: Path) -> dict[str, str]:
    """Kind and folder of the modules that sentence-transformers would run; none where it saved nothing."""
    path = folder / "modules.json"
    entries = read_json(path) if path.exists() else []
    return {entry["type"].rsplit(".", 1)[-1]: entry.get("path", "") for entry in entries}
