"""Builds indexes and makes them visible.

    train partitions → a segment for each group of fragments, in parallel → try: a version that nobody sees →
    publish: the new segments in, the old ones out, in one commit

All segments of an index share the centroids of its partitions, so that together they find what one segment over all
rows would find: a probe visits the same partition in each. They stay apart. `merge_existing_index_segments` of pylance
14.0.2 gives one IVF_SQ segment in which each vector keeps the code of its old segment while the bounds that codes are
read with are those of one of them (recall@10 0.98 before, 0.73 after;
tests/pipelines/table/index/test_segments.py looks at the segments).

Rows that came since are encoded in a segment of their own with the same centroids. It takes in the smaller segments
that are there, so that an index of n rows has at most about log2(n) of them however often it is refreshed.
"""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.dataset import Index
from lance.indices import IndicesBuilder

from pipelines.errors import TableChanged
from pipelines.storage.files import entries, remove_file, remove_folder
from pipelines.table.files import TableAddress
from pipelines.table.index.records import (
    COLUMN,
    IndexRecord,
    Kind,
    fragments_outside,
    note,
    record_of,
    records_of,
    vector_indexes,
)

SAMPLE_RATE = 256  # vectors for each partition that k-means looks at, Lance's default


@dataclass(frozen=True)
class Build:
    """Builds one segment over some fragments of one version of a table: called in this process or by an engine's
    workers. centroids_PD: of the index's partitions, in the type of the vectors."""

    address: TableAddress
    version: int
    name: str
    kind: Kind
    centroids_PD: np.ndarray

    def __call__(self, fragment_ids: list[int]) -> Index:
        dataset = self.address.open().checkout_version(self.version)
        bits = {"num_bits": self.kind.bits} if self.kind.type == "IVF_RQ" else {}
        return dataset.create_index_uncommitted(
            COLUMN,
            self.kind.type,
            name=self.name,
            metric="cosine",
            replace=True,  # or it refuses the name of the index that the segment is for
            num_partitions=len(self.centroids_PD),
            ivf_centroids=self.centroids_PD,
            fragment_ids=fragment_ids,
            **bits,
        )


OWN_NAME = re.compile(rf"{COLUMN}_[0-9a-f]{{8}}")


def new_name() -> str:
    """A name that no index had before: records go by it."""
    return f"{COLUMN}_{uuid.uuid4().hex[:8]}"


