"""Stands in for the module of this name until that is merged: only what `pipelines.search` needs of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tuning:
    """How to search a table's vector index, and the recall measured so."""

    nprobes: int | None
    refine_factor: int | None
    recall: float


def tuning_of(dataset: Any) -> Tuning | None:
    """None: not measured."""
    return None
