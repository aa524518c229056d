"""Each reranker's proof, before it works, that neither neighbours nor a shared prefix change a score.

A few pairs, laid out in several ways, against transformers' own modules on the same weights, one whole pair at a time.
Compared are the last states, whose cosine shows a lost mask, boundary or position whatever the size of the weights, and
the logits, which are what ranks.

Legend: N pairs, H hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from actors import packed
from actors.checks.layouts import COPIES, LEAST_COSINE, LOGIT_TOLERANCE, Comparison, cosine
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

# (pairs, a way to lay them out, which rows of them) -> last states [n, H] and logits [n]
Score = Callable[[PairBatches, np.ndarray], tuple[np.ndarray, np.ndarray]]


def check_pairs(encode: Callable[[Sequence[str], Sequence[str], np.ndarray], RerankEncoded]) -> RerankEncoded:
    """The pairs to check: documents of different lengths, and two of one query that are equally long."""
    documents = [DOCUMENTS[i] for i in DOCUMENT_OF]
    whole = encode(QUERIES, documents, np.array(QUERY_OF, dtype=np.int64))
    ends_N, lengths_N = whole.tails_offsets[1:], np.diff(whole.tails_offsets)
    kept, cut = SAME_LENGTH
    lengths_N[cut] = min(lengths_N[cut], lengths_N[kept])  # its last ids, with the suffix
    return replace(
        whole,
        tails_ids=whole.tails_ids[packed.ranges(ends_N - lengths_N, lengths_N)],
        tails_offsets=packed.offsets_of(lengths_N),
    )


def compare(encoded: RerankEncoded, reference: Sequence[tuple[np.ndarray, float]], score: Score) -> list[Comparison]:
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
            Comparison(
                layout=name,
                cosine=float(cosine(states, states_NH[rows]).min()),
                cosine_to_alone=float(cosine(states, alone[0][rows]).min()),
                logit_error=float(errors.max()),
                logit_error_to_alone=float(np.abs(logits - alone[1][rows]).max()),
                worst=int(rows[errors.argmax()]),
            )
        )
    return found


def check(comparisons: Sequence[Comparison], dtype: str) -> None:
    """Raises ModelError naming the first layout whose states or logits differ too much for the dtype, or are NaN."""
    most = LOGIT_TOLERANCE[dtype]
    for c in comparisons:
        failure = c.failure(dtype)
        if failure is None:
            continue
        problem = {
            "logit_error": f"the logit is {c.logit_error:.4f} off the plain reference, {most} is allowed",
            "cosine": f"a state has cosine {c.cosine:.5f} to the plain reference, {LEAST_COSINE[dtype]} is the least",
            "logit_error_to_alone": f"neighbours change a logit by {c.logit_error_to_alone:.4f}, {most} is allowed",
            "cosine_to_alone": f"neighbours turn a state to cosine {c.cosine_to_alone:.5f} of what it is alone",
        }[failure]
        raise ModelError(
            f"this reranker computes wrong scores in {dtype}: {_named(c.worst)}, {c.layout}: {problem}. It was "
            "not used. Check the versions of torch, transformers and the driver of its device against those that "
            "vectormill is tested with"
        )


def _named(pair: int) -> str:
    return f"{QUERIES[QUERY_OF[pair]]!r} x {DOCUMENTS[DOCUMENT_OF[pair]]!r}"