def train(dataset: lance.LanceDataset, partitions: int, vectors: int) -> np.ndarray:
    """Centroids [partitions, D] by k-means over a random sample of the table's `vectors` vectors."""
    rate = max(2, min(SAMPLE_RATE, vectors // partitions))
    model = IndicesBuilder(dataset, COLUMN).train_ivf(partitions, distance_type="cosine", sample_rate=rate)
    return _matrix(model.centroids)


def centroids_of(dataset: lance.LanceDataset, name: str) -> np.ndarray:
    """The centroids [partitions, D] that an index was built with."""
    return _matrix(dataset.centroids(index_name=name))


def _matrix(centroids: pa.FixedSizeListArray) -> np.ndarray:
    return centroids.flatten().to_numpy(zero_copy_only=False).reshape(-1, centroids.type.list_size)


def groups(fragments: Sequence[Any], count: int) -> list[list[int]]:
    """Ids of the fragments in up to `count` runs of about as many rows."""
    rows = np.array([fragment.count_rows() for fragment in fragments])
    middles = (np.cumsum(rows) - rows / 2) / max(1, rows.sum())
    found: dict[int, list[int]] = {}
    for fragment, middle in zip(fragments, middles, strict=True):
        found.setdefault(int(middle * count), []).append(fragment.fragment_id)
    return list(found.values())


def to_refresh(dataset: lance.LanceDataset, index: Any) -> tuple[list[int], list[Index]]:
    """(fragments to encode, segments to take out): what is outside the index, and segments no larger than it."""
    rows = {fragment.fragment_id: fragment.count_rows() for fragment in dataset.get_fragments()}
    fragment_ids = [fragment.fragment_id for fragment in fragments_outside(dataset, [index])]
    absorbed = []
    by_size = {id(s): sum(rows.get(number, 0) for number in s.fragment_ids) for s in index.segments}
    for segment in sorted(index.segments, key=lambda s: by_size[id(s)]):
        if by_size[id(segment)] > sum(rows[number] for number in fragment_ids):
            break
        fragment_ids += [number for number in segment.fragment_ids if number in rows]
        absorbed.append(_as_index(index, segment))
    return fragment_ids, absorbed


def segments_of(indexes: Sequence[Any]) -> list[Index]:
    """All segments of these index descriptions, as a commit wants them."""
    return [_as_index(index, segment) for index in indexes for segment in index.segments]


def _as_index(index: Any, segment: Any) -> Index:
    version = segment.dataset_version_at_last_update
    fields = list(index.fields)
    return Index(segment.uuid, index.name, fields, version, segment.fragment_ids, segment.index_version)


@contextlib.contextmanager
def trial(
    address: TableAddress, dataset: lance.LanceDataset, new: list[Index], removed: list[Index]
) -> Iterator[lance.LanceDataset]:
    """The table as it would be with these segments in and those out, as a version that no reader can come upon."""
    operation = lance.LanceOperation.CreateIndex(new, removed)
    tried = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, detached=True)
    try:
        yield tried
    finally:
        remove_file(f"{address.location}/_versions/d{tried.version}.manifest", address.storage)


def sweep(address: TableAddress, older_than: timedelta) -> None:
    """Delete the manifests of trials that were killed: cleaning up old versions leaves them."""
    versions = f"{address.location}/_versions"
    for name, modified in entries(versions, address.storage):
        if re.fullmatch(r"d\d+\.manifest", name) and modified < datetime.now(UTC) - older_than:
            remove_file(f"{versions}/{name}", address.storage)


def discard(address: TableAddress, segments: Sequence[Index]) -> None:
    """Delete the files of segments that were never published."""
    for segment in segments:
        remove_folder(f"{address.location}/_indices/{segment.uuid}", address.storage)


def publish(
    address: TableAddress, dataset: lance.LanceDataset, new: list[Index], removed: list[Index], record: IndexRecord
) -> None:
    """Note the record, then swap the segments, seen by all readers at once. Rows that were committed since `dataset`
    stay outside the index. Raises TableChanged if another program compacted or indexed the table meanwhile."""
    with one_at_a_time(address):
        latest = address.open()
        replaced = record_of(latest)
        note(latest, [record, *([replaced] if replaced is not None and replaced.name != record.name else [])])
        if new or removed:
            operation = lance.LanceOperation.CreateIndex(new, removed)
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def keep_one(address: TableAddress) -> None:
    """Of several vector indexes that `optimize` put in, all but the newest go: of two at work at the same time each
    puts its own beside that of the other, and a search would pay for both, with the settings of one.

    Raises TableChanged if another program changes the table's indexes meanwhile."""
    dataset = address.open()
    ours = {index.name: index for index in vector_indexes(dataset) if OWN_NAME.fullmatch(index.name)}
    noted = [record.name for record in records_of(dataset) if record.name in ours]
    if len(ours) < 2 or not noted:
        return
    others = segments_of([index for name, index in ours.items() if name != noted[0]])
    with one_at_a_time(address):
        operation = lance.LanceOperation.CreateIndex([], others)
        lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def remove(address: TableAddress, dataset: lance.LanceDataset, indexes: Sequence[Any], why: str) -> None:
    """Take these indexes out of the table and note why it has none."""
    with one_at_a_time(address):
        if removed := segments_of(indexes):
            operation = lance.LanceOperation.CreateIndex([], removed)
            dataset = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
        note(dataset, [], why)


@contextlib.contextmanager
def one_at_a_time(address: TableAddress, what: str = "this index was not put in") -> Iterator[None]:
    """Says in one message that two programs changed the table's indexes or fragments at the same time, and `what` did
    not come of it."""
    try:
        yield
    except (OSError, RuntimeError) as bad:
        if not isinstance(bad, CommitConflictError) and not re.search("[Cc]onflict|[Ii]ncompatible", str(bad)):
            raise
        raise TableChanged(
            f"{address.location}: another program compacted or indexed the table at the same time, so {what}. "
            "The table is as that program left it; run the same command again."
        ) from bad
