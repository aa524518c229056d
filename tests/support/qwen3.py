"""Random weights of a small Qwen3 in the form of the fused forward pass, and folders of them as on the hub."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from actors.network.qwen3_weights import Geometry, Weights

SMALL = Geometry(64, 3, 4, 2, 16, 96, 500, 512, 1e6, 1e-6)


def filled(geometry: Geometry, dtype: str = "float32", std: float = 0.1, device: str = "cpu") -> Weights:
    """Random weights; at std 0.1 each part matters, and a wrong one shows in the first digit."""
    weights = Weights(geometry, device, dtype)
    weights.randomise()
    for name, tensor in weights.tensors().items():
        if not name.endswith("norm.weight"):
            tensor *= std / 0.02
    return weights


def write(folder: Path, weights: Weights, prefix: str = "", shards: int = 1, **extra: torch.Tensor) -> Path:
    """A folder as on the hub: config.json in the old spelling, one or more safetensors."""
    g = weights.geometry
    config = {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": g.hidden,
        "num_hidden_layers": g.layers,
        "num_attention_heads": g.heads,
        "num_key_value_heads": g.kv_heads,
        "head_dim": g.head_size,
        "intermediate_size": g.intermediate,
        "vocab_size": g.vocabulary,
        "max_position_embeddings": g.positions,
        "rope_theta": g.rope_theta,
        "rope_scaling": None,
        "rms_norm_eps": g.eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {prefix + name: tensor.clone() for name, tensor in weights.tensors().items()} | extra
    for number in range(shards):
        part = dict(list(tensors.items())[number::shards])
        name = f"model-{number + 1:05}-of-{shards:05}.safetensors" if shards > 1 else "model.safetensors"
        save_file(part, folder / name, metadata={"format": "pt"})
    return folder
