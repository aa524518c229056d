"""What the committed table says is done. Pure: no table, no cluster.

A unit is in the table whole or not at all, and each of its records says which rows the unit has. If rows of it were
deleted later by the table's owner, the unit stays done as long as one is left, and the deleted rows are counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipelines.units import Range, Shard, Unit, count_units, cut, missing_ranges


@dataclass(frozen=True, slots=True)
class UnitInTable:
    """What the table holds of one unit: ids, the unit's range, and how many rows of it. is_whole: whether each row that
    is there has all its passages. file: the content of its shard; None where nobody knows."""

    unit: int
    shard: int
    range: Range
    rows: int
    is_whole: bool = True
    file: int | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over (a part of) the table. rows: corpus rows, good and bad. records: rows times their chunks."""

    rows: int
    bad_rows: int
    records: int
    tokens: int
    truncated: int
    reasons: Mapping[str, int]


@dataclass
class Checkpoint:
    """done: the committed row ranges of each shard of the corpus, neighbouring ones joined. stale: row counts of shards
    that are not in it; stale_files: the contents of these, as far as they are known. deleted_rows: rows of committed
    units that were deleted since. overlaps: rows that are in the table more than once, torn: ids of units with rows
    that lost passages (defects)."""

    done: dict[int, list[Range]] = field(default_factory=dict)
    units: int = 0
    stale: dict[int, int] = field(default_factory=dict)
    stale_files: dict[int, int] = field(default_factory=dict)
    deleted_rows: int = 0
    overlaps: int = 0
    torn: list[int] = field(default_factory=list)

    @property
    def rows_done(self) -> int:
        return sum(stop - start for ranges in self.done.values() for start, stop in ranges)


def read_checkpoint(shards: Mapping[int, Shard], in_table: Iterable[UnitInTable]) -> Checkpoint:
    """Match what the table holds against the corpus. `shards` by id.

    In any order; but where the units of a shard come in the order of their rows, a range is kept for each run of them
    and not for each: 10^10 rows in units of 512 are 20 million."""
    state = Checkpoint()
    ranges: dict[int, list[Range]] = defaultdict(list)
    for found in in_table:
        shard = shards.get(found.shard)
        if shard is None:
            state.stale[found.shard] = state.stale.get(found.shard, 0) + found.rows
            if found.file is not None:
                state.stale_files[found.shard] = found.file
            continue
        start, stop = found.range
        _append(ranges[found.shard], start, stop)
        state.units += 1
        if not found.is_whole:
            state.torn.append(found.unit)
        state.deleted_rows += max(0, (stop - start) - found.rows)
        state.overlaps += max(0, found.rows - (stop - start))
    for shard_id, claimed in ranges.items():
        claimed.sort()
        state.done[shard_id] = claimed
        covered = shards[shard_id].rows - sum(b - a for a, b in missing_ranges(shards[shard_id].rows, claimed))
        state.overlaps += sum(b - a for a, b in claimed) - covered
    return state


def _append(claimed: list[Range], start: int, stop: int) -> None:
    if claimed and claimed[-1][1] == start:
        start = claimed.pop()[0]
    claimed.append((start, stop))


def pending(shards: Sequence[Shard], done: Mapping[int, list[Range]], rows_per_unit: int) -> Iterator[Unit]:
    """Units still to do, shard by shard, lazily: a corpus of any size costs no memory here."""
    for shard in shards:
        yield from cut(shard, rows_per_unit, done.get(shard.id, ()))


def count_pending(shards: Sequence[Shard], done: Mapping[int, list[Range]], rows_per_unit: int) -> int:
    """How many units `pending` gives."""
    return sum(count_units(shard, rows_per_unit, done.get(shard.id, ())) for shard in shards)
