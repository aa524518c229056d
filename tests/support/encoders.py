"""Small random models of BERT's kind, in folders as on the hub, without a tokenizer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from actors.weights.recipe import Recipe, fake_recipe

KINDS = ("bert", "roberta", "xlm-roberta")
SIZES = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "max_position_embeddings": 260,
    "type_vocab_size": 2,
}


def recipe_of(kind: str, pooling: str = "mean") -> Recipe:
    return replace(fake_recipe(), architecture=kind, pooling=pooling)


def drawn(kind: str, **changes: Any) -> Any:
    """transformers' model, in which every parameter matters: none is zero, norms differ from channel to channel."""
    sizes = SIZES | {"pad_token_id": 0 if kind == "bert" else 1} | changes
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes), attn_implementation="eager")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("LayerNorm.weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            else:
                parameter.normal_(0.0, 0.15, generator=generator)
    return model.eval()


def write(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    return folder
