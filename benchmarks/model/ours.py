"""Our own path, as a job runs it: TextTokenizer, Embedder, EmbedModel; watched from outside.

Legend: N texts, T tokens in all.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from actors import packed
from actors.device.auto import resolve_device
from actors.embedder.embedder import Embedder, Model
from actors.embedder.model import EmbedModel
from actors.spec import ModelSpec
from actors.tokenizer.text import Encoded, TextTokenizer
from actors.weights.recipe import Resolved
from benchmarks.model.measure import Done
from benchmarks.model.subjects import Subject

MICRO_BATCHES_A_BLOCK = 16  # of texts that are tokenised while the ones before are embedded


class Watched:
    """A Model that counts its tokens and keeps the time of its calls."""

    def __init__(self, model: Model, on_cuda: bool) -> None:
        self._model, self._on_cuda = model, on_cuda
        self.dimensions, self.normalised, self.dtype = model.dimensions, model.normalised, model.dtype
        self.token_budget, self.facts = model.token_budget, model.facts
        self.forget()

    def forget(self) -> None:
        """Begins counting anew."""
        self.tokens, self.micro_batches = 0, 0
        self.queueing = self.waiting = 0.0
        self._events: list[tuple[Any, Any]] = []

    def device_seconds(self) -> float:
        """From the begin to the end of each micro-batch, on the device's own clock; the Python call on a CPU."""
        if not self._on_cuda:
            return self.queueing
        torch.cuda.synchronize()
        return sum(begin.elapsed_time(end) for begin, end in self._events) / 1000

    def reference(self, ids_T: np.ndarray) -> np.ndarray:
        return self._model.reference(ids_T)

    def start(self, token_budget: int | None) -> None:
        self._model.start(token_budget)
        self.token_budget = self._model.token_budget

    def encode(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> Any:
        self.tokens += len(ids_T)
        self.micro_batches += 1
        begin = time.perf_counter()
        if self._on_cuda:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
        pending = self._model.encode(ids_T, lengths_n)
        if self._on_cuda:
            events[1].record()
            self._events.append(events)
        self.queueing += time.perf_counter() - begin
        return pending

    def to_host(self, pending: Any) -> np.ndarray:
        begin = time.perf_counter()
        vectors = self._model.to_host(pending)
        self.waiting += time.perf_counter() - begin
        return vectors


class Ours:
    """An Embedder over the subject's weights. Raises ModelError as Embedder does, from its self-check too."""

    def __init__(self, subject: Subject, spec: ModelSpec) -> None:
        self._watched: Watched | None = None
        on_cuda = resolve_device(spec).startswith("cuda")

        def load(spec: ModelSpec, resolved: Resolved) -> Model:
            self._watched = Watched(EmbedModel(spec, resolved, subject.network), on_cuda)
            return self._watched

        self.embedder = Embedder(spec, load)
        self.tokenizer = TextTokenizer(spec)
        self._on_cuda = on_cuda

    def from_ids(self, encoded: Encoded) -> Done:
        """Embeds what is tokenised already, as a replica of a job does."""
        watched = self._begin()
        begin = time.perf_counter()
        vectors = self.embedder.embed(encoded.ids, encoded.offsets)
        return Done(vectors, watched.tokens, self._stages(time.perf_counter() - begin))

    def from_texts(self, texts: Sequence[str]) -> Done:
        """Tokenises and embeds; the next texts are tokenised in a second thread meanwhile."""
        watched = self._begin()
        begin = time.perf_counter()
        tokenising = 0.0

        def tokenise(block: Sequence[str]) -> tuple[Encoded, float]:
            at = time.perf_counter()
            return self.tokenizer.encode(block), time.perf_counter() - at

        found = []
        blocks = self._blocks(texts)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(tokenise, blocks[0])
            for following in [*blocks[1:], None]:
                encoded, seconds = ahead.result()
                tokenising += seconds
                if following is not None:
                    ahead = pool.submit(tokenise, following)
                found.append(self.embedder.embed(encoded.ids, encoded.offsets))
        stages = self._stages(time.perf_counter() - begin)
        return Done(np.concatenate(found), watched.tokens, {"tokenise": tokenising, **stages})

    def _blocks(self, texts: Sequence[str]) -> list[Sequence[str]]:
        # The first block is small: nothing is embedded while it is tokenised.
        sample = self.tokenizer.encode(texts[:64])
        size = max(1, self.embedder.token_budget * MICRO_BATCHES_A_BLOCK * len(texts[:64]) // len(sample.ids))
        first = max(1, size // 8)
        return [texts[:first], *(texts[i : i + size] for i in range(first, len(texts), size))]

    def _begin(self) -> Watched:
        assert self._watched is not None
        self._watched.forget()
        return self._watched

    def _stages(self, seconds: float) -> dict[str, float]:
        """Seconds. On CUDA `device` runs beside `queue` and `wait`; on a CPU `device` is the forward pass itself."""
        watched = self._watched
        assert watched is not None
        device = watched.device_seconds()
        queueing = watched.queueing if self._on_cuda else 0.0
        calls = watched.queueing + watched.waiting
        return {"queue": queueing, "device": device, "wait": watched.waiting, "rest": max(0.0, seconds - calls)}


def part_of(encoded: Encoded, step: int) -> Encoded:
    """Every step-th text."""
    rows = np.arange(0, len(encoded.truncated), step)
    ids, lengths = packed.gather(encoded.ids, encoded.offsets, rows)
    return Encoded(ids, packed.offsets_of(lengths), encoded.truncated[rows])
