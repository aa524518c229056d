"""Fits the vector index to the table: chooses, builds, measures, refreshes, and leaves none that finds too little.

    what is there fits, nothing new     kept as it is
    new rows                            encoded with the partitions that are there; measured again
    no index, an outgrown or other one  trained and built anew; measured before anybody can see it

An index is put in only with settings that reach the wanted recall@10. If no settings do the next kind is tried, at last
none: an older index stays if it still reaches the recall, else it goes too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from pipelines.errors import ConfigError, TableError
from pipelines.progress import Progress
from pipelines.table.files import TableAddress
from pipelines.table.index import segments
from pipelines.table.index.recall import Measured, Sample, sample, tune
from pipelines.table.index.records import (
    COLUMN,
    Choice,
    IndexRecord,
    IndexState,
    Kind,
    Vectors,
    choose,
    record_of,
    rows_outside,
    state_of,
    vector_indexes,
    why_none,
)

LEAST_VECTORS = 256  # fewer cannot train codes and partitions
OUTGROWN = 4  # times as many vectors as its partitions were trained for: they are too full, and too few

SegmentBuilder = Callable[[segments.Build, list[Any]], list[Any]]


@dataclass(frozen=True)
class IndexWanted:
    """What `optimize` was asked for. min_recall: least recall@10, in (0, 1]. memory_gb: most that the vector index may
    take, in 10^9 bytes; None: half of this machine's. full_text: a column, or `auto` for the stored text."""

    index: Choice = "auto"
    min_recall: float = 0.95
    memory_gb: float | None = None
    full_text: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.min_recall <= 1:
            raise ConfigError(f"--min-recall is {self.min_recall:g}; it is a share above 0 and at most 1, such as 0.95")
        if self.memory_gb is not None and not self.memory_gb > 0:
            raise ConfigError(f"--memory-gb is {self.memory_gb:g}; it must be more than 0")


@dataclass(frozen=True)
class Fitted:
    """What was done: action is none, kept, updated, built or removed. index: the one that is in the table now."""

    action: str
    why: str | None
    index: IndexState | None = None

    def to_dict(self) -> dict[str, Any]:
        """One flat object: the index's own, where there is one."""
        state = asdict(self.index) if self.index is not None else {"why": self.why}
        return {"action": self.action, **state}


