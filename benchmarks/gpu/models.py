"""Models of random weights for the checks and measurements, and the texts they are given.

In a dry run the device is the CPU and a Qwen3 tiny.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from actors import packed
from actors.embedder.model import EmbedModel
from actors.spec import ModelSpec
from benchmarks.gpu.device import device
from benchmarks.model import subjects, texts
from benchmarks.model.ours import Ours
from benchmarks.model.subjects import Subject, Wanted

SEED = 1
ANY = 1 << 20  # a token budget that takes any layout as one micro-batch
SHORT = texts.MIXES["short"]


@contextmanager
def loaded(wanted: Wanted, most: int) -> Iterator[tuple[Subject, ModelSpec]]:
    """A random model and the spec that runs it; texts of at most `most` tokens."""
    with tempfile.TemporaryDirectory() as folder:
        subject = subjects.load(wanted, Path(folder))
        most = min(most, subject.recipe.max_positions)
        plain = ModelSpec(str(subject.folder), max_tokens=most, prompt="")
        yield subject, replace(plain, dtype=wanted.dtype, device=wanted.device)


def wanted(dry: bool, model: str, dtype: str, path: str = "fused") -> Wanted:
    """What to load for a model of RANDOM."""
    if dry and subjects.RANDOM[model]["model_type"] == "qwen3":
        model = "tiny"
    elif dry:  # most CPUs only emulate bfloat16
        dtype = "float32"
    return Wanted(model, device(dry), dtype, path=path, seed=SEED)


def random_ids(subject: Subject, lengths: Sequence[int] | np.ndarray) -> list[np.ndarray]:
    """Sequences of these lengths."""
    rng = np.random.default_rng(SEED)
    return [rng.integers(3, subject.recipe.vocabulary, n) for n in lengths]


def watched(subject: Subject, spec: ModelSpec) -> tuple[Ours, list[dict[str, Any]]]:
    """An Embedder that works even if its own check fails: what the check found is recorded instead."""
    with mock.patch("actors.embedder.selfcheck.check"):
        ours = Ours(subject, spec)
    return ours, [asdict(found) for found in ours.embedder.comparisons]


def embed(ours: Ours, given: Sequence[np.ndarray]) -> np.ndarray:
    """Through the Embedder, in micro-batches."""
    lengths = np.array([len(ids) for ids in given], dtype=np.int64)
    return ours.embedder.embed(np.concatenate(list(given)), packed.offsets_of(lengths))


def one(model: EmbedModel, rows: Sequence[np.ndarray]) -> np.ndarray:
    """One micro-batch."""
    lengths = np.array([len(ids) for ids in rows], dtype=np.int64)
    return model.to_host(model.encode(np.concatenate(list(rows)), lengths))
