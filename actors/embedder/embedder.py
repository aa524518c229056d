"""Texts or token ids to vectors, in the order they came: what a replica is made of.

    Embedder -> packed (micro-batches) -> the model (EmbedModel, or the fake) -> order restored

Importing this costs nothing; an Embedder of a real model imports torch and transformers.

Legend: N texts, T tokens in all, n sequences of a micro-batch, D dimensions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from actors import packed
from actors.checks import goldens, tokens
from actors.device.double_buffered import Request, run
from actors.device.refusal import setting_up
from actors.embedder import selfcheck
from actors.embedder.fake import FakeEmbedModel
from actors.spec import ModelSpec
from actors.tokenizer.text import Encoded, TextTokenizer
from actors.weights.locate import check_digest
from actors.weights.recipe import Resolved, resolve


class Model(Protocol):
    """What runs micro-batches: actors/embedder/model.py says what each part does."""

    dimensions: int
    normalised: bool
    dtype: str
    token_budget: int

    @property
    def facts(self) -> Mapping[str, str]: ...

    def reference(self, ids_T: np.ndarray) -> np.ndarray: ...

    def start(self, token_budget: int | None) -> None: ...

    def encode(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> Any: ...

    def to_host(self, pending: Any) -> np.ndarray: ...


def load_model(spec: ModelSpec, resolved: Resolved) -> Model:
    """The model that runs this spec: the one place where real and fake are told apart."""
    if resolved.folder is None:
        return FakeEmbedModel(resolved.dimensions, spec.tokens_per_second())
    from actors.embedder.model import EmbedModel

    return EmbedModel(spec, resolved)


class Embedder:
    """A loaded model that has shown that texts get transformers' ids, and on a few texts that it gives the reference's
    vectors in every layout.

    spec: which model, or the weights' name alone. load: makes the model; another one than `load_model` brings weights
    that are in no folder.
    Raises ModelError when the weights are not those of spec.digest, cannot be run, or compute wrong vectors, when the
    tokenizer gives other ids, and for whatever else fails (`setting_up`).
    """

    def __init__(self, spec: ModelSpec | str, load: Callable[[ModelSpec, Resolved], Model] = load_model) -> None:
        spec = ModelSpec(spec) if isinstance(spec, str) else spec
        with setting_up(spec):
            resolved = resolve(spec)
            check_digest(spec, resolved.folder)
            self._tokenizer = TextTokenizer(spec)
            if resolved.folder is not None:
                tokens.check_texts(self._tokenizer, resolved)
        with setting_up(spec, on_device=True):
            self._start(spec, load(spec, resolved))

    def _start(self, spec: ModelSpec, model: Model) -> None:
        """Has the model show what it must, and get ready."""
        self._model = model
        self.dimensions = self._model.dimensions
        encoded = self._tokenizer.encode(selfcheck.TEXTS)
        sequences = selfcheck.sequences_of(np.split(encoded.ids, encoded.offsets[1:-1]))
        reference = np.stack([self._model.reference(ids_T) for ids_T in sequences])
        self._model.start(spec.token_budget)
        self.token_budget = self._model.token_budget
        self.comparisons = selfcheck.compare(sequences, reference, self._one_micro_batch, self._model.normalised)
        selfcheck.check(self.comparisons, self._model.dtype)
        if published := goldens.hub_id(spec):
            goldens.check_embedder(self, published, self._model.dtype)

    @property
    def facts(self) -> Mapping[str, str]:
        """What it computes with, by name; "slower" says why it is slower than it could be, if it is."""
        return self._model.facts

    @property
    def takes_instruction(self) -> bool:
        """Whether `embed_queries` takes an instruction; "" (no prompt at all) every model takes."""
        return self._tokenizer.takes_instruction

    def embed(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """Vectors float32 [N, D] of N >= 0 sequences, in their order; none may be empty.

        ids is int [T]; offsets is int64 [N+1], sequence i being ids[offsets[i]:offsets[i + 1]].
        A micro-batch that does not fit the device is halved, and the token budget with it, for good.
        Raises ReplicaBroken when a single sequence does not fit, or the device fails.
        """
        return run(self.request(ids, offsets))

    def request(self, ids: np.ndarray, offsets: np.ndarray) -> Request[np.ndarray]:
        """The same for whoever has the device's queue, to be sent behind another."""
        lengths_N = np.diff(offsets)
        vectors_ND = np.empty((len(lengths_N), self.dimensions), dtype=np.float32)
        if len(lengths_N) and int(lengths_N.min()) < 1:
            raise ValueError(f"sequence {int(lengths_N.argmin())} has no tokens")

        def receive(rows_n: np.ndarray, pending: Any) -> None:
            found_nD = self._model.to_host(pending)
            assert found_nD.shape == (len(rows_n), self.dimensions), found_nD.shape
            vectors_ND[rows_n] = found_nD

        def too_large(rows_n: np.ndarray) -> None:
            self.token_budget = max(1, min(self.token_budget, int(lengths_N[rows_n].sum()) // 2))

        return Request(
            plan=lambda: packed.micro_batches(lengths_N, self.token_budget),
            send=lambda rows_n: self._model.encode(*packed.gather(ids, offsets, rows_n)),
            receive=receive,
            too_large=too_large,
            result=lambda: vectors_ND,
        )

    def encode_documents(self, texts: Sequence[str]) -> Encoded:
        """The token ids of documents, with the document prompt of the recipe or the spec."""
        return self._tokenizer.encode(texts)

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors float32 [N, D] of documents, with the document prompt of the recipe or the spec."""
        return self._embed_encoded(self.encode_documents(texts))

    def embed_queries(self, texts: Sequence[str], instruction: str | None = None) -> np.ndarray:
        """Vectors float32 [N, D] of queries; see `TextTokenizer.encode_queries` for the instruction."""
        return self._embed_encoded(self._tokenizer.encode_queries(texts, instruction))

    def _embed_encoded(self, encoded: Encoded) -> np.ndarray:
        return self.embed(encoded.ids, encoded.offsets)

    def _one_micro_batch(self, sequences: Sequence[np.ndarray]) -> np.ndarray:
        lengths_n = np.array([len(ids_T) for ids_T in sequences], dtype=np.int64)
        return self._model.to_host(self._model.encode(np.concatenate(list(sequences)), lengths_n))
