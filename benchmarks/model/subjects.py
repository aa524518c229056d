"""The models that are measured: of the true sizes with random weights, or with real ones.

Random weights are drawn on the device itself, nothing goes through a disk; never zeros, with which a GPU is faster.
Peers get the same memory, or a copy of it where the model is small.

Sizes: the config.json files of Qwen/Qwen3-Embedding-0.6B, -4B and -8B, nreimers/MiniLM-L6-H384-uncased and
bert-base-uncased.
"""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from actors.network import attention
from actors.network.fast_paths import variable_lengths
from actors.network.network import EncoderNetwork, Network, Qwen3Network, TransformersNetwork
from actors.network.quiet import quiet_transformers
from actors.network.qwen3_weights import RANDOM_STD, Geometry, Weights, unsupported
from actors.spec import ModelError, ModelSpec
from actors.weights.locate import locate
from actors.weights.recipe import Recipe, load_recipe
from actors.weights.tokenizer_files import tokenizer_file
from benchmarks.model import texts

END = "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
PATHS = ("fused", "generic")


def _qwen3(hidden: int, layers: int, heads: int, intermediate: int, vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
    }


def _bert(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden,
        "vocab_size": 30522,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
    }


RANDOM = {
    "0.6B": _qwen3(1024, 28, 16, 3072, 151669),
    "0.6B-4-layers": _qwen3(1024, 4, 16, 3072, 151669),
    "4B": _qwen3(2560, 36, 32, 9728, 151665),
    "8B": _qwen3(4096, 36, 32, 12288, 151665),
    "minilm": _bert(384, 6, 12),
    "bert-base": _bert(768, 12, 12),
    "small": _qwen3(512, 6, 8, 1536, 8192) | {"num_key_value_heads": 4, "head_dim": 64},
    "tiny": _qwen3(64, 2, 4, 128, 512) | {"num_key_value_heads": 2, "head_dim": 16},
}


@dataclass
class Subject:
    """A model to measure. network: None = the EmbedModel loads it from the folder, as in a job.

    peer_model() gives transformers' own model with the same weights, SDPA attention; to be called before `start`.
    """

    name: str
    folder: Path
    config: dict[str, Any]
    recipe: Recipe
    weights: str  # "random" or "real"
    made_up_words: bool
    network: Network | None
    peer_model: Callable[[], Any]


@dataclass(frozen=True)
class Wanted:
    """What to load: a name of RANDOM, or weights as in a job file; a folder with a tokenizer, or None.

    path: "fused", or "generic" to run transformers' modules with our packed attention where we have our own.
    """

    model: str
    device: str
    dtype: str
    tokenizer: str | None = None
    path: str = "fused"
    seed: int = 0


def load(wanted: Wanted, folder: Path) -> Subject:
    """The model, on its device. `folder` takes the few files that a model with random weights needs.

    Raises ModelError as `locate` of actors.weights.locate does, and for a tokenizer that does not fit.
    """
    random = wanted.model in RANDOM
    if random:
        _write_folder(folder, RANDOM[wanted.model], wanted.tokenizer)
    else:
        folder = locate(ModelSpec(wanted.model))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    recipe = load_recipe(folder)
    network: Network | None = None
    if recipe.architecture == "qwen3" and recipe.pooling == "last" and not unsupported(config):
        network, peer_model = _load_qwen3(wanted, folder, config, recipe, random)
    elif random:
        network, peer_model = _random_encoder(wanted, config, recipe)
    else:
        kind = getattr(torch, wanted.dtype)
        peer_model = lambda: _from_folder(folder, kind).to(wanted.device)  # noqa: E731
        if wanted.path == "generic":
            attention.register()
            packed = varlen(wanted.device, wanted.dtype)
            network = TransformersNetwork(peer_model(), recipe, wanted.device, packed)
    made_up = random and wanted.tokenizer is None
    return Subject(wanted.model, folder, config, recipe, "random" if random else "real", made_up, network, peer_model)


def varlen(device: str, dtype: str) -> bool:
    """Whether torch's variable-length kernel is used, as in actors/network/network.py."""
    return variable_lengths(device, dtype)


def _load_qwen3(
    wanted: Wanted, folder: Path, config: dict[str, Any], recipe: Recipe, random: bool
) -> tuple[Network, Callable[[], Any]]:
    loaded = Weights(Geometry.of(config), wanted.device, wanted.dtype)
    if random:
        loaded.randomise(wanted.seed)
    else:
        loaded.load(folder)
    packed = varlen(wanted.device, wanted.dtype)
    if wanted.path == "fused":
        return Qwen3Network(loaded, packed, in_8_bits=wanted.dtype == "float8"), loaded.reference
    if wanted.dtype == "float8":
        raise ModelError("float8 has no generic path: leave --path away")
    attention.register()
    return TransformersNetwork(loaded.reference(), recipe, wanted.device, packed), loaded.reference


def _random_encoder(wanted: Wanted, config: dict[str, Any], recipe: Recipe) -> tuple[Network, Callable[[], Any]]:
    from transformers import BertConfig, BertModel

    if wanted.dtype == "float8":
        raise ModelError("float8 is for Qwen3 models only")
    attention.register()
    with torch.device(wanted.device):
        model = BertModel(BertConfig(**config), add_pooling_layer=False)
    model = model.to(getattr(torch, wanted.dtype)).eval()
    randomise(model, wanted.seed)
    model.set_attn_implementation("sdpa")
    peer = copy.deepcopy(model)
    kind = EncoderNetwork if wanted.path == "fused" else TransformersNetwork
    return kind(model, recipe, wanted.device, varlen(wanted.device, wanted.dtype)), lambda: peer


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Every parameter of an encoder normal, those of its norms near 1; none zero, biases neither."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("LayerNorm.weight"):
            parameter.uniform_(0.8, 1.2, generator=generator)
        else:
            parameter.normal_(0.0, RANDOM_STD, generator=generator)


def _from_folder(folder: Path, kind: torch.dtype) -> Any:
    from transformers import AutoModel

    with quiet_transformers():
        return AutoModel.from_pretrained(
            str(folder), dtype=kind, attn_implementation="sdpa", local_files_only=True, use_safetensors=True
        ).eval()


def _write_folder(folder: Path, config: dict[str, Any], tokenizer: str | None) -> None:
    """config.json, tokenizer and recipe of a model whose weights are never written."""
    qwen3 = config["model_type"] == "qwen3"
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is None:
        around = ("$A", END) if qwen3 else ("[CLS]", "$A", "[SEP]")
        texts.write_word_tokenizer(folder, config["vocab_size"], around)
    else:
        copy_tokenizer(Path(tokenizer).expanduser(), folder)
    pooling = "lasttoken" if qwen3 else "mean" if config["num_hidden_layers"] == 6 else "cls"
    write_modules(folder, pooling, normalise=True)
    # `locate` takes no folder without such a file.
    save_file({"nothing": torch.ones(1)}, folder / "model.safetensors")


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Raises ModelError when there is no tokenizer.json."""
    tokenizer_file(source)
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, folder / name)


def write_modules(folder: Path, pooling: str, normalise: bool) -> None:
    """modules.json and 1_Pooling/config.json, as sentence-transformers reads and writes them."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalise else [])]
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": paths[kind], "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    for kind in kinds[1:]:
        (folder / paths[kind]).mkdir(exist_ok=True)
    flags = {"cls": "cls_token", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    size = json.loads((folder / "config.json").read_text())["hidden_size"]
    pooled = {f"pooling_mode_{flag}": mode == pooling for mode, flag in flags.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": size, **pooled}))
