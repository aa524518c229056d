"""The fake embedder: a text's vector is the sum of its words' fixed random vectors, scaled to length 1.

Texts that share words are near one another, so search and evaluation show something; nothing is learnt and nothing is
downloaded. 1-2 million words/s on one core, or slower on request: "fake:20000" has a simulated device that does 20,000
tokens/s and is waited for as a GPU is. Word vectors are small integers and their sums are exact, so the result is the
same bit for bit in every process, micro-batch and platform. Use it to try a pipeline out and to test it; not to find
anything by meaning.

Legend: N texts, T tokens in all, D dimensions.
"""

from collections.abc import Mapping

import numpy as np

from actors import fake


class FakeEmbedModel:
    """The fake's model: same surface as EmbedModel. `vectors` are float32 [N, D] of length 1."""

    normalised = True
    dtype = "float32"
    facts: Mapping[str, str] = {}

    def __init__(self, dimensions: int, tokens_per_second: float | None = None) -> None:
        self.dimensions = dimensions
        self.token_budget = fake.TOKEN_BUDGET
        self.device = fake.SimulatedDevice(tokens_per_second)
        self._table_VD = fake.word_vectors(dimensions)

    def reference(self, ids_T: np.ndarray) -> np.ndarray:
        """The vector of one sequence, float32 [D], summed word by word."""
        total_D = sum((self._table_VD[i].astype(np.int64) for i in ids_T.tolist()), np.zeros(self.dimensions, np.int64))
        return (total_D / max(float(np.sqrt(np.square(total_D).sum())), 1.0)).astype(np.float32)

    def start(self, token_budget: int | None) -> None:
        """Ready at once; takes a token budget if one is given."""
        self.token_budget = token_budget or fake.TOKEN_BUDGET

    def encode(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> fake.Pending:
        """Queues one micro-batch."""
        at = self.device.queue(len(ids_T))  # this sum is what the device does
        return fake.Pending(self.vectors(ids_T, lengths_N), at)

    def to_host(self, pending: fake.Pending) -> np.ndarray:
        """The vectors; waits for them."""
        return self.device.fetch(pending)

    def vectors(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        """Those of N sequences, float32 [N, D], at once."""
        starts_N = np.cumsum(lengths_N) - lengths_N
        sums_ND = np.add.reduceat(self._table_VD[ids_T], starts_N, axis=0).astype(np.int64)
        norms_N = np.sqrt(np.square(sums_ND).sum(axis=1))
        return (sums_ND / np.maximum(norms_N, 1)[:, None]).astype(np.float32)
