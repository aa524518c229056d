"""The forward pass of BERT, RoBERTa and XLM-R, by hand, over packed sequences.

    h = norm(h + out(attention(h)) + bias)      residual added inside the matrix product (addmm), bias inside the norm
    h = norm(h + down(gelu(up(h))) + bias)      q, k, v are one matrix; gelu in place

A layer is nine launches on a GPU and 34 H values a token that go through its memory, where transformers' modules make
13 launches and 40 H, and as many calls of Python in between: what bounds models as small as MiniLM.

The weights are those of a model that transformers has loaded, so that every file it can read is read here too; q, k
and v alone are held twice, as long as that model lives. Source of the arithmetic: transformers'
models/bert/modeling_bert.py, which is also the reference.

Legend: T tokens; H hidden size; h heads, D head size; F width of the MLP.
"""

from dataclasses import dataclass
from typing import Any

import torch

from actors.network.attention import Packing, attend_packed
from actors.network.kernels.choose import choose


def unsupported(config: Any) -> str | None:
    """What in the config of such a model this file does not compute; None if it computes all."""
    if config.is_decoder or config.add_cross_attention:
        return "a decoder"
    return None if config.hidden_act == "gelu" else f"the activation {config.hidden_act!r}"


@dataclass(frozen=True)
class Linear:
    """weight [N, K], bias [N]."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True)
class Norm:
    """bias [H] of what comes before; weight and shift [H] of the layer norm."""

    bias: torch.Tensor
    weight: torch.Tensor
    shift: torch.Tensor


@dataclass(frozen=True)
class Layer:
    """The weights of one layer: qkv [3H, H], out [H, H], up [F, H], down [H, F]; q, k, v one behind the other."""

    qkv: Linear
    out: torch.Tensor
    after_attention: Norm
    up: Linear
    down: torch.Tensor
    after_mlp: Norm


class Encoder:
    """The forward pass over the weights of a BertModel, RobertaModel or XLMRobertaModel of transformers."""

    def __init__(self, model: Any) -> None:
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight.detach()
        self._places = embeddings.position_embeddings.weight.detach()
        # Every token is of the first segment, whose embedding is then a bias like any other.
        self._norm = _norm(embeddings.token_type_embeddings.weight[0], embeddings.LayerNorm)
        self._layers = [_layer(found) for found in model.encoder.layer]
        self._heads, self._eps = model.config.num_attention_heads, model.config.layer_norm_eps
        self._kernels = choose(str(self._words.device))

    def states(self, ids_T: torch.Tensor, positions_T: torch.Tensor, packing: Packing) -> torch.Tensor:
        """The last hidden states, [T, H] in the model's dtype. ids_T and positions_T int64, on the device."""
        states_TH = self._words[ids_T]
        states_TH += self._places[positions_T]
        states_TH = self._normed(states_TH, self._norm)
        for layer in self._layers:
            states_TH.addmm_(self._attended(layer, states_TH, packing), layer.out.t())
            states_TH = self._normed(states_TH, layer.after_attention)
            wide_TF = torch.addmm(layer.up.bias, states_TH, layer.up.weight.t())
            states_TH.addmm_(torch.ops.aten.gelu_(wide_TF), layer.down.t())
            del wide_TF
            states_TH = self._normed(states_TH, layer.after_mlp)
        return states_TH

    def _attended(self, layer: Layer, states_TH: torch.Tensor, packing: Packing) -> torch.Tensor:
        mixed = torch.addmm(layer.qkv.bias, states_TH, layer.qkv.weight.t()).unflatten(1, (3, self._heads, -1))
        return attend_packed(mixed.unbind(1), packing, causal=False).flatten(1)

    def _normed(self, sums_TH: torch.Tensor, norm: Norm) -> torch.Tensor:
        return self._kernels.bias_norm(sums_TH, norm.bias, norm.weight, norm.shift, self._eps)


def _layer(found: Any) -> Layer:
    """From a layer of transformers. q, k and v are copied, the rest is the same memory."""
    own, attention, mlp = found.attention.self, found.attention.output, found.output
    parts = (own.query, own.key, own.value)
    return Layer(
        qkv=Linear(*(torch.cat([getattr(part, name).detach() for part in parts]) for name in ("weight", "bias"))),
        out=attention.dense.weight.detach(),
        after_attention=_norm(attention.dense.bias, attention.LayerNorm),
        up=Linear(found.intermediate.dense.weight.detach(), found.intermediate.dense.bias.detach()),
        down=mlp.dense.weight.detach(),
        after_mlp=_norm(mlp.dense.bias, mlp.LayerNorm),
    )


def _norm(bias: torch.Tensor, norm: torch.nn.LayerNorm) -> Norm:
    return Norm(bias.detach(), norm.weight.detach(), norm.bias.detach())
