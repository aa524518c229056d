"""How a replica's self-check is judged: a layout beside the slow, plain reference, and how far off it may be.

What is laid out, and how, is in embedder/selfcheck.py and reranker/selfcheck.py.

Legend: N sequences, D dimensions.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

COPIES = 4  # of all sequences, in the layout that fills a larger micro-batch

# The least cosine between a vector and the reference's; 1e-8 off is 1.4e-4 of a unit vector. Half precision rounds
# differently in every order of the same sums: bfloat16 layouts of 28 random layers agree to 0.9998, while a lost
# boundary or mask gives 0.9 and less.
LEAST_COSINE = {"float32": 0.99999999, "bfloat16": 0.995, "float16": 0.995, "float8": 0.95}
# The least between one layout and another of the same replica.
LEAST_COSINE_OF_LAYOUTS = {"float32": 0.99999999, "bfloat16": 0.999, "float16": 0.999, "float8": 0.99}
# The most a logit may be off. float32: rounding alone; 1e-5 was measured. Half precision: Qwen3-Reranker-0.6B's
# published bfloat16 logit is 0.03 off its float32 one, and computing the head in bfloat16 too costs 0.335 (which this
# layer does not do), so beyond 0.35 it is no longer rounding.
LOGIT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.35, "float16": 0.35, "float8": 2.0}


@dataclass(frozen=True)
class Comparison:
    """One layout: the least cosine of a vector (of a reranker: of a last state) to the reference's, and to that of the
    same sequence alone; of a reranker also the largest error of a logit, against both.

    worst: the sequence with the least cosine; of a reranker the pair whose logit is furthest off.
    """

    layout: str
    cosine: float
    cosine_to_alone: float
    worst: int
    logit_error: float | None = None
    logit_error_to_alone: float | None = None

    def failure(self, dtype: str) -> str | None:
        """The first field that is further off than the dtype allows; None if all are near enough, which NaN is not."""
        most = LOGIT_TOLERANCE[dtype]
        near = {
            "logit_error": self.logit_error is None or self.logit_error <= most,
            "cosine": self.cosine >= LEAST_COSINE[dtype],
            "logit_error_to_alone": self.logit_error_to_alone is None or self.logit_error_to_alone <= most,
            "cosine_to_alone": self.cosine_to_alone >= LEAST_COSINE_OF_LAYOUTS[dtype],
        }
        return next((name for name, enough in near.items() if not enough), None)


class SelfChecked(Protocol):
    """What proves itself before it works: it compared its layouts when it was made, and is not there if one was off."""

    token_budget: int
    comparisons: list[Comparison]


def cosine(left_ND: np.ndarray, right_ND: np.ndarray) -> np.ndarray:
    """Row by row, float64 [N]."""
    left, right = left_ND.astype(np.float64), right_ND.astype(np.float64)
    return (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
