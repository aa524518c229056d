"""The judge: a table, read with lance alone, against what must be in it.

lost: records that are not there. doubled: records beyond the first of their place. unknown: records that nobody can
have put there (not in the corpus, or deleted by the owner). wrong: another id, number, reason, span or, in any bit,
vector. torn: units of which a part is there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import lance
import numpy as np
import pyarrow as pa

from pipelines.units import content_id
from tests.system.chaos.corpus import Expected, FileVersion

NOTE = "note"  # a column of the owner's, see owner_faults
PLACE = ["_shard", "_unit", "_row", "_chunk", "_first", "_rows", "_passages"]
COLUMNS = ["id", "n", "vector", *PLACE, "_start", "_end", "_reason"]
Key = tuple[int, int]  # row, chunk
FAULTS = ("lost", "doubled", "unknown", "wrong", "torn")


@dataclass
class Expectation:
    """files: the corpus as it is. past: versions of files that were in it. gone: rows that the owner deleted, by shard
    id. foreign: ids of another job's rows, by the shard id it gave them."""

    files: dict[str, FileVersion] = field(default_factory=dict)
    past: list[FileVersion] = field(default_factory=list)
    gone: dict[int, set[int]] = field(default_factory=dict)
    foreign: dict[int, set[str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(len(file.rows) for file in self.files.values())

    def version_with(self, numbers: set[str]) -> FileVersion | None:
        """The file version that rows with these numbers came from."""
        for file in (*self.files.values(), *self.past):
            if not file.numbers.isdisjoint(numbers):
                return file
        return None


@dataclass
class Found:
    """What the judge saw. stale: records of earlier versions of the corpus; foreign: of another job."""

    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    stale: int = 0
    foreign: int = 0
    deleted: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not any(self.counts.values())

    def blame(self, fault: str, what: str, times: int = 1) -> None:
        if times:
            self.counts[fault] += times
            if len(self.examples) < 10:
                self.examples.append(f"{fault}: {what}")


def judge(dataset: lance.LanceDataset, expectation: Expectation) -> Found:
    """A table that a run called complete."""
    noted = [NOTE] if NOTE in dataset.schema.names else []
    table = dataset.to_table(columns=COLUMNS + noted)
    found = Found(records=table.num_rows)
    seen: set[str] = set()
    for shard, records in _by_shard(table):
        if shard in expectation.foreign:
            _judge_foreign(shard, records, expectation, found)
            continue
        version = expectation.version_with({str(n) for n in records["n"].to_pylist() if n is not None})
        if version is None:
            found.blame("unknown", f"shard {shard}", records.num_rows)
        elif version is expectation.files.get(version.path):
            if version.path in seen:
                found.blame("doubled", f"{version.path} under two shard ids", records.num_rows)
            seen.add(version.path)
            _judge_shard(version, records, expectation.gone.get(shard, set()), found)
        else:
            found.stale += records.num_rows
    for path, version in expectation.files.items():
        if path not in seen:
            found.blame("lost", f"all of {path}", len(version.records))
    return found


def files_in(dataset: lance.LanceDataset, expectation: Expectation) -> list[FileVersion]:
    """Files of the corpus as it is of which the table holds rows."""
    numbers = {str(n) for n in dataset.to_table(columns=["n"])["n"].to_pylist()}
    return [file for file in expectation.files.values() if not file.numbers.isdisjoint(numbers)]


def _by_shard(table: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    shards = table["_shard"].to_numpy()
    for shard in np.unique(shards).tolist():
        yield shard, table.filter(pa.array(shards == shard))


def _judge_foreign(shard: int, records: pa.Table, expectation: Expectation, found: Found) -> None:
    ids = Counter(records["id"].to_pylist())
    found.foreign += len(ids)
    found.blame("doubled", f"foreign rows of {shard}", records.num_rows - len(ids))
    found.blame("unknown", f"foreign rows of {shard}", len(ids.keys() - expectation.foreign[shard]))


def _judge_shard(version: FileVersion, records: pa.Table, gone: set[int], found: Found) -> None:
    _judge_units(records, gone, found, version.path)
    must = version.records
    passages = Counter(row for row, _ in must)
    found.deleted += len(gone)
    there: Counter[Key] = Counter()
    vectors = records["vector"].combine_chunks()
    for i, r in enumerate(records.drop_columns(["vector"]).to_pylist()):
        key = (r["_row"], r["_chunk"])
        there[key] += 1
        wanted = must.get(key)
        if wanted is None or key[0] in gone:
            found.blame("unknown", f"{version.path} {key}")
            continue
        vector = vectors[i].values.to_numpy().tobytes() if vectors[i].is_valid else None
        n = None if r["n"] is None else str(r["n"])
        got = Expected(r["id"], n, vector, r["_reason"], (r["_start"], r["_end"]))
        differ = [f.name for f in fields(Expected) if getattr(got, f.name) != getattr(wanted, f.name)]
        if r["_passages"] != passages[key[0]]:
            differ.append("_passages")
        if r.get(NOTE) not in (None, f"of {r['id']}"):
            differ.append(NOTE)
        if differ:
            found.blame("wrong", f"{version.path} {key}: {', '.join(differ)}; reason {got.reason}")
    doubled = [key for key, times in there.items() if times > 1]
    found.blame("doubled", f"{version.path} {doubled[:3]}", there.total() - len(there))
    lost = [key for key in must if key not in there and key[0] not in gone]
    found.blame("lost", f"{version.path} {lost[:3]}", len(lost))


def _judge_units(records: pa.Table, gone: set[int], found: Found, path: str) -> None:
    """Blames units that are not whole, or that say another range than the one that they are named after."""
    said = (
        records.select(["_unit", "_first", "_rows"])
        .group_by("_unit")
        .aggregate([("_first", "min"), ("_first", "max"), ("_rows", "min"), ("_rows", "max")])
    )
    ranges = {unit["_unit"]: unit for unit in said.to_pylist()}
    for unit, rows in units_of(records).items():
        span = whole_range(unit, rows, gone)
        if span is None:
            found.blame("torn", f"unit {unit[1]} of {path} has rows {min(rows)} to {max(rows)}, {len(rows)} of them")
            continue
        one = ranges[unit[1]]
        if {one["_first_min"], one["_first_max"]} != {span[0]} or {one["_rows_min"], one["_rows_max"]} != {
            span[1] - span[0]
        }:
            found.blame("wrong", f"unit {unit[1]} of {path} is rows {span}, and says {one}")


# ---------------------------------------------------------------------- whole units, for any reader


def is_ours(dataset: lance.LanceDataset) -> bool:
    """False for a version that the table's owner put in its place."""
    return set(PLACE) <= set(dataset.schema.names)


def units_of(records: pa.Table) -> dict[tuple[int, int], set[int]]:
    """Rows by (shard, unit)."""
    units: dict[tuple[int, int], set[int]] = defaultdict(set)
    columns = (records[name].to_pylist() for name in ("_shard", "_unit", "_row"))
    for shard, unit, row in zip(*columns, strict=True):
        units[shard, unit].add(row)
    return units


def whole_range(unit: tuple[int, int], rows: set[int], gone: set[int]) -> Key | None:
    """The unit's range, if these are all of its rows but those in `gone`. A unit's id is a hash of its range."""
    shard, name = unit
    for start in _outwards(min(rows), gone, -1):
        for last in _outwards(max(rows), gone, 1):
            if content_id("unit", shard, start, last + 1) == name:
                return (start, last + 1) if set(range(start, last + 1)) - rows <= gone else None
    return None


def _outwards(row: int, gone: set[int], step: int) -> Iterator[int]:
    yield row
    while row + step in gone:
        row += step
        yield row
