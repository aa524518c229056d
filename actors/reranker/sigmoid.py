"""From a reranker's logits to scores between 0 and 1."""

import numpy as np


def scores_of(logits_N: np.ndarray) -> np.ndarray:
    """The sigmoid, float32 [N]; NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        return np.exp(-np.logaddexp(0.0, -logits_N.astype(np.float64))).astype(np.float32)  # without overflow
