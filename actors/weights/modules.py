"""What a folder's modules.json says: the chain of modules that sentence-transformers 2 to 6 would run.

What is not understood is refused by name, not left out.
"""

import json
from pathlib import Path
from typing import Any

from actors.spec import ModelError

RERANKER_MODULE = "LogitScore"  # sentence-transformers 5.4 and later
POOLING_KEYS = {  # flag of sentence-transformers up to 5 -> our word
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}
POOLING_WORDS = {"mean": "mean", "cls": "cls", "lasttoken": "last", "last": "last"}


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises ModelError when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}): fetch the model again") from error


def refuse_reranker(config: dict[str, Any], folder: Path) -> None:
    """Raises ModelError when config.json or modules.json say that the model is a reranker."""
    classes = config.get("architectures") or []
    chain = _chain(folder) if (folder / "modules.json").exists() else []
    signs = [name for name in classes if name.endswith("ForSequenceClassification")]
    signs += [f"module {kind}" for kind, _ in chain if kind == RERANKER_MODULE]
    if signs:
        raise ModelError(
            f"the model in {folder} is a reranker ({', '.join(signs)}): it scores pairs of texts and gives no "
            "vectors. For embedding take an embedding model, such as Qwen/Qwen3-Embedding-0.6B"
        )


def pooling_and_normalise(folder: Path) -> tuple[str, bool]:
    """The pooling ("mean", "cls" or "last"), and whether a Normalize module is there.

    Raises ModelError for any other chain than Transformer, Pooling.
    """
    chain = _chain(folder)
    kinds = [kind for kind, _ in chain]
    unknown = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if unknown:
        raise ModelError(
            f"{folder}/modules.json has the module {', '.join(unknown)}, which is not supported; leaving it out would "
            "give other vectors. Take a model made of Transformer, Pooling and Normalize"
        )
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or chain[0][1] != "":
        raise ModelError(
            f"{folder}/modules.json chains {' -> '.join(kinds)} with weights in {chain[0][1] or '.'!r}; supported is "
            "Transformer (weights beside modules.json) -> Pooling [-> Normalize]"
        )
    return _pooling(folder / chain[1][1] / "config.json"), kinds[-1] == "Normalize"


def _pooling(path: Path) -> str:
    if not path.exists():
        raise ModelError(f"{path} is missing, so the pooling is unknown: fetch the model again")
    config = read_json(path)
    spelled = config.get("pooling_mode")
    if spelled is not None:
        modes = [spelled] if isinstance(spelled, str) else list(spelled)
        found = [POOLING_WORDS.get(mode) for mode in modes]
    else:
        modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
        found = [POOLING_KEYS.get(key) for key in modes]
    if len(found) != 1 or found[0] is None:
        raise ModelError(f"{path} asks for pooling {', '.join(modes) or 'none'}; supported: one of mean, cls, last")
    if config.get("include_prompt") is False:
        raise ModelError(f"{path} leaves the prompt's tokens out of the pooling, which is not supported")
    return found[0]


def _chain(folder: Path) -> list[tuple[str, str]]:
    """(kind, folder) of each module."""
    entries = read_json(folder / "modules.json")
    return [(entry["type"].rsplit(".", 1)[-1], entry.get("path", "")) for entry in entries]
