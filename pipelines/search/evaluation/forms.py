"""In what form a vector may be stored, what that costs in bytes, and what an exact search over it finds.

Documents are encoded, queries stay float32. `Codes.scores` ranks a part of a table for many queries; forms that are
too coarse to rank by (bits) give a first order, from which `Codes.rescored` scores a few hundred candidates again.

numpy multiplies neither float16 nor int8 natively: these codes are decoded for each search, and the time that is
measured contains it.

Legend: Q queries, n documents of a part, k candidates, D dimensions, B bytes, W 64-bit words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

LEVELS = 127  # of int8, on each side of 0


class Codes(Protocol):
    """Encoded documents."""

    def scores(self, queries_QD: np.ndarray) -> np.ndarray:
        """float32 [Q, n], larger is better."""
        ...

    def rescored(self, query_D: np.ndarray, taken_k: np.ndarray) -> np.ndarray | None:
        """float32 [k], better scores of a few documents; None if `scores` are as good as they get."""
        ...


def cut(vectors_ND: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` numbers of each vector, of unit length again: what `model.dimensions` makes of a model's
    vector. A vector of zeros stays one."""
    short_Nd = vectors_ND[:, :dimensions].astype(np.float32)
    norms_N1 = np.linalg.norm(short_Nd, axis=1, keepdims=True)
    return short_Nd / np.where(norms_N1 > 0, norms_N1, 1)


@dataclass(frozen=True)
class Floats:
    """Numbers as they are, or rounded to half precision."""

    values_nD: np.ndarray

    def scores(self, queries_QD: np.ndarray) -> np.ndarray:
        return queries_QD @ self.values_nD.astype(np.float32, copy=False).T

    def rescored(self, query_D: np.ndarray, taken_k: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Int8:
    """value = code * scale, with one scale for each dimension of all vectors or one for each vector."""

    codes_nD: np.ndarray  # int8
    of_dimension_D: np.ndarray | None = None
    of_vector_n: np.ndarray | None = None

    def scores(self, queries_QD: np.ndarray) -> np.ndarray:
        scaled_QD = queries_QD if self.of_dimension_D is None else queries_QD * self.of_dimension_D
        found_Qn = scaled_QD @ self.codes_nD.astype(np.float32).T
        return found_Qn if self.of_vector_n is None else found_Qn * self.of_vector_n

    def rescored(self, query_D: np.ndarray, taken_k: np.ndarray) -> None:
        return None


@dataclass(frozen=True)
class Bits:
    """The sign of each number. First order: Hamming distance to the signs of the query. Scored again: the query's
    numbers against float16 vectors kept beside, or against the same bits read as -1 and 1."""

    words_nW: np.ndarray  # uint64, filled up with zeros
    dimensions: int
    beside_nD: np.ndarray | None  # float16

    def scores(self, queries_QD: np.ndarray) -> np.ndarray:
        return np.stack([-_hamming(words_W, self.words_nW) for words_W in _words(queries_QD)])

    def rescored(self, query_D: np.ndarray, taken_k: np.ndarray) -> np.ndarray:
        if self.beside_nD is not None:
            kept_kD = self.beside_nD[taken_k].astype(np.float32)
        else:
            bytes_kB = np.ascontiguousarray(self.words_nW[taken_k]).view(np.uint8)
            kept_kD = np.unpackbits(bytes_kB, axis=1, count=self.dimensions).astype(np.float32) * 2 - 1
            kept_kD /= np.sqrt(self.dimensions)  # a cosine
        return kept_kD @ query_D


def _words(vectors_nD: np.ndarray) -> np.ndarray:
    """The signs as uint64 [n, W], a positive number being 1."""
    packed_nB = np.packbits(vectors_nD > 0, axis=1)
    return np.pad(packed_nB, ((0, 0), (0, -packed_nB.shape[1] % 8))).view(np.uint64)


def _hamming(words_W: np.ndarray, words_nW: np.ndarray) -> np.ndarray:
    """float32 [n]"""
    return np.bitwise_count(words_nW ^ words_W).sum(axis=1, dtype=np.float32)


@dataclass(frozen=True)
class Form:
    """A stored form. bytes: of one vector of so many dimensions. store: whether and how the store searches it; None if
    vectormill makes such a table (`table.vector_dtype`). coarse: `Codes.rescored` is needed."""

    name: str
    bytes: Callable[[int], int]
    encode: Callable[[np.ndarray, np.ndarray], Codes]  # vectors [n, D], largest absolute value by dimension [D]
    store: str | None
    coarse: bool = False

    @property
    def in_table(self) -> bool:
        return self.store is None


def _per_dimension(vectors_nD: np.ndarray, largest_D: np.ndarray) -> Int8:
    scale_D = np.where(largest_D > 0, largest_D, 1).astype(np.float32) / LEVELS
    codes_nD = np.clip(np.rint(vectors_nD / scale_D), -LEVELS, LEVELS).astype(np.int8)
    return Int8(codes_nD, of_dimension_D=scale_D)


def _per_vector(vectors_nD: np.ndarray, _: np.ndarray) -> Int8:
    largest_n = np.abs(vectors_nD).max(axis=1)
    scale_n = np.where(largest_n > 0, largest_n, 1).astype(np.float32) / LEVELS
    return Int8(np.rint(vectors_nD / scale_n[:, None]).astype(np.int8), of_vector_n=scale_n)


def _bytes_of_bits(dimensions: int) -> int:
    return -(-dimensions // 8)


INT8_STORE = "no: Lance neither searches nor indexes int8 vectors"
BITS_STORE = "in part: Lance searches uint8 by Hamming distance; making the bits and scoring again are up to you"

FORMS = (
    Form("float32", lambda d: 4 * d, lambda v, _: Floats(v), None),
    Form("float16", lambda d: 2 * d, lambda v, _: Floats(v.astype(np.float16)), None),
    Form("int8, per dimension", lambda d: d, _per_dimension, INT8_STORE),
    Form("int8, per vector", lambda d: d + 4, _per_vector, INT8_STORE),
    Form("binary", _bytes_of_bits, lambda v, _: Bits(_words(v), v.shape[1], None), BITS_STORE, True),
    Form(
        "binary + float16",
        lambda d: _bytes_of_bits(d) + 2 * d,
        lambda v, _: Bits(_words(v), v.shape[1], v.astype(np.float16)),
        BITS_STORE,
        True,
    ),
)


def forms_of(vector_dtype: str) -> tuple[Form, ...]:
    """Those that can be made of stored vectors of this type, the type itself first."""
    return FORMS if vector_dtype == "float32" else FORMS[1:]
