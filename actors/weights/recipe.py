"""How a model's authors mean it to be used, read from its folder; never guessed.

Sources: modules.json, 1_Pooling/config.json, and the files of sentence_config.py and tokenizer_files.py, as
sentence-transformers 2 to 6 write and read them; for Qwen3-Embedding folders without these, the recipe of the model's
own repository (QwenLM/Qwen3-Embedding: README, examples/, evaluation/). What is not understood is refused by name: a
module that is skipped gives vectors that look right and find nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors import fake
from actors.spec import ModelError, ModelSpec
from actors.weights import modules, sentence_config, tokenizer_files
from actors.weights.locate import locate
from actors.weights.modules import read_json

SUPPORTED = ("bert", "modernbert", "qwen3", "roberta", "xlm-roberta")
SIZES = ("hidden_size", "vocab_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers")
SIZES_OF_QWEN3 = ("num_key_value_heads", "intermediate_size", "rms_norm_eps")
ROBERTA_FAMILY = ("roberta", "xlm-roberta")
WITH_FLOAT8 = ("qwen3",)
QWEN_QUERY_PROMPT = (
    "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"  # no space after it
)
# 8,192 is what Qwen's examples and evaluation run with; the 32k the model can do costs memory nobody asked for.
QWEN_MAX_TOKENS = 8192


@dataclass(frozen=True)
class Recipe:
    """The recipe of a model.

    pooling: "mean", "cls" or "last"; max_tokens: what the recipe cuts to; max_positions: the most the model can take;
    dimensions: length of its full vector; cut_to: to how many of them it is cut where nobody asks for a number, None =
    not; lower_case: the text is lower-cased before it is normalised.
    """

    architecture: str
    pooling: str
    normalise: bool
    document_prompt: str
    query_prompt: str
    max_tokens: int
    max_positions: int
    dimensions: int
    cut_to: int | None
    vocabulary: int
    lower_case: bool


@dataclass(frozen=True)
class Resolved:
    """A recipe with the wishes of a ModelSpec applied and checked. folder is None for the fake model."""

    folder: Path | None
    recipe: Recipe
    document_prompt: str
    query_prompt: str
    dimensions: int
    max_tokens: int


def load_recipe(folder: Path) -> Recipe:
    """Reads the recipe of the model in `folder`.

    Raises ModelError for an architecture, a module or a setting that is not supported, when the pooling is unknown, and
    for a reranker.
    """
    config = read_json(folder / "config.json")
    modules.refuse_reranker(config, folder)
    architecture = _architecture(config, folder)
    _check_complete(config, architecture, folder)
    positions = _max_positions(config, architecture)
    if not (folder / "modules.json").exists():
        if architecture != "qwen3":
            raise ModelError(
                f"{folder} has no modules.json, so its pooling is unknown: take the model's sentence-transformers "
                "folder (modules.json and 1_Pooling/ beside the weights)"
            )
        pooling, normalise = "last", True
    else:
        pooling, normalise = modules.pooling_and_normalise(folder)
    # Qwen's own code always normalises; a copy of modules.json that lost the module changes nothing about that.
    normalise = normalise or architecture == "qwen3"
    sentence_config.refuse_other_vectors(folder)
    sentence_config.check_similarity(folder, unit_length=normalise)
    document_prompt, query_prompt = _prompts(folder, architecture)
    return Recipe(
        architecture=architecture,
        pooling=pooling,
        normalise=normalise,
        document_prompt=document_prompt,
        query_prompt=query_prompt,
        max_tokens=_length(folder, architecture, positions),
        max_positions=positions,
        dimensions=int(config["hidden_size"]),
        cut_to=sentence_config.truncated_dimensions(folder),
        vocabulary=int(config["vocab_size"]),
        lower_case=sentence_config.transformer_config(folder).lower_case,
    )


def resolve(spec: ModelSpec, with_weights: bool = True) -> Resolved:
    """Finds the weights and applies the spec's prompts, dimensions and max_tokens to the recipe.

    with_weights False: for those who only tokenise; of remote weights the small files are fetched.
    Raises ModelError when one of them is beyond what the model can do, naming both numbers.
    """
    folder = None if spec.is_fake else locate(spec, tokenizer_only=not with_weights)
    recipe = load_recipe(folder) if folder else fake_recipe()
    if spec.dtype == "float8" and recipe.architecture not in WITH_FLOAT8:
        raise ModelError(
            f"dtype float8 is for {', '.join(WITH_FLOAT8)} only, and {spec.weights} is {recipe.architecture}: use "
            "bfloat16 or float32"
        )
    dimensions = spec.dimensions or recipe.cut_to or recipe.dimensions
    if dimensions > recipe.dimensions:
        raise ModelError(f"dimensions {dimensions} asked, but {spec.weights} gives {recipe.dimensions} at most")
    max_tokens = spec.max_tokens or recipe.max_tokens
    if max_tokens > recipe.max_positions:
        raise ModelError(f"max_tokens {max_tokens} asked, but {spec.weights} takes {recipe.max_positions} at most")
    document_prompt = recipe.document_prompt if spec.prompt is None else spec.prompt
    query_prompt = recipe.query_prompt if spec.query_prompt is None else spec.query_prompt
    return Resolved(folder, recipe, document_prompt, query_prompt, dimensions, max_tokens)


def fake_recipe() -> Recipe:
    """The recipe of the fake model; see actors/embedder/fake.py."""
    return Recipe(
        architecture="fake",
        pooling="mean",
        normalise=True,
        document_prompt="",
        query_prompt="",
        max_tokens=fake.MAX_TOKENS,
        max_positions=fake.MAX_POSITIONS,
        dimensions=fake.MAX_DIMENSIONS,
        cut_to=fake.DIMENSIONS,
        vocabulary=fake.VOCABULARY,
        lower_case=True,
    )


def _check_complete(config: dict[str, Any], architecture: str, folder: Path) -> None:
    # transformers would take its own defaults for them, which are those of some other model.
    wanted = SIZES + (SIZES_OF_QWEN3 if architecture == "qwen3" else ())
    if missing := [name for name in wanted if config.get(name) is None]:
        raise ModelError(f"{folder}/config.json does not say {', '.join(missing)}: fetch the model again")


def _architecture(config: dict[str, Any], folder: Path) -> str:
    name = config.get("model_type", "")
    problem = None
    if name not in SUPPORTED:
        problem = f"is of architecture {name!r}"
    elif "AutoModel" in config.get("auto_map", {}):
        problem = "needs code from its own repository, which is never run,"
    elif config.get("position_embedding_type", "absolute") != "absolute":
        problem = f"uses {config['position_embedding_type']!r} positions"
    elif config.get("quantization_config"):
        problem = "has quantised weights"
    elif name == "qwen3" and (config.get("is_causal") is False or config.get("use_bidirectional_attention")):
        problem = "is a Qwen3 with two-way attention"
    if problem:
        raise ModelError(f"the model in {folder} {problem} and is not supported; supported: {', '.join(SUPPORTED)}")
    return name


def _max_positions(config: dict[str, Any], architecture: str) -> int:
    positions = int(config["max_position_embeddings"])
    if architecture in ROBERTA_FAMILY:
        # Their first position is pad_token_id + 1: 514 rows hold 512 tokens.
        positions -= int(config.get("pad_token_id", 1)) + 1
    return positions


def _length(folder: Path, architecture: str, positions: int) -> int:
    """Most tokens of a text, as sentence-transformers takes it."""
    length = sentence_config.transformer_config(folder).length
    if length is None:
        said = [found for found in (tokenizer_files.longest(folder),) if found]
        length = min([*said, *([QWEN_MAX_TOKENS] if architecture == "qwen3" else ()), positions])
    return int(min(length, positions))


def _prompts(folder: Path, architecture: str) -> tuple[str, str]:
    """(document prompt, query prompt), chosen as sentence-transformers' encode_document and encode_query do."""
    prompts, default = sentence_config.prompts(folder)
    document = next((prompts[name] for name in ("document", "passage", "corpus") if name in prompts), default)
    query = prompts.get("query", QWEN_QUERY_PROMPT if architecture == "qwen3" else default)
    return document or "", query or ""
