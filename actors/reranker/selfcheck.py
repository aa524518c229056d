"""Each reranker's proof, before it works, that neither neighbours nor a shared prefix change a score.

A few pairs, laid out in several ways, against transformers' own modules on the same weights, one whole pair at a time.
Compared are the last states, whose cosine shows a lost mask, boundary or position whatever the size of the weights, and
the logits, which are what ranks.

Legend: N pairs, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from actors import packed as batching
from actors.checks.layouts import COPIES, LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS, cosine
from actors.reranker.batches import PairBatches
from actors.reranker.prompt import RerankEncoded
from actors.spec import ModelError

QUERIES = ("What is the capital of China?", "Explain gravity", "什么是量子计算?")
DOCUMENTS = (
    "The capital of China is Beijing.",
    "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects.",
    "rain",
    "量子计算利用量子叠加和纠缠来处理信息。",
    "Погода сегодня хорошая.",
)
# Few, because each costs the whole prompt several times, and a CPU reads 100 tokens/s of the 0.6B: two queries with
# several documents, one with a single one.
QUERY_OF = (0, 0, 0, 1, 1, 2)
DOCUMENT_OF = (0, 1, 2, 1, 4, 3)
SAME_LENGTH = (0, 1)  # the tail of the second is cut to the length of the first

# The most a logit may be off. float32: rounding alone; 1e-5 was measured. Half precision: Qwen3-Reranker-0.6B's
# published bfloat16 logit is 0.03 off its float32 one, and computing the head in bfloat16 too costs 0.335 (which this
# layer does not do), so beyond 0.35 it is no longer rounding.
LOGIT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.35, "float16": 0.35, "float8": 2.0}

# (pairs, a way to lay them out, which rows of them) -> last states [n, H] and logits [n]
Score = Callable[[PairBatches, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RerankComparison:
    """One layout: the least cosine of a state and the largest error of a logit, against the plain reference and
    against the same pair alone; worst is the pair whose logit is furthest off.
    """

    layout: str
    cosine: float
    cosine_to_alone: float
    logit_error: float
    logit_error_to_alone: float
    worst: int


def check_pairs(encode: Callable[[Sequence[str], Sequence[str], np.ndarray], RerankEncoded]) -> RerankEncoded:
    """The pairs to check: documents of different lengths, and two of one query that are equally long."""
    documents = [DOCUMENTS[i] for i in DOCUMENT_OF]
    whole = encode(QUERIES, documents, np.array(QUERY_OF, dtype=np.int64))
    ends_N, lengths_N = whole.tails_offsets[1:], np.diff(whole.tails_offsets)
    kept, cut = SAME_LENGTH
    lengths_N[cut] = min(lengths_N[cut], lengths_N[kept])  # its last ids, with the suffix
    return replace(
        whole,
        tails_ids=whole.tails_ids[batching.ranges(ends_N - lengths_N, lengths_N)],
        tails_offsets=batching.offsets_of(lengths_N),
    )


def compare(
    encoded: RerankEncoded, reference: Sequence[tuple[np.ndarray, float]], score: Score
) -> list[RerankComparison]:
    """Every layout against the reference's (last state [H], logit) of each pair. score runs exactly one micro-batch."""
    states_NH = np.stack([state_H for state_H, _ in reference])
    logits_N = np.array([logit for _, logit in reference])
    whole, shared = PairBatches(encoded, reuse_prefix=False), PairBatches(encoded, reuse_prefix=True)
    rows_N = np.arange(len(logits_N))
    layouts = [
        ("alone", whole, [rows_N[i : i + 1] for i in rows_N]),
        ("together, nothing shared", whole, [rows_N]),
        ("documents of one query", shared, [rows_N[encoded.query_of == query] for query in range(len(QUERIES))]),
        ("packed", shared, [np.tile(rows_N, COPIES)]),
    ]
    found, alone = [], (states_NH, logits_N)
    for name, batches, micro_batches in layouts:
        scored = [score(batches, rows_n) for rows_n in micro_batches]
        states, logits = (np.concatenate([part[i] for part in scored]) for i in (0, 1))
        rows = np.concatenate(micro_batches)
        if name == "alone":
            alone = states, logits
        errors = np.abs(logits - logits_N[rows])
        found.append(
            RerankComparison(
                layout=name,
                cosine=float(cosine(states, states_NH[rows]).min()),
                cosine_to_alone=float(cosine(states, alone[0][rows]).min()),
                logit_error=float(errors.max()),
                logit_error_to_alone=float(np.abs(logits - alone[1][rows]).max()),
                worst=int(rows[errors.argmax()]),
            )
        )
    return found


def check(comparisons: Sequence[RerankComparison], dtype: str) -> None:
    """Raises ModelError naming the first layout whose states or logits differ too much for the dtype, or are NaN."""
    for c in comparisons:
        problem = None
        if not c.logit_error <= LOGIT_TOLERANCE[dtype]:
            problem = f"the logit is {c.logit_error:.4f} off the plain reference, {LOGIT_TOLERANCE[dtype]} is allowed"
        elif not c.cosine >= LEAST_COSINE[dtype]:
            problem = f"a state has cosine {c.cosine:.5f} to the plain reference, {LEAST_COSINE[dtype]} is the least"
        elif not c.logit_error_to_alone <= LOGIT_TOLERANCE[dtype]:
            problem = f"neighbours change a logit by {c.logit_error_to_alone:.4f}, {LOGIT_TOLERANCE[dtype]} is allowed"
        elif not c.cosine_to_alone >= LEAST_COSINE_OF_LAYOUTS[dtype]:
            problem = f"neighbours turn a state to cosine {c.cosine_to_alone:.5f} of what it is alone"
        if problem:
            raise ModelError(
                f"this reranker computes wrong scores in {dtype}: {_named(c.worst)}, {c.layout}: {problem}. It was "
                "not used. Check the versions of torch, transformers and the driver of its device against those that "
                "vectormill is tested with"
            )


def _named(pair: int) -> str:
    return f"{QUERIES[QUERY_OF[pair]]!r} x {DOCUMENTS[DOCUMENT_OF[pair]]!r}"
