"""What turns packed token ids into pooled states: a forward pass of our own for Qwen3 and for BERT's kind, or any
supported model of transformers.

All also give the slow, plain way over the same weights: transformers' modules, one sequence at a time, nothing packed.
A replica compares the two before it works.

Legend: n sequences, T tokens in all, H hidden size.
"""

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError

from actors import packed
from actors.device.refusal import lacks_room
from actors.network import attention, encoder, pooling
from actors.network.attention import Packing, to_device
from actors.network.encoder import Encoder
from actors.network.fast_paths import variable_lengths
from actors.network.quiet import quiet_transformers
from actors.network.qwen3 import Qwen3
from actors.network.qwen3_weights import Geometry, Weights, unsupported
from actors.spec import ModelError
from actors.weights.recipe import ROBERTA_FAMILY, Recipe

OF_BERTS_KIND = ("bert", "roberta", "xlm-roberta")  # with encoder.py's forward pass, and a pooling layer of their own
DECODERS = ("qwen3",)


class Network(Protocol):
    """A loaded model. operations: of its matrix products for one token, an addition and a multiplication being two."""

    operations: int

    def pooled(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        """One pooled state a sequence, float32 [n, H], on the device; does not wait for it."""

    def plain(self, ids_T: np.ndarray) -> torch.Tensor:
        """The last hidden states of one sequence, [T, H], the slow way. Only before `start`."""

    def start(self) -> None:
        """To be called once, before the first `pooled`: what must not happen before `plain` was asked."""


def load_network(folder: Path, recipe: Recipe, device: str, dtype: str) -> Network:
    """The fastest network for the model in `folder`. Raises ModelError when its weights cannot be used."""
    varlen = variable_lengths(device, dtype)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if recipe.architecture == "qwen3" and recipe.pooling == "last" and not unsupported(config):
        weights = Weights(Geometry.of(config), device, dtype)
        weights.load(folder)
        return Qwen3Network(weights, varlen, in_8_bits=dtype == "float8")
    if dtype == "float8":
        raise ModelError(f"{folder}: float8 is for Qwen3 models with last-token pooling only; use bfloat16")
    model = _load(folder, recipe.architecture, getattr(torch, dtype)).to(device)
    fused = recipe.architecture in OF_BERTS_KIND and not encoder.unsupported(model.config)
    return (EncoderNetwork if fused else TransformersNetwork)(model, recipe, device, varlen)


class Qwen3Network:
    """actors/network/qwen3.py, last-token pooling."""

    def __init__(self, weights: Weights, varlen: bool, in_8_bits: bool = False) -> None:
        self._weights, self._varlen, self._in_8_bits = weights, varlen, in_8_bits
        self._reference: Any = None
        self._qwen3 = Qwen3(weights)
        self.operations = 2 * sum(matrix.weight.numel() for layer in weights.layers for matrix in layer.matrices)

    def pooled(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        device = self._weights.device
        packing = attention.pack(lengths_n, device, self._varlen)
        last = attention.pack_queries(np.ones_like(lengths_n), lengths_n, None, device, self._varlen)
        positions_T = packed.ranges(np.zeros_like(lengths_n), lengths_n)
        ids, positions, last_n = (
            to_device(numbers, device) for numbers in (ids_T.astype(np.int64), positions_T, np.cumsum(lengths_n) - 1)
        )
        return self._qwen3.last_states(ids, positions, packing, last, last_n).float()

    def plain(self, ids_T: np.ndarray) -> torch.Tensor:
        self._reference = self._reference or self._weights.reference()
        ids = to_device(ids_T.astype(np.int64), self._weights.device)
        return self._reference(input_ids=ids[None], use_cache=False).last_hidden_state[0]

    def start(self) -> None:
        self._reference = None
        if self._in_8_bits:
            self._weights.to_8_bits()
            self._qwen3 = Qwen3(self._weights)


class TransformersNetwork:
    """A model of transformers with our packed attention in place of its own."""

    def __init__(self, model: Any, recipe: Recipe, device: str, varlen: bool) -> None:
        self._model, self._recipe, self._device, self._varlen = model, recipe, device, varlen
        self._pad_id = getattr(model.config, "pad_token_id", None)
        matrices = (x for name, x in model.named_parameters() if x.dim() == 2 and "embed" not in name)
        self.operations = 2 * sum(matrix.numel() for matrix in matrices)

    def pooled(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> torch.Tensor:
        packing = attention.pack(lengths_n, self._device, self._varlen)
        ids = to_device(ids_T.astype(np.int64), self._device)
        positions = to_device(self._positions(ids_T, lengths_n), self._device)
        return pooling.pool(self._packed(ids, positions, packing), packing.cu_queries, self._recipe.pooling)

    def plain(self, ids_T: np.ndarray) -> torch.Tensor:
        self._model.set_attn_implementation("sdpa")
        return self._states(to_device(ids_T.astype(np.int64), self._device))

    def start(self) -> None:
        self._model.set_attn_implementation(attention.NAME)

    def _packed(self, ids: torch.Tensor, positions: torch.Tensor, packing: Packing) -> torch.Tensor:
        return self._states(ids, position_ids=positions[None], attention_mask=None, packing=packing)

    def _states(self, ids: torch.Tensor, **inputs: Any) -> torch.Tensor:
        # A decoder's cache would keep all keys and values.
        if self._recipe.architecture in DECODERS:
            inputs["use_cache"] = False
        return self._model(input_ids=ids[None], **inputs).last_hidden_state[0]

    def _positions(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> np.ndarray:
        """Position of every token in its own sequence, int64 [T]."""
        if self._recipe.architecture not in ROBERTA_FAMILY:
            return packed.ranges(np.zeros_like(lengths_n), lengths_n)
        # transformers counts from pad_token_id + 1 and leaves out tokens that are the pad token, even inside a text.
        counted_T = ids_T != self._pad_id
        running_T = np.cumsum(counted_T, dtype=np.int64)
        starts_n = np.cumsum(lengths_n) - lengths_n
        before_n = running_T[starts_n] - counted_T[starts_n]
        return (running_T - np.repeat(before_n, lengths_n)) * counted_T + self._pad_id


class EncoderNetwork(TransformersNetwork):
    """actors/network/encoder.py, any pooling. transformers' model is loaded for its weights and as the reference."""

    def __init__(self, model: Any, recipe: Recipe, device: str, varlen: bool) -> None:
        super().__init__(model, recipe, device, varlen)
        self._encoder = Encoder(model)

    def start(self) -> None:
        self._model = None  # with its own q, k and v

    def _packed(self, ids: torch.Tensor, positions: torch.Tensor, packing: Packing) -> torch.Tensor:
        return self._encoder.states(ids, positions, packing)


def _load(folder: Path, architecture: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel

    extra = {"add_pooling_layer": False} if architecture in OF_BERTS_KIND else {}
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation=attention.register(),
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                **extra,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if lacks_room(error):
            raise
        raise ModelError(f"the weights in {folder} could not be loaded: {error}. Fetch them again") from error
    shapes = (
        f"{name} ({list(found)} in the file, {list(wanted)} by config.json)"
        for name, found, wanted in report["mismatched_keys"]
    )
    wrong = sorted([*report["missing_keys"], *shapes])
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ModelError(
            f"the weights in {folder} do not fill the model, {some} missing or of another shape: fetch them again"
        )
    return model.eval()
