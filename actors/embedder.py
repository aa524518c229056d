"""Texts or token ids to vectors, in the order they came: what a replica is made of.

    Embedder -> batching (micro-batches) -> the model (PackedModel, or the fake) -> order restored

Importing this costs nothing; an Embedder of a real model imports torch and transformers.

Legend: N texts, T tokens in all, D dimensions.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from actors import batching, fake, weights
from actors.recipe import Resolved, resolve
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec
from actors.tokenizer import Encoded, TextTokenizer

# Of different lengths, two of them alike: a lost mask or a lost boundary shows in one or the other.
CHECK_TEXTS = (
    "Paris is the capital of France.",
    "rain",
    "Berlin is the capital of Germany.",
    "The quick brown fox jumps over the lazy dog while the others watch from the far side of the river.",
    "今天天气不错",
)
COSINE_BFLOAT16 = 0.999


class Model(Protocol):
    """What runs a micro-batch. A faster model for an architecture is one more class with this surface."""

    dimensions: int
    normalised: bool
    token_budget: int
    tolerance: float | None  # largest difference between layouts; None = by cosine, as half precision wants

    def encode(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> Any: ...

    def to_host(self, parts: list[Any]) -> np.ndarray: ...


def load_encoder(spec: ModelSpec, resolved: Resolved) -> Model:
    """The model that runs this spec: the one place where kinds of model are told apart."""
    if resolved.folder is None:
        return fake.FakeModel(resolved.dimensions, spec.tokens_per_second())
    from actors.encoder import PackedModel

    return PackedModel(spec, resolved)


class Embedder:
    """A loaded model that has shown, on a few texts, that neighbours do not change a vector.

    Raises ModelError when the weights are not those of spec.digest, cannot be run, or compute wrong vectors.
    """

    def __init__(self, spec: ModelSpec) -> None:
        resolved = resolve(spec)
        _check_digest(spec, resolved)
        self._tokenizer = TextTokenizer(spec)
        self._model = load_encoder(spec, resolved)
        self._token_budget = spec.token_budget or self._model.token_budget
        self.dimensions = self._model.dimensions
        self._check_itself()

    def embed(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Vectors float32 [N, D] of N >= 0 sequences, in their order; none may be empty.

        ids is int [T]; offsets is int64 [N+1], sequence i being ids[offsets[i]:offsets[i + 1]].
        Raises ModelError when a single sequence does not fit the device.
        """
        lengths_N = np.diff(offsets)
        count = len(lengths_N)
        if not count:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        if int(lengths_N.min()) < 1:
            raise ValueError(f"sequence {int(lengths_N.argmin())} has no tokens")
        plan = batching.plan(lengths_N, self._token_budget)
        parts = [part for rows_n in plan for part in self._run(ids, offsets, rows_n)]
        planned_ND = self._model.to_host(parts)
        assert planned_ND.shape == (count, self.dimensions), planned_ND.shape
        vectors_ND = np.empty_like(planned_ND, dtype=np.float32)
        vectors_ND[np.concatenate(plan)] = planned_ND
        return vectors_ND

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors float32 [N, D] of documents, with the document prompt of the recipe or the spec."""
        return self._embed_encoded(self._tokenizer.encode(texts))

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Vectors float32 [N, D] of queries; see `TextTokenizer.encode_queries` for the instruction."""
        return self._embed_encoded(self._tokenizer.encode_queries(texts, instruction))

    def _embed_encoded(self, encoded: Encoded) -> np.ndarray:
        return self.embed(encoded.ids, encoded.offsets)

    def _run(self, ids_T: np.ndarray, offsets: np.ndarray, rows_n: np.ndarray) -> list[Any]:
        """Runs a micro-batch; in halves, and halves of them, when it does not fit. Keeps the order of the rows."""
        try:
            return [self._model.encode(*batching.gather(ids_T, offsets, rows_n))]
        except DeviceOutOfMemory:
            if len(rows_n) == 1:
                raise
        middle = len(rows_n) // 2
        return [part for half in (rows_n[:middle], rows_n[middle:]) for part in self._run(ids_T, offsets, half)]

    def _check_itself(self) -> None:
        together = self.embed_documents(CHECK_TEXTS)
        alone = np.concatenate([self.embed_documents([text]) for text in CHECK_TEXTS])
        problem = None
        if not np.isfinite(together).all():
            problem = "some are not finite"
        elif self._model.normalised and np.abs(np.linalg.norm(together, axis=1) - 1).max() > 1e-3:
            problem = "their length is not 1"
        elif self._model.tolerance is None:
            norms = np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1)
            cosine = float(((together * alone).sum(axis=1) / norms).min())
            if not cosine >= COSINE_BFLOAT16:
                problem = f"neighbours in a micro-batch change them (cosine {cosine:.4f}, least {COSINE_BFLOAT16})"
        else:
            difference = float(np.abs(together - alone).max() / max(1.0, np.abs(alone).max()))
            if not difference <= self._model.tolerance:
                problem = f"neighbours in a micro-batch change them (by {difference:.1e}, most {self._model.tolerance})"
        if problem:
            raise ModelError(
                f"this replica computes wrong vectors: {problem}. Nothing was written by it. Check the versions of "
                "torch, transformers and the driver of its device against those that vectormill is tested with"
            )


def _check_digest(spec: ModelSpec, resolved: Resolved) -> None:
    if spec.digest is None:
        return
    found = weights.digest(resolved.folder) if resolved.folder else fake.DIGEST
    if found != spec.digest:
        raise ModelError(
            f"the weights of {spec.weights!r} on this machine ({resolved.folder}) have digest {found[:16]}..., but "
            f"{spec.digest[:16]}... was expected: they are another version. Put the right ones there, or remove the "
            "stale copy"
        )