class VectorIndex:
    """One table's vector index, brought to what is wanted.

    from_rows: with `auto`, fewer vectors get no index. build: builds a segment for each of some groups of fragments."""

    def __init__(
        self, address: TableAddress, wanted: IndexWanted, from_rows: int, build: SegmentBuilder, progress: Progress
    ):
        self.address = address
        self.wanted = wanted
        self.from_rows = from_rows
        self.build = build
        self.progress = progress
        self.dataset = address.open()

    def fit(self) -> Fitted:
        """Raises TableError when nothing reaches the wanted recall, when there are too few vectors for the index that
        is asked for, or when another program changed the table's indexes meanwhile; ConfigError for a kind that does
        not fit the vectors."""
        asked = self.wanted.index
        existing = vector_indexes(self.dataset)
        if asked == "none":
            return self._leave_none(existing, "asked for")
        if self.vectors.count < LEAST_VECTORS and asked != "auto":
            raise TableError(
                f"{self.address.location} has {self.vectors.count:,} vectors, too few for --index {asked}: it takes "
                f"{LEAST_VECTORS}. Leave --index out; exact search takes milliseconds here."
            )
        if asked == "auto" and (self.vectors.count < LEAST_VECTORS or (not existing and self._small())):
            return self._leave_none(existing, f"fewer than {self.from_rows:,} vectors: exact search is fast")
        kinds = choose(self.vectors, asked, self.wanted.memory_gb)
        record = record_of(self.dataset)
        unfit = self._unfit(record, [kind for kind, _ in kinds])
        if record is not None and unfit is None:
            if (action := self._refresh(record)) is not None:
                return self._result(action)
            unfit = f"after new rows no settings reach recall@10 {self.wanted.min_recall:g}"
        for kind, why in kinds:
            if self._rebuild(kind, f"{why}. Built because {unfit}"):
                return self._result("built")
        raise self._give_up(existing, [kind for kind, _ in kinds])

    def _small(self) -> bool:
        return self.vectors.count < self.from_rows

    @cached_property
    def vectors(self) -> Vectors:
        column = self.dataset.schema.field(COLUMN).type
        count = self.dataset.count_rows("_reason IS NULL")
        return Vectors(count, column.list_size, column.value_type.bit_width // 8)

    @cached_property
    def queries(self) -> Sample:
        self.progress.say("searching exactly for sampled queries, to measure the index against")
        return sample(self.dataset)

    def _unfit(self, record: IndexRecord | None, kinds: list[Kind]) -> str | None:
        """Why the index that is there must be built anew; None if it need not."""
        if record is None:
            return "another program built the one that was there" if vector_indexes(self.dataset) else "there was none"
        if record.kind not in kinds:
            return f"the one that was there was {record.type}"
        if self.vectors.count >= OUTGROWN * record.vectors_trained:
            return (
                f"the table grew from {record.vectors_trained:,} to {self.vectors.count:,} vectors since the "
                "partitions were trained: they are too full"
            )
        return None

    def _refresh(self, record: IndexRecord) -> str | None:
        """Bring the index up to date: kept or updated; None if it no longer reaches the recall."""
        index = next(index for index in vector_indexes(self.dataset) if index.name == record.name)
        outside = rows_outside(self.dataset, [index])
        if not outside and record.recall - record.recall_margin >= self.wanted.min_recall:
            return "kept"
        new: list[Any] = []
        removed: list[Any] = []
        if outside:
            self.progress.say(f"bringing the vector index up to date: {outside:,} rows are outside it")
            fragments, removed = segments.to_refresh(self.dataset, index)
            centroids_PD = segments.centroids_of(self.dataset, record.name)
            build = segments.Build(self.address, self.dataset.version, record.name, record.kind, centroids_PD)
            new = self.build(build, [f for f in self.dataset.get_fragments() if f.fragment_id in set(fragments)])
        return "updated" if self._put_in(record, new, removed) else None

    def _rebuild(self, kind: Kind, why: str) -> bool:
        """Train and build a new index in place of all there are; False if it would not reach the recall."""
        partitions = 1 << round(math.log2(math.sqrt(self.vectors.count)))
        self.progress.say(
            f"building an {kind.type} index with {partitions:,} partitions over {self.vectors.count:,} vectors"
        )
        name = segments.new_name()
        centroids_PD = segments.train(self.dataset, partitions, self.vectors.count)
        build = segments.Build(self.address, self.dataset.version, name, kind, centroids_PD)
        new = self.build(build, self.dataset.get_fragments())
        record = IndexRecord(name, kind.type, kind.bits, partitions, self.vectors.count, why, 0, None, 0.0, 0.0, 0, "")
        return self._put_in(record, new, segments.segments_of(vector_indexes(self.dataset)))

    def _put_in(self, record: IndexRecord, new: list[Any], removed: list[Any]) -> bool:
        """Publish if settings are found that reach the recall, else leave no trace."""
        published = False
        try:
            with segments.trial(self.address, self.dataset, new, removed) as tried:
                found = self._tune(tried, record)
            if found is not None:
                segments.publish(self.address, self.dataset, new, removed, _with(record, found))
                published = True
        finally:
            if not published:
                segments.discard(self.address, new)
        return published

    def _tune(self, dataset: Any, record: IndexRecord) -> Measured | None:
        queries = self.queries
        self.progress.say(f"looking for the least work that reaches recall@10 {self.wanted.min_recall:g}")
        return tune(dataset, queries, record.partitions, self.wanted.min_recall, codes=record.bits is not None)

    def _leave_none(self, existing: list[Any], why: str) -> Fitted:
        if existing or why_none(self.dataset) != why:
            segments.remove(self.address, self.dataset, existing, why)
        return Fitted("removed" if existing else "none", why)

    def _give_up(self, existing: list[Any], kinds: list[Kind]) -> TableError:
        """No new index is good enough, says the error. The one that was there stays if it is."""
        wanted = f"recall@10 {self.wanted.min_recall:g}"
        tried = " and ".join(dict.fromkeys(kind.type for kind in kinds))
        record = record_of(self.dataset)
        found = self._tune(self.dataset, record) if record is not None else None
        if record is not None and found is not None:
            segments.publish(self.address, self.dataset, [], [], _with(record, found))
            left = f"the {record.type} index that was there reaches it and stays"
        else:
            segments.remove(self.address, self.dataset, existing, f"no index that was tried reaches {wanted}")
            left = "the table has no vector index now, and exact search finds everything"
        return TableError(
            f"{self.address.location}: {tried} did not reach {wanted} with any settings; {left}. Lower --min-recall, "
            "or allow a larger index with --memory-gb or --index ivf_flat."
        )

    def _result(self, action: str) -> Fitted:
        found = state_of(self.address.open())
        assert found is not None, "an index just put in is there"
        return Fitted(action, found.why, found)


def _with(record: IndexRecord, found: Measured) -> IndexRecord:
    return replace(
        record,
        nprobes=found.nprobes,
        refine_factor=found.refine_factor,
        recall=round(found.recall, 4),
        recall_margin=round(found.margin, 4),
        queries=found.queries,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )
