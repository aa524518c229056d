"""The vector index of a table as the table's own metadata tells it: which kind, why, and what was measured of it.

`vectormill optimize` gives each index it builds a name of its own and notes a record under that name, in one key of the
table's metadata. A record is noted before its index is committed, beside the record of the index that it replaces: at
every moment the index that is in the table has its own, also after a kill between the two commits. A compaction keeps
an index's name; an index that another program built has another name, so no record fits it and nothing measured of one
index is ever applied to another.

Imports no Lance: it works on an open dataset, so that `status` and `search` can use it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.errors import ConfigError

RECORDS_KEY = "vectormill.indexes"
COLUMN = "vector"
MEMORY_SHARE = 0.5  # of this machine's memory: the limit where none is given

Choice = Literal["auto", "none", "ivf_flat", "ivf_sq", "ivf_rq"]


@dataclass(frozen=True)
class Tuning:
    """How to search a table's vector index: probe `nprobes` partitions, order `refine_factor` x limit candidates by
    the stored vectors (None: the index holds the vectors themselves). recall: recall@10 measured so, 0 to 1."""

    nprobes: int | None
    refine_factor: int | None
    recall: float


@dataclass(frozen=True)
class Kind:
    """A type of index. bits: of one dimension's code; None: whole vectors."""

    type: str
    bits: int | None

    def bytes_per_vector(self, dimensions: int, value_bytes: int) -> float:
        """What the index holds for a vector: its code and a few bytes beside it (measured on pylance 14.0.2)."""
        if self.bits is None:
            return dimensions * value_bytes + 8.0
        beside = 18.0 + 2 * self.bits if self.type == "IVF_RQ" else 8.0
        return dimensions * self.bits / 8 + beside


FLAT = Kind("IVF_FLAT", None)
SQ = Kind("IVF_SQ", 8)
RQ4 = Kind("IVF_RQ", 4)
RQ1 = Kind("IVF_RQ", 1)
KINDS = (FLAT, SQ, RQ4, RQ1)


@dataclass(frozen=True)
class Vectors:
    """count: vectors in the table, rows with a reason aside. value_bytes: of one number as it is stored."""

    count: int
    dimensions: int
    value_bytes: int


def choose(vectors: Vectors, asked: Choice, memory_gb: float | None) -> list[tuple[Kind, str]]:
    """The kinds to try, best first, each with why. The codes of a kind must fit the memory limit: SQ loses little, RQ
    with 4 bits and with 1 less and less of the room. Whole vectors are the way out if codes lose too much.

    Raises ConfigError if the kind that is asked for cannot hold such vectors."""
    own = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    limit = own * MEMORY_SHARE if memory_gb is None else memory_gb
    size = {
        kind: vectors.count * kind.bytes_per_vector(vectors.dimensions, vectors.value_bytes) / 1e9 for kind in KINDS
    }
    fits = [kind for kind in KINDS if size[kind] <= limit]
    rotates = vectors.dimensions % 8 == 0
    of = f"{vectors.count:,} vectors of {vectors.dimensions} dimensions"

    def why(kind: Kind, because: str) -> tuple[Kind, str]:
        bits = f" with {kind.bits} bit(s)" if kind.type == "IVF_RQ" else ""
        return kind, f"{kind.type}{bits}: {of} take about {size[kind]:,.3g} GB in it; {because}"

    within = f"the limit is {limit:,.3g} GB" + (" (half of this machine's memory)" if memory_gb is None else "")
    if asked == "ivf_flat":
        return [why(FLAT, "asked for")]
    if asked == "ivf_sq":
        return [why(SQ, "asked for")]
    if asked == "ivf_rq" and not rotates:
        raise ConfigError(f"--index ivf_rq needs a multiple of 8 dimensions, not {vectors.dimensions}; use ivf_sq")
    if asked == "ivf_rq":
        return [why(RQ4 if RQ4 in fits else RQ1, f"asked for; {within}")]
    if SQ in fits:
        return [why(SQ, within)] + ([why(FLAT, f"codes lost too much; {within}")] if FLAT in fits else [])
    if not rotates:
        return [why(SQ, f"more than it should ({within}), but IVF_RQ needs a multiple of 8 dimensions")]
    if RQ4 in fits:
        return [why(RQ4, f"IVF_SQ would take {size[SQ]:,.3g} GB; {within}")]
    beyond = "" if RQ1 in fits else "more than it should, but nothing takes less: "
    return [why(RQ1, f"{beyond}IVF_SQ would take {size[SQ]:,.3g} GB; {within}")]


@dataclass(frozen=True)
class IndexRecord:
    """What `optimize` knows of an index that it built.

    vectors_trained: how many there were when its partitions were trained. recall: mean recall@10 over `queries`
    queries, with the half-width of its 95 % interval; measured: when (ISO 8601, UTC)."""

    name: str
    type: str
    bits: int | None
    partitions: int
    vectors_trained: int
    why: str
    nprobes: int
    refine_factor: int | None
    recall: float
    recall_margin: float
    queries: int
    measured: str

    @property
    def kind(self) -> Kind:
        return Kind(self.type, self.bits)


def vector_indexes(dataset: Any) -> list[Any]:
    """Lance's descriptions of the indexes on the vector column."""
    return [index for index in dataset.describe_indices() if list(index.field_names) == [COLUMN]]


def records_of(dataset: Any) -> list[IndexRecord]:
    """The noted records, newest first; what another release noted in another form counts as nothing."""
    try:
        return [IndexRecord(**record) for record in json.loads(dataset.metadata[RECORDS_KEY])["records"]]
    except (KeyError, TypeError, ValueError):
        return []


def why_none(dataset: Any) -> str | None:
    """Why `optimize` left the table without a vector index, if it did."""
    try:
        return json.loads(dataset.metadata[RECORDS_KEY]).get("none")
    except (KeyError, AttributeError, ValueError):
        return None


def note(dataset: Any, records: Sequence[IndexRecord], none: str | None = None) -> None:
    """Put records, or why there is no index, into the table's metadata: one commit, or none if they are there. Every
    commit of a run rebases over it."""
    document = {"records": [asdict(record) for record in records]} | ({"none": none} if none else {})
    text = json.dumps(document, sort_keys=True)
    if dataset.metadata.get(RECORDS_KEY) != text:
        dataset.update_metadata({RECORDS_KEY: text})


def record_of(dataset: Any) -> IndexRecord | None:
    """The record of the index that is in the table."""
    names = {index.name for index in vector_indexes(dataset)}
    return next((record for record in records_of(dataset) if record.name in names), None)


def tuning_of(dataset: Any) -> Tuning | None:
    """What `vectormill optimize` measured for the vector index that is in the table; None: it has none, or another
    program built it."""
    record = record_of(dataset)
    return Tuning(record.nprobes, record.refine_factor, record.recall) if record else None


def fragments_outside(dataset: Any, indexes: Sequence[Any]) -> list[Any]:
    """Fragments of the table that none of these index descriptions covers."""
    covered = {number for index in indexes for segment in index.segments for number in segment.fragment_ids}
    return [fragment for fragment in dataset.get_fragments() if fragment.fragment_id not in covered]


def rows_outside(dataset: Any, indexes: Sequence[Any]) -> int:
    """Rows that a search has to look through one by one; from the manifest."""
    return sum(fragment.count_rows() for fragment in fragments_outside(dataset, indexes))


@dataclass(frozen=True)
class IndexState:
    """The vector index that is in a table. bytes: of its files. What was measured is None where another program built
    it: recall@10 over `queries` queries, with the half-width of its 95 % interval, and the settings that reach it."""

    name: str
    type: str
    segments: int
    bytes: int
    unindexed_rows: int
    partitions: int | None = None
    nprobes: int | None = None
    refine_factor: int | None = None
    recall: float | None = None
    recall_margin: float | None = None
    queries: int | None = None
    measured: str | None = None
    why: str | None = None


def state_of(dataset: Any) -> IndexState | None:
    """None if there is none."""
    indexes = vector_indexes(dataset)
    if not indexes:
        return None
    record = record_of(dataset)
    index = next((index for index in indexes if record and index.name == record.name), indexes[0])
    names = ("partitions", "nprobes", "refine_factor", "recall", "recall_margin", "queries", "measured", "why")
    return IndexState(
        index.name,
        index.index_type,
        len(index.segments),
        index.total_size_bytes,
        rows_outside(dataset, [index]),
        *(getattr(record, name) if record else None for name in names),
    )
