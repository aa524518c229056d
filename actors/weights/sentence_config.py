"""What sentence-transformers' own settings say: sentence_bert_config.json and config_sentence_transformers.json.

What changes a vector, or which of two vectors is nearer, is taken over or refused by name: a setting that is left out
gives vectors that look right and find nothing.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.spec import ModelError
from actors.weights.modules import read_json

# Where sentence-transformers looks, in its order; the first one that says anything counts.
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
MODEL_FILE = "config_sentence_transformers.json"
TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
# Settings of a transformer that change nothing for us: how it is run, not what it computes.
HOW_IT_RUNS = frozenset(
    ("attn_implementation", "torch_dtype", "dtype", "device_map", "low_cpu_mem_usage", "use_safetensors", "use_cache")
)
# The tokenizer's settings that tokenizer_files.py knows, and those that matter to nobody here.
OF_TOKENIZERS = frozenset(
    (
        *("model_max_length", "truncation_side", "split_special_tokens", "do_lower_case", "strip_accents"),
        *("tokenize_chinese_chars", "add_prefix_space", "padding_side", "clean_up_tokenization_spaces", "use_fast"),
    )
)
IGNORED = frozenset(("trust_remote_code", "local_files_only", "unpad_inputs"))
SAME_ORDER_AT_LENGTH_1 = ("cosine", "dot", "euclidean")


@dataclass(frozen=True)
class TransformerConfig:
    """Of sentence-transformers' Transformer module, from the file `path` (None: there is none).

    length: most tokens of a text, None where it is not said; lower_case: Lowercase goes before the tokenizer's own
    normaliser; tokenizer: settings in place of those of tokenizer_config.json.
    """

    path: Path | None
    length: int | None = None
    lower_case: bool = False
    tokenizer: dict[str, Any] = field(default_factory=dict)


def transformer_config(folder: Path) -> TransformerConfig:
    """What the tokenizer of the folder's model needs to know. Raises ModelError for tokenizer settings not known."""
    path, said = _transformer_file(folder)
    if path is None:
        return TransformerConfig(None)
    own = {**(said.get("tokenizer_args") or {}), **(said.get("processor_kwargs") or {})}
    own = {name: value for name, value in own.items() if name not in IGNORED}
    if unknown := sorted(set(own) - OF_TOKENIZERS):
        raise _refused(path, f"tokenizer settings that are not known here: {', '.join(unknown)}")
    length = own.get("model_max_length", said.get("max_seq_length"))
    return TransformerConfig(path, length, bool(said.get("do_lower_case")), own)


def refuse_other_vectors(folder: Path) -> None:
    """Raises ModelError for a setting of the Transformer module under which it would give other vectors than ours."""
    path, said = _transformer_file(folder)
    if path is None:
        return
    harmless = {
        "transformer_task": lambda value: value == "feature-extraction",
        "modality_config": lambda value: value == TEXT_ONLY,
        "module_output_name": lambda value: value == "token_embeddings",
        "processing_kwargs": lambda value: not any(set(of or {}) - {"padding"} for of in value.values()),
        **dict.fromkeys(("model_args", "model_kwargs", "config_args", "config_kwargs"), _only_how_it_runs),
        **dict.fromkeys(("max_seq_length", "do_lower_case", "tokenizer_args", "processor_kwargs"), _taken_over),
    }
    for name, value in said.items():
        if value is None or name in IGNORED or (name in harmless and harmless[name](value)):
            continue
        raise _refused(path, f"{name}: {value!r}, which is not supported")


def prompts(folder: Path) -> tuple[dict[str, str], str]:
    """The prompts by name, and the default one ("" without)."""
    config = _model_config(folder)
    found = config.get("prompts") or {}
    return found, found.get(config.get("default_prompt_name") or "", "")


def truncated_dimensions(folder: Path) -> int | None:
    """To how many numbers sentence-transformers cuts a vector where nobody asks for a number; None = it does not."""
    found = _model_config(folder).get("truncate_dim")
    return None if found is None else int(found)


def check_similarity(folder: Path, unit_length: bool) -> None:
    """Raises ModelError when the model's own similarity orders its vectors otherwise than their cosine does.

    unit_length: the vectors are stored at length 1, where the dot product is the cosine, and the Euclidean distance
    orders as it does.
    """
    name = _model_config(folder).get("similarity_fn_name") or "cosine"
    if name == "cosine" or (unit_length and name in SAME_ORDER_AT_LENGTH_1):
        return
    without = "" if unit_length else ", and modules.json has no Normalize, so its vectors are not of length 1"
    raise ModelError(
        f"{folder / MODEL_FILE} has similarity_fn_name: {name!r}{without}: this model's vectors are not meant to be "
        "compared by their cosine, by which every search here orders. Take a model for cosine similarity (of a name "
        'with "dot" there is often one with "cos"); or, if you know that the cosine serves you, put '
        '"similarity_fn_name": "cosine" into that file'
    )


def _transformer_file(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    for name in TRANSFORMER_FILES:
        if (folder / name).exists() and (said := read_json(folder / name)):
            return folder / name, said
    return None, {}


def _model_config(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_FILE
    found: dict[str, Any] = read_json(path) if path.exists() else {}
    return found


def _only_how_it_runs(settings: dict[str, Any]) -> bool:
    return set(settings) <= HOW_IT_RUNS | IGNORED


def _taken_over(_: Any) -> bool:
    return True


def _refused(path: Path, problem: str) -> ModelError:
    return ModelError(
        f"{path} has {problem}: left out, it would give other vectors than sentence-transformers does. Take a model "
        "without it, or remove it from the file if the model was trained without it"
    )
