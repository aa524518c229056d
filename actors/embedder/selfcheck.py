"""Each replica's proof that layout changes no vector: a few texts in several layouts against a slow, plain reference.

A lost mask, a lost boundary between neighbours, positions that count on, a wrong kernel for equal lengths: each gives
vectors that look right and find nothing. So a replica that fails here must not work.

Legend: N sequences, D dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from actors.checks.layouts import COPIES, LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS, Comparison, cosine
from actors.spec import ModelError

# Of different lengths, in several scripts.
TEXTS = (
    "Paris is the capital of France.",
    "rain",
    "Berlin is the capital of Germany.",
    "The quick brown fox jumps over the lazy dog while the others watch from the far side of the river.",
    "今天天气不错",
    "Погода сегодня хорошая, и река спокойна.",
)

Encode = Callable[[Sequence[np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """A way to lay the sequences out: rows index into them, in the order and number of one micro-batch each."""

    name: str
    batches: tuple[tuple[int, ...], ...]


def sequences_of(ids: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The sequences to check, from the ids of TEXTS: as they are, then all cut to one length, the last id kept."""
    whole = [np.asarray(row) for row in ids]
    length = max(2, sorted(len(row) for row in whole)[1])
    return whole + [np.concatenate([row[: length - 1], row[-1:]]) for row in whole if len(row) >= length]


def layouts(sequences: Sequence[np.ndarray]) -> list[Layout]:
    """Alone; together; those of equal length; packed as in a job, longest first, several times over."""
    lengths = [len(row) for row in sequences]
    common = max(set(lengths), key=lengths.count)
    packed = sorted(list(range(len(sequences))) * COPIES, key=lambda i: -lengths[i])
    return [
        Layout("alone", tuple((i,) for i in range(len(sequences)))),
        Layout("together", (tuple(range(len(sequences))),)),
        Layout("equal lengths", (tuple(i for i, length in enumerate(lengths) if length == common),)),
        Layout("packed", (tuple(packed),)),
    ]


def compare(
    sequences: Sequence[np.ndarray], reference_ND: np.ndarray, encode: Encode, unit_length: bool
) -> list[Comparison]:
    """Every layout against the reference. encode(sequences) runs exactly one micro-batch.

    Raises ModelError when a vector is not finite, or not of length 1 where unit_length says it must be.
    """
    found, alone_ND = [], np.zeros_like(reference_ND)
    for layout in layouts(sequences):
        rows = np.array([i for batch in layout.batches for i in batch])
        vectors = np.concatenate([encode([sequences[i] for i in batch]) for batch in layout.batches])
        if not np.isfinite(vectors).all():
            bad = rows[~np.isfinite(vectors).all(axis=1)][0]
            raise ModelError(_refusal(f"{_named(int(bad))}, {layout.name}, has a vector that is not finite"))
        norms = np.linalg.norm(vectors, axis=1)
        if unit_length and not np.abs(norms - 1).max() <= 1e-3:
            raise ModelError(
                _refusal(f"{layout.name}, a vector has length {norms[np.abs(norms - 1).argmax()]:.3f}, not 1")
            )
        if layout.name == "alone":
            alone_ND = vectors
        cosines = cosine(vectors, reference_ND[rows])
        worst = int(cosines.argmin())
        found.append(
            Comparison(
                layout.name, float(cosines[worst]), float(cosine(vectors, alone_ND[rows]).min()), int(rows[worst])
            )
        )
    return found


def check(comparisons: Sequence[Comparison], dtype: str) -> None:
    """Raises ModelError naming the first layout whose vectors differ too much for the dtype."""
    for c in comparisons:
        failure = c.failure(dtype)
        if failure is None:
            continue
        if failure == "cosine":
            what = (
                f"{_named(c.worst)}, {c.layout}, has cosine {c.cosine:.5f} to the plain reference on the same weights"
            )
            least = LEAST_COSINE[dtype]
        else:
            what = f"neighbours in a micro-batch change a vector ({c.layout}: cosine {c.cosine_to_alone:.5f} to alone)"
            least = LEAST_COSINE_OF_LAYOUTS[dtype]
        raise ModelError(_refusal(f"{what}; {dtype} wants {least} at least"))


def _named(sequence: int) -> str:
    return f"text {sequence} ({TEXTS[sequence]!r})" if sequence < len(TEXTS) else f"cut text {sequence - len(TEXTS)}"


def _refusal(problem: str) -> str:
    return (
        f"this replica computes wrong vectors: {problem}. Nothing was written by it. Check the versions of torch, "
        "transformers and the driver of its device against those that vectormill is tested with; `vectormill doctor` "
        "shows every layout"
    )
