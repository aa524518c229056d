"""What is searched for, and what is found. Knows no Lance."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import pyarrow as pa

from pipelines.errors import ConfigError
from pipelines.values import json_row

Mode = Literal["vector", "text", "hybrid"]
CANDIDATES = 100


@dataclass(frozen=True)
class Query:
    """How to search. Raises ConfigError for what cannot be.

    limit: most hits. where: SQL filter over the table's columns, applied before the search. instruction: what to look
    for, in place of the table's own; "" leaves the prompt out. candidates: how many the first stage finds for the
    fusion and the reranker. exact: compare with every vector, whatever the index."""

    limit: int = 10
    where: str | None = None
    instruction: str | None = None
    mode: Mode = "vector"
    candidates: int = CANDIDATES
    exact: bool = False

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ConfigError(f"there is no search mode {self.mode!r}; there are {', '.join(get_args(Mode))}")
        for name in ("limit", "candidates"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be at least 1")

    def depth(self, reranked: bool) -> int:
        """How many hits the first stage must find. Raises ConfigError when they are fewer than asked for."""
        if self.mode != "hybrid" and not reranked:
            return self.limit
        if self.candidates < self.limit:
            raise ConfigError(
                f"{self.limit} hits cannot be chosen from {self.candidates} candidates: set --candidates to "
                f"{self.limit} or more, several times that to let fusion and reranking choose"
            )
        return self.candidates


@dataclass(frozen=True)
class Hit:
    """One passage found.

    rank: place in this list, from 1; first_rank: that in the first stage. score: what the list is ordered by: the
    relevance if reranked, else the similarity, the BM25 score (mode text) or the sum of reciprocal ranks (hybrid).
    similarity: the cosine to the query, -1 to 1; None for what only the words found. relevance: by the reranker, 0 to
    1; None without one, NaN where it gave no number. chunk, start, end: which passage of its row, and its characters
    there. text: the passage, None if it cannot be had. columns: the table's own, beside id and text; what Python cannot
    hold in its JSON form. carried: the same as a table of one row, each value exact."""

    rank: int
    id: str
    score: float
    similarity: float | None
    relevance: float | None
    first_rank: int
    chunk: int
    start: int
    end: int
    text: str | None
    columns: dict[str, Any]
    carried: pa.Table = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; docs/search.md says in which form values are."""
        own = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "carried"}
        return {**own, "columns": json_row(self.carried)}
