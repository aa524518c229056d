"""The weights of a Qwen3 in the form its forward pass wants: q, k, v in one matrix, gate and up in another.

Read from safetensors straight into place; every tensor must be there, in its shape, and no other. The same memory can
be looked at through transformers' names (`tensors`), so that transformers' own model runs on it as the reference.

Legend: T tokens; N rows of a matrix, K its width; H hidden size; h query heads, g key heads, D head size; F width of
the MLP.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from actors.device.refusal import lacks_room
from actors.network.kernels.operations import Quantised
from actors.network.kernels.plain import quantise
from actors.spec import ModelError

LAYER_PARTS = {  # name in the file, of a layer -> (fused tensor, slot in it)
    "input_layernorm.weight": ("before_attention", None),
    "self_attn.q_proj.weight": ("qkv", "q"),
    "self_attn.k_proj.weight": ("qkv", "k"),
    "self_attn.v_proj.weight": ("qkv", "v"),
    "self_attn.q_norm.weight": ("head_norms", "of q"),
    "self_attn.k_norm.weight": ("head_norms", "of k"),
    "self_attn.o_proj.weight": ("out", None),
    "post_attention_layernorm.weight": ("before_mlp", None),
    "mlp.gate_proj.weight": ("gate_up", "gate"),
    "mlp.up_proj.weight": ("gate_up", "up"),
    "mlp.down_proj.weight": ("down", None),
}
HEADS = ("lm_head.weight", "score.weight")  # of which a reranker reads the little it needs by itself
RANDOM_STD = 0.02  # Qwen3's initializer_range


@dataclass(frozen=True)
class Geometry:
    """The sizes of a Qwen3."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    positions: int
    rope_theta: float
    eps: float

    @staticmethod
    def of(config: dict[str, Any]) -> "Geometry":
        """From a config.json. Raises ModelError for what `supports` refuses."""
        if problem := unsupported(config):
            raise ModelError(f"this Qwen3 has {problem}, which the fused forward pass does not know")
        rope = config.get("rope_parameters") or {}
        return Geometry(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_size=config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"],
            intermediate=config["intermediate_size"],
            vocabulary=config["vocab_size"],
            positions=config["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            eps=config["rms_norm_eps"],
        )

    @property
    def q_width(self) -> int:
        return self.heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_size


def unsupported(config: dict[str, Any]) -> str | None:
    """What in a Qwen3's config.json this file does not compute; None if it computes all."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    if config.get("attention_bias"):
        return "biases in its attention"
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or ()):
        return "a sliding window"
    if (kind := rope.get("rope_type") or rope.get("type") or "default") != "default":
        return f"rope scaling {kind!r}"
    if config.get("hidden_act", "silu") != "silu":
        return f"the activation {config['hidden_act']!r}"
    return None if size & (size - 1) == 0 else f"heads of size {size}"


class Matrix:
    """A weight [N, K] and its product with packed rows, in 16 or 32 bits, or in 8 after `to_8_bits`."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor | None = None):
        self.weight = weight
        self.scale = scale  # float32 [1, N]

    def to_8_bits(self) -> None:
        values, scale = quantise(self.weight)
        self.weight, self.scale = values, scale.t().contiguous()

    def rows(self, first: int, end: int) -> "Matrix":
        """The product with rows first:end of the weight alone; shares its memory."""
        return Matrix(self.weight[first:end], None if self.scale is None else self.scale[:, first:end])

    def times(self, x: torch.Tensor | Quantised) -> torch.Tensor:
        """x [T, K] -> x W^T, [T, N]."""
        if not isinstance(x, Quantised):
            return x @ self.weight.t()
        return self._times_8(x)

    def add_to(self, sums: torch.Tensor, x: torch.Tensor) -> None:
        """sums [T, N] += x W^T, in place, inside the product. Not in 8 bits, whose product cannot add."""
        sums.addmm_(x, self.weight.t())

    def _times_8(self, x: Quantised) -> torch.Tensor:
        assert self.scale is not None
        return torch._scaled_mm(
            x.values,
            self.weight.t(),
            scale_a=x.scale,
            scale_b=self.scale,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )


@dataclass
class Layer:
    """The weights of one layer: qkv [(h+2g)D, H], out [H, hD], gate_up [2F, H], down [H, F], norms [H], and the norms
    of the heads of queries and of keys, [2, D]."""

    qkv: Matrix
    out: Matrix
    gate_up: Matrix
    down: Matrix
    before_attention: torch.Tensor
    before_mlp: torch.Tensor
    head_norms: torch.Tensor

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        return self.qkv, self.out, self.gate_up, self.down


class Weights:
    """All weights on one device. dtype: "bfloat16", "float32", "float16" or "float8" (filled in bfloat16, then
    `to_8_bits`). Empty until `load` or `randomise` fills it.
    """

    def __init__(self, geometry: Geometry, device: str, dtype: str) -> None:
        self.geometry, self.device = geometry, device
        self.dtype = torch.bfloat16 if dtype == "float8" else getattr(torch, dtype)
        g = geometry
        self.embedding = self._empty(g.vocabulary, g.hidden)
        self.norm = self._empty(g.hidden)
        self.layers = [
            Layer(
                qkv=Matrix(self._empty(g.q_width + 2 * g.kv_width, g.hidden)),
                out=Matrix(self._empty(g.hidden, g.q_width)),
                gate_up=Matrix(self._empty(2 * g.intermediate, g.hidden)),
                down=Matrix(self._empty(g.hidden, g.intermediate)),
                before_attention=self._empty(g.hidden),
                before_mlp=self._empty(g.hidden),
                head_norms=self._empty(2, g.head_size),
            )
            for _ in range(g.layers)
        ]

    def load(self, folder: Path) -> None:
        """Fills the weights from the *.safetensors of a folder.

        Raises ModelError when a tensor is missing, unknown, or of another shape, or a file is damaged.
        """
        wanted = self.tensors()
        for file in sorted(folder.glob("*.safetensors")):
            try:
                for name, tensor in _read(file, self.device):
                    _fill(wanted, name, tensor, file)
            except (SafetensorError, OSError) as error:
                if lacks_room(error):
                    raise
                raise ModelError(f"{file} could not be read: {error}. Fetch the weights again") from error
        if wanted:
            some = ", ".join(sorted(wanted)[:5]) + (f" and {len(wanted) - 5} more" if len(wanted) > 5 else "")
            raise ModelError(f"the weights in {folder} do not fill the model, {some} missing: fetch them again")

    def randomise(self, seed: int = 0) -> None:
        """Random weights, for measuring speed and layouts: normal, norms near 1, never zeros (they run faster)."""
        generator = torch.Generator(self.device).manual_seed(seed)
        for name, tensor in self.tensors().items():
            if name.endswith("norm.weight"):
                tensor.uniform_(0.8, 1.2, generator=generator)
            else:
                tensor.normal_(0.0, RANDOM_STD, generator=generator)

    def to_8_bits(self) -> None:
        """Turns the matrices of the layers into 8 bits, scaled row by row. Norms and embedding stay as they are."""
        for layer in self.layers:
            for matrix in layer.matrices:
                matrix.to_8_bits()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every weight under transformers' name, as views of this model's memory (before `to_8_bits`)."""
        g = self.geometry
        q, kv, f = g.q_width, g.kv_width, g.intermediate
        slots: dict[str, slice | int] = {
            "of q": 0,
            "of k": 1,
            "q": slice(0, q),
            "k": slice(q, q + kv),
            "v": slice(q + kv, q + 2 * kv),
            "gate": slice(0, f),
            "up": slice(f, 2 * f),
        }
        found = {"embed_tokens.weight": self.embedding, "norm.weight": self.norm}
        for number, layer in enumerate(self.layers):
            for name, (part, slot) in LAYER_PARTS.items():
                held = getattr(layer, part)
                tensor = held.weight if isinstance(held, Matrix) else held
                found[f"layers.{number}.{name}"] = tensor if slot is None else tensor[slots[slot]]
        return found

    def reference(self) -> Any:
        """transformers' own Qwen3Model over the same memory, on the same device: the slow, plain way.

        Not after `to_8_bits`.
        """
        from transformers import Qwen3Config, Qwen3Model
        from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

        g = self.geometry
        config = Qwen3Config(
            hidden_size=g.hidden,
            num_hidden_layers=g.layers,
            num_attention_heads=g.heads,
            num_key_value_heads=g.kv_heads,
            head_dim=g.head_size,
            intermediate_size=g.intermediate,
            vocab_size=g.vocabulary,
            max_position_embeddings=g.positions,
            rope_parameters={"rope_type": "default", "rope_theta": g.rope_theta},
            rms_norm_eps=g.eps,
            dtype=self.dtype,
            attn_implementation="sdpa",
        )
        with torch.device("meta"):
            model = Qwen3Model(config)
        model.load_state_dict(self.tensors(), assign=True)
        with torch.device(self.device):
            model.rotary_emb = Qwen3RotaryEmbedding(config)
        return model.eval()

    def _empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, dtype=self.dtype, device=self.device)


def _read(file: Path, device: str) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt", device=device) as opened:
        for name in opened.keys():  # noqa: SIM118 - it is no dictionary
            if name not in HEADS:
                yield name.removeprefix("model."), opened.get_tensor(name)


def _fill(wanted: dict[str, torch.Tensor], name: str, tensor: torch.Tensor, file: Path) -> None:
    place = wanted.pop(name, None)
    if place is None:
        raise ModelError(f"{file} has the tensor {name!r}, which is not of a Qwen3, or twice: fetch the weights again")
    if place.shape != tensor.shape:
        raise ModelError(f"{file}: {name} has shape {list(tensor.shape)}, config.json says {list(place.shape)}")
    place.copy_(tensor)
