"""Qwen3's forward pass, by hand, over packed sequences: the states of the last tokens and nothing else.

    h += o_proj(attention(norm(h)))      residual added inside the matrix product (addmm); in 8 bits by the next norm
    h += down(silu(gate) * up)           q, k, v and gate, up are one matrix each

What transformers' modules do besides, and this does not: padding, a product with the vocabulary, a whole last layer
(only its keys and values need every token; 3 % of the work), and a pass over memory for every addition, norm and
rotation. Source of the arithmetic: transformers' models/qwen3/modeling_qwen3.py, which the reference runs on the same
memory.

Legend: n sequences; T tokens; P positions; H hidden size; h query heads, g key heads, D head size.
"""

from dataclasses import dataclass

import torch

from actors.network.attention import Packing, attend_packed
from actors.network.kernels.choose import choose
from actors.network.kernels.operations import Heads, Quantised, Rotation
from actors.network.qwen3_weights import Layer, Matrix, Weights


@dataclass
class States:
    """values [T, H] after the layers so far. owed [T, H]: what the next norm adds to them; in 8 bits a product cannot
    add, and an addition of its own would read and write both once more.
    """

    values: torch.Tensor
    owed: torch.Tensor | None = None

    def settled(self) -> torch.Tensor:
        """The values with nothing owed."""
        if self.owed is not None:
            self.values += self.owed
            self.owed = None
        return self.values


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
        states = States(self._weights.embedding[ids_T])
        for layer in self._weights.layers[:-1]:
            self._attend(layer, states, rotation, packing)
            self._mlp(layer, states)
        states = self._attend_last(self._weights.layers[-1], states, rotation, (last, last_n))
        self._mlp(self._weights.layers[-1], states)
        return self._kernels.rms_norm(states.settled(), self._weights.norm, self._eps)

    # What a layer computes on its way dies with the function that needs it: beside gate_up, the widest, queries, keys,
    # values and what attention made of them would be a quarter to more than half as much again.

    def _attend(self, layer: Layer, states: States, rotation: Rotation, packing: Packing) -> None:
        """Attention, and its output projection added to the states."""
        g = self._weights.geometry
        mixed = layer.qkv.times(self._norm(states, layer.before_attention))
        mixed = mixed.unflatten(1, (g.heads + 2 * g.kv_heads, g.head_size))
        heads = Heads(mixed[:, : g.heads + g.kv_heads], queries=g.heads)
        self._kernels.norm_rope_(heads, layer.head_norms, self._eps, rotation)
        qkv = mixed.split([g.heads, g.kv_heads, g.kv_heads], dim=1)
        self._add(layer.out, states, self._as_input(attend_packed(qkv, packing, causal=True)))

    def _attend_last(
        self, layer: Layer, states: States, rotation: Rotation, asking: tuple[Packing, torch.Tensor]
    ) -> States:
        """As `_attend`, of the tokens that ask alone, whose states it gives."""
        g, (packing, last_n) = self._weights.geometry, asking
        normed = self._norm(states, layer.before_attention)
        keys = layer.qkv.rows(g.q_width, g.q_width + 2 * g.kv_width)
        k, v = keys.times(normed).unflatten(1, (2 * g.kv_heads, g.head_size)).chunk(2, dim=1)
        normed_n = Quantised(*(x[last_n] for x in normed)) if isinstance(normed, Quantised) else normed[last_n]
        q = layer.qkv.rows(0, g.q_width).times(normed_n).unflatten(1, (g.heads, g.head_size))
        self._kernels.norm_rope_(Heads(k, queries=0), layer.head_norms, self._eps, rotation)
        rotation_n = rotation._replace(positions=rotation.positions[last_n])
        self._kernels.norm_rope_(Heads(q, queries=g.heads), layer.head_norms, self._eps, rotation_n)
        states_n = States(states.values[last_n])
        self._add(layer.out, states_n, self._as_input(attend_packed((q, k, v), packing, causal=True)))
        return states_n

    def _mlp(self, layer: Layer, states: States) -> None:
        """The MLP, added to the states."""
        self._add(layer.down, states, self._gated(layer, states))

    def _gated(self, layer: Layer, states: States) -> torch.Tensor | Quantised:
        gate_up = layer.gate_up.times(self._norm(states, layer.before_mlp))
        return self._kernels.silu_mul_8(gate_up) if self._in_8_bits else self._kernels.silu_mul(gate_up)

    def _norm(self, states: States, weight: torch.Tensor) -> torch.Tensor | Quantised:
        if not self._in_8_bits:
            return self._kernels.rms_norm(states.values, weight, self._eps)
        owed, states.owed = states.owed, None
        if owed is None:
            return self._kernels.rms_norm_8(states.values, weight, self._eps)
        return self._kernels.add_rms_norm_8(states.values, owed, weight, self._eps)

    def _as_input(self, attended_ThD: torch.Tensor) -> torch.Tensor | Quantised:
        attended = attended_ThD.flatten(1)
        return self._kernels.quantise(attended) if self._in_8_bits else attended

    def _add(self, matrix: Matrix, states: States, x: torch.Tensor | Quantised) -> None:
        """states += x W^T; in 8 bits by the next norm."""
        if isinstance(x, Quantised):
            assert states.owed is None
            states.owed = matrix.times(x)
        else:
            matrix.add_to(states.values, x)


def _rotations(weights: Weights) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [P, D/2]."""
    g, device = weights.geometry, weights.device
    steps = torch.arange(0, g.head_size, 2, dtype=torch.float32, device=device)
    frequencies = 1.0 / (g.rope_theta ** (steps / g.head_size))
    angles = torch.outer(torch.arange(g.positions, dtype=torch.float32, device=device), frequencies)
    return angles.cos(), angles.sin()
