"""What `verify` proves on a random sample: rows read from the corpus again, and their results made again by the slow
reference path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.checks.check import Check
from pipelines.run.prepare import Prepared
from pipelines.table.table import LanceTable
from pipelines.tasks.task import Drawn, JobTask, Record
from pipelines.units import single_row

# Not seen by reading one row alone; the first one only an older release gave.
UNSEEN_REASONS = ("duplicate_id", "non_finite", "crashes_worker", "hangs_worker")
PLACE = ("_shard", "_row", "_chunk")
DIGESTED = ("_text", "_passage", "_passages")


def sample_again(table: LanceTable, prepared: Prepared, task: JobTask, size: int, chance: np.random.Generator) -> Check:
    """Read random rows from the corpus again, give them to the reference path, compare with what is stored."""
    name = f"sample {task.words.done} again"
    columns = task.results.columns
    records = _random_records(table, prepared, f"_reason IS NULL AND {columns[0]} IS NOT NULL", columns, size, chance)
    if not records:
        return Check(name, True, f"no {task.words.results} of this corpus in the table")
    drawn = Drawn(records, _read_again(records, prepared), _siblings(table, records))
    again = task.again(drawn, prepared.spec, prepared.metadata)
    carried = ["id", *prepared.carried.names]
    changed = [
        repr(python_rows(row.select(carried))[0]) != repr({c: r[c] for c in carried})
        for row, r in zip(drawn.rows, records, strict=True)
    ]
    doubts = {**again.doubts, "have another id or other columns in the corpus": changed}
    if table.metadata.format > 2:
        doubts["have another text in the corpus than was read"] = _other_texts(drawn, task, prepared)
    said = [f"{int(np.sum(which))} {what}" for what, which in doubts.items() if np.any(which)]
    return Check(name, not said, "; ".join([f"{len(records)} records, {again.found}", *said]))


def _other_texts(drawn: Drawn, task: JobTask, prepared: Prepared) -> list[bool]:
    """Whether a record's digests are not those of the row and the passage that are there now."""
    found = []
    for row, record in zip(drawn.rows, drawn.records, strict=True):
        made = task.passages(prepared.spec, row.drop_columns(prepared.carried.names)).to_pylist()
        mine = [one for one in made if one["_chunk"] == record["_chunk"]]
        said = [{name: one[name] for name in DIGESTED} for one in mine]
        found.append(said != [{name: record[name] for name in DIGESTED}])
    return found


def bad_sample(table: LanceTable, prepared: Prepared, task: JobTask, size: int, chance: np.random.Generator) -> Check:
    """Records without a result must have a reason in the corpus, as far as reading one row alone can tell."""
    only = f"_reason NOT IN ({', '.join(repr(reason) for reason in UNSEEN_REASONS)})"
    records = _random_records(table, prepared, only, (), size, chance)
    rows = _read_again(records, prepared)
    good = sum(task.reason_of(row, r["_chunk"]) is None for row, r in zip(rows, records, strict=True))
    found = f"{len(records)} rows with a reason read again, {good} have none in the corpus"
    return Check("bad rows are bad", good == 0, found)


def _provenance(table: LanceTable) -> list[str]:
    """The columns that say where in the corpus a record comes from."""
    return [name for name in (*PLACE, "_start", "_end") if name in table.schema.names]


def _random_records(
    table: LanceTable,
    prepared: Prepared,
    only: str,
    results: Sequence[str],
    size: int,
    chance: np.random.Generator,
) -> list[Record]:
    """`size` records of the corpus's shards that a filter lets through, each as likely as any other: those that draw
    the smallest random keys."""
    shards = pa.array(list(prepared.by_id), pa.int64())
    keys, addresses = np.zeros(0), np.zeros(0, np.int64)
    for batch in table.records(["_shard"], only, batch_rows=65536, row_ids=True):
        fit = batch["_rowid"].filter(pc.is_in(batch["_shard"], value_set=shards)).to_numpy(zero_copy_only=False)
        keys, addresses = np.concatenate([keys, chance.random(len(fit))]), np.concatenate([addresses, fit])
        first = np.argsort(keys)[:size]
        keys, addresses = keys[first], addresses[first]
    if not len(addresses):
        return []
    digests = [name for name in DIGESTED if name in table.schema.names]
    columns = ["id", *prepared.carried.names, *results, *digests, *_provenance(table)]
    only = f"_rowid IN ({', '.join(str(int(address)) for address in addresses)})"
    return list(python_rows(table.read(columns, only)))


def _siblings(table: LanceTable, records: list[Record]) -> list[list[Record]]:
    """All records of each record's row."""
    shards, rows = ({str(record[name]) for record in records} for name in ("_shard", "_row"))
    only = f"_shard IN ({', '.join(shards)}) AND _row IN ({', '.join(rows)})"
    by_row: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for one in table.read(_provenance(table), only).to_pylist():
        by_row[one["_shard"], one["_row"]].append(one)
    return [by_row[record["_shard"], record["_row"]] for record in records]


def _read_again(records: list[Record], prepared: Prepared) -> list[pa.Table]:
    """The row of the corpus behind each record, as a table of one row."""
    shards = prepared.by_id
    places = sorted({(r["_shard"], r["_row"]) for r in records})
    found: dict[tuple[int, int], pa.Table] = {}
    for shard_id in dict.fromkeys(shard for shard, _ in places):
        units = [single_row(shards[shard_id], row) for shard, row in places if shard == shard_id]
        for unit, rows in zip(units, prepared.corpus.read(units, prepared.carried), strict=True):
            found[shard_id, unit.start] = rows
    return [found[r["_shard"], r["_row"]] for r in records]


def python_rows(rows: pa.Table) -> list[dict[str, Any]]:
    """A dict a row, also of times that Python cannot hold: after the year 9999, or of an unknown zone. Dates, times and
    durations, also inside lists, maps and structs, come as counts of their unit."""
    counted = pa.schema([field.with_type(_counted(field.type)) for field in rows.schema])
    taken: list[dict[str, Any]] = rows.cast(counted).to_pylist()
    return taken


def _counted(kind: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_temporal(kind) and not types.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if types.is_dictionary(kind):
        return _counted(kind.value_type)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(_counted(kind.key_type), _counted(kind.item_type))
    if types.is_fixed_size_list(kind):
        return pa.list_(_counted(kind.value_type), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(_counted(kind.value_type))
    return pa.list_(_counted(kind.value_type)) if types.is_list(kind) else kind
