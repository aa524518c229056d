"""What a task is: all that a run, its messages and `verify` need to know of what becomes of a row. All else of a run is
the same for every task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from actors.spec import ModelSpec
from pipelines.engine.stage import Stage
from pipelines.table.schema import TableMetadata
from pipelines.tasks.replica import Pool
from pipelines.tasks.write import Results

Record = Mapping[str, Any]
ANOTHER_TABLE = "Use a new table.name, or restore these fields in the job file."


@dataclass(frozen=True)
class Words:
    """How messages speak of a task. result, results: what a record holds, one and several of them. done: what happened
    to a row that has one. space, remedy: what a table made with other facts holds, and what to do then."""

    result: str
    results: str
    done: str
    space: str
    remedy: str


class Task(Protocol):
    """What a run needs. name: as the table's metadata has it; that of the command, for a task of job files."""

    name: str
    words: Words
    results: Results

    def resolve(self, spec: ModelSpec) -> tuple[ModelSpec, dict[str, Any]]:
        """The spec with what the weights decide filled in, and all that a result depends on, for the fingerprint.

        Raises ModelError, ConfigError for what does not fit together."""

    def schema(self, carried: pa.Schema, metadata: TableMetadata) -> pa.Schema:
        """Of the table."""

    def estimate(self, spec: ModelSpec, rows: pa.Table) -> tuple[int, int]:
        """How many tokens a replica reads for these rows of the corpus, and how many records they give."""

    def stages(self, spec: ModelSpec, pool: Pool) -> list[Stage]:
        """From rows as they were read to rows that can be written."""

    def passages(self, spec: ModelSpec, rows: pa.Table) -> pa.Table:
        """The records that rows, as they were read but without what is carried, become, as far as it is known without
        the model: where they stand in the corpus, and the digests of what they are made of."""


@dataclass(frozen=True)
class Soundness:
    """How the results of a table are checked, record by record.

    name: of the check. what: `vectors of 384 dimensions`. measured: what the numbers are, in a word or two.
    measure: (a number a record that has a result, whether it is right)."""

    name: str
    what: str
    measured: str
    measure: Callable[[pa.RecordBatch], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Drawn:
    """Records of a table that were drawn to be made again. rows: the row of the corpus behind each, a table of one row.
    siblings: all records of that row, with their `_chunk` and the task's own provenance."""

    records: Sequence[Record]
    rows: Sequence[pa.Table]
    siblings: Sequence[Sequence[Record]]


@dataclass(frozen=True)
class Again:
    """What came of making records again. found: in words. doubts: which of them are to be doubted, by what is wrong."""

    found: str
    doubts: Mapping[str, Sequence[bool] | np.ndarray]


class JobTask(Task, Protocol):
    """A task that a job file can ask for: what `verify` needs besides."""

    def soundness(self, schema: pa.Schema, metadata: TableMetadata) -> Soundness:
        """Of the results of such a table."""

    def again(self, drawn: Drawn, spec: ModelSpec, metadata: TableMetadata) -> Again:
        """Make records again by the slow reference path, and compare. Raises ModelError."""

    def reason_of(self, row: pa.Table, chunk: int) -> str | None:
        """Why the record `chunk` of a row, read as a table of one row, can have no result; None if it can."""
