"""How much arithmetic a text needs at least, counted as 2 for a multiplication with an addition.

    F(L) = 2 n L (2 d q + 2 d kv + 3 d f)  +  4 n q L (L + 1) / 2        causal, gated MLP (Qwen3)
    F(L) = 2 n L (2 d q + 2 d kv + 2 d f)  +  4 n q L L                  two-way, plain MLP (BERT)

n layers, d hidden size, q and kv width of all query and key heads, f width of the MLP, L tokens of the text. Norms,
rotations, softmax and the look-up of the embedding are not counted, nor a product with the vocabulary. Every layer is
counted whole: what is saved by computing the last layer for the last token only is given apart.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

PLAIN = ("bert", "roberta", "xlm-roberta")


@dataclass(frozen=True)
class Shape:
    """What the count needs of a model."""

    layers: int
    hidden: int
    q_width: int
    kv_width: int
    intermediate: int
    gated: bool
    causal: bool

    @staticmethod
    def of(config: dict[str, Any]) -> "Shape | None":
        """From a config.json; None for an architecture that is not counted here (windows, mixed layers)."""
        kind, hidden = config["model_type"], config["hidden_size"]
        layers, f = config["num_hidden_layers"], config["intermediate_size"]
        if kind in PLAIN:
            return Shape(layers, hidden, hidden, hidden, f, gated=False, causal=False)
        if kind != "qwen3" or config.get("use_sliding_window"):
            return None
        heads, groups = config["num_attention_heads"], config["num_key_value_heads"]
        size = config.get("head_dim") or hidden // heads
        return Shape(layers, hidden, heads * size, groups * size, f, gated=True, causal=True)

    @property
    def formula(self) -> str:
        """F(L) in words."""
        if self.causal:
            return "F(L) = 2nL(2dq + 2dkv + 3df) + 4nq L(L+1)/2"
        return "F(L) = 2nL(2dq + 2dkv + 2df) + 4nq L^2"

    @property
    def linear(self) -> int:
        """Per token, in all layers."""
        return 2 * self.layers * (2 * self.hidden * (self.q_width + self.kv_width) + self._mlp)

    @property
    def _mlp(self) -> int:
        return (3 if self.gated else 2) * self.hidden * self.intermediate

    def useful(self, lengths_N: np.ndarray) -> float:
        """The sum of F(L) over texts of these lengths."""
        L = lengths_N.astype(np.float64)
        pairs = L * (L + 1) / 2 if self.causal else L * L
        return float(self.linear * L.sum() + 4 * self.layers * self.q_width * pairs.sum())

    def saved_by_last_token(self, lengths_N: np.ndarray) -> float:
        """What is not computed of F(L) when only the last token passes the last layer whole; its keys and values are
        needed of every token."""
        L = lengths_N.astype(np.float64)
        linear = 2 * (2 * self.hidden * self.q_width + self._mlp) * (L - 1)
        pairs = L * (L - 1) / 2 if self.causal else L * (L - 1)
        return float((linear + 4 * self.q_width * pairs).sum())
