"""Qwen3's forward pass, by hand, over packed sequences: the states of the last tokens and nothing else.

    h += o_proj(attention(norm(h)))      residual added inside the matrix product (addmm)
    h += down(silu(gate) * up)           q, k, v and gate, up are one matrix each

What transformers' modules do besides, and this does not: padding, a product with the vocabulary, a whole last layer
(only its keys and values need every token; 3 % of the work), and a pass over memory for every addition, norm and
rotation. Source of the arithmetic: transformers' models/qwen3/modeling_qwen3.py, which the reference runs on the same
memory.

Legend: n sequences; T tokens; P positions; H hidden size; h query heads, g key heads, D head size.
"""

import torch

from actors.network.attention import Packing, attend_packed
from actors.network.kernels.choose import choose
from actors.network.kernels.operations import Quantised, Rotation
from actors.network.qwen3_weights import Layer, Weights


class Qwen3:
    """The forward pass over loaded weights."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._eps = weights.geometry.eps
        self._in_8_bits = weights.layers[0].qkv.scale is not None
        self._kernels = choose(weights.device)
        self._cos, self._sin = _rotations(weights)

    def last_states(
        self, ids_T: torch.Tensor, positions_T: torch.Tensor, packing: Packing, last: Packing, last_n: torch.Tensor
    ) -> torch.Tensor:
        """The final, normed states of the tokens last_n (int64 [n]), [n, H] in the model's dtype.

        packing: who sees whom among all tokens; last: the same for the tokens last_n alone.
        """
        rotation = Rotation(self._cos, self._sin, positions_T)
        states_TH = self._weights.embedding[ids_T]
        for layer in self._weights.layers[:-1]:
            q, k, v = self._qkv(layer, states_TH, rotation)
            self._finish_layer(layer, states_TH, attend_packed((q, k, v), packing, causal=True))
        layer = self._weights.layers[-1]
        q, k, v = self._last_qkv(layer, states_TH, rotation, last_n)
        states_nH = states_TH[last_n]
        self._finish_layer(layer, states_nH, attend_packed((q, k, v), last, causal=True))
        return self._kernels.rms_norm(states_nH, self._weights.norm, self._eps)

    def _qkv(self, layer: Layer, states_TH: torch.Tensor, rotation: Rotation) -> tuple[torch.Tensor, ...]:
        """Normed and rotated queries [T, h, D] and keys, and values [T, g, D]."""
        g = self._weights.geometry
        normed = self._norm(states_TH, layer.before_attention)
        mixed = layer.qkv.times(normed).unflatten(1, (g.heads + 2 * g.kv_heads, g.head_size))
        q, k, v = mixed.split([g.heads, g.kv_heads, g.kv_heads], dim=1)
        self._kernels.norm_rope_(q, layer.q_norm, self._eps, rotation)
        self._kernels.norm_rope_(k, layer.k_norm, self._eps, rotation)
        return q, k, v

    def _last_qkv(
        self, layer: Layer, states_TH: torch.Tensor, rotation: Rotation, last_n: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """As `_qkv`, with the queries of the tokens last_n only."""
        g = self._weights.geometry
        normed = self._norm(states_TH, layer.before_attention)
        keys = layer.qkv.rows(g.q_width, g.q_width + 2 * g.kv_width)
        k, v = keys.times(normed).unflatten(1, (2 * g.kv_heads, g.head_size)).chunk(2, dim=1)
        asking = Quantised(*(x[last_n] for x in normed)) if isinstance(normed, Quantised) else normed[last_n]
        q = layer.qkv.rows(0, g.q_width).times(asking).unflatten(1, (g.heads, g.head_size))
        self._kernels.norm_rope_(k, layer.k_norm, self._eps, rotation)
        self._kernels.norm_rope_(q, layer.q_norm, self._eps, rotation._replace(positions=rotation.positions[last_n]))
        return q, k, v

    def _finish_layer(self, layer: Layer, states_TH: torch.Tensor, attended_ThD: torch.Tensor) -> None:
        """Output projection and MLP, added to the states in place."""
        attended = attended_ThD.flatten(1)
        layer.out.add_to(states_TH, self._kernels.quantise(attended) if self._in_8_bits else attended)
        gate_up = layer.gate_up.times(self._norm(states_TH, layer.before_mlp))
        gated = self._kernels.silu_mul_8(gate_up) if self._in_8_bits else self._kernels.silu_mul(gate_up)
        layer.down.add_to(states_TH, gated)

    def _norm(self, states_TH: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | Quantised:
        norm = self._kernels.rms_norm_8 if self._in_8_bits else self._kernels.rms_norm
        return norm(states_TH, weight, self._eps)


def _rotations(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [P, D/2]."""
    g, device = weights.geometry, weights.device
    steps = torch.arange(0, g.head_size, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / (g.rope_theta ** (steps / g.head_size))
    angles = torch.outer(torch.arange(g.positions, dtype=torch.float32, device=device), frequencies)
    return angles.cos(), angles.sin()
