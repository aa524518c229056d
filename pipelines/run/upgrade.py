"""What records of format 2 lack, read from the corpus: everything that a fresh run would write, but for the results.

A record whose file left the corpus gets what its neighbours in the table tell; its digests stay null, which means that
nobody knows. So does a record whose row no longer has the passage that was embedded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from actors.spec import ModelSpec
from pipelines.config import columns_in, is_template
from pipelines.content import DIGEST
from pipelines.corpus.broken import OF_ONE_FILE, OF_THE_STORE
from pipelines.corpus.columns import first_beyond_python
from pipelines.corpus.corpus import Corpus
from pipelines.engine.stage import Executor
from pipelines.errors import TableError, TooLarge, VectormillError
from pipelines.progress import Progress
from pipelines.run.prepare import Prepared
from pipelines.table import contents
from pipelines.table.fence import Fence
from pipelines.table.schema import NEW_FIELDS
from pipelines.table.table import LanceTable
from pipelines.table.upgrade import bring_over
from pipelines.tasks.task import Task
from pipelines.units import Range, Shard, Unit, cut, split

ROWS_AT_ONCE = 4_096  # whose texts are held
KEYS = ("_row", "_chunk", "_start", "_end")
READ = ("_text", "_carried", "_passages", "_passage", "_unknown")


def upgrade(prepared: Prepared, table: LanceTable, fence: Fence, executor: Executor, progress: Progress) -> None:
    """Bring the table over to format 3. Raises Superseded, TableError, StorageError, CorpusError."""
    refuse_ambiguous_times(prepared, table)
    progress.say(f"{table.address.location} is of format 2; reading the corpus to bring it over, embedding nothing")
    units = {found.unit: found.range for found in contents.units(table, prepared.by_id)}
    fill = Fill(prepared.corpus, prepared.carried, prepared.task, prepared.spec, prepared.by_id, units)
    bring_over(fence, prepared.schema, fill, executor.map)


def refuse_ambiguous_times(prepared: Prepared, table: LanceTable) -> None:
    """Releases before format 3 wrote all times of a template as numbers, where one that was read with them was beyond
    Python's years. Which they were is not known any more. Raises TableError where it may have been so."""
    texts = prepared.corpus.config.texts.values()
    names = {name for source in texts if is_template(source) for name in columns_in(source)}
    in_table = {found.shard for found in contents.units(table, prepared.by_id)} if names else set()
    for shard in (shard for shard in prepared.shards if shard.id in in_table):
        for schema in prepared.corpus.schemas([shard]):
            if isinstance(schema, VectormillError):
                continue  # a file that cannot be read any more tells nothing
            times = [field for field in schema if field.name in names and _is_time(field.type)]
            found = _beyond_python(prepared.corpus, shard, pa.schema(times)) if times else None
            if found is not None:
                name, row = found
                raise TableError(
                    f"{table.address.location}: row {row} of {shard.path} has a time in {name!r} that is beyond "
                    "Python's years. The release that made this table wrote the times of rows that were read together "
                    "with such a one as numbers, so some of its vectors may be of other texts than this release makes. "
                    "Embed into a new table.name"
                )


def _is_time(kind: pa.DataType) -> bool:
    return bool(pt.is_timestamp(kind) or pt.is_date(kind))


def _beyond_python(corpus: Corpus, shard: Shard, times: pa.Schema) -> tuple[str, int] | None:
    """(column, row) of the first such time of a shard."""
    there = Corpus(corpus.config.model_copy(update={"columns": tuple(times.names)}), corpus.storage)
    for unit, rows in _read(there, times, list(cut(shard, ROWS_AT_ONCE))):
        for name in times.names:
            if (row := first_beyond_python(rows[name])) is not None:
                return name, unit.start + row
    return None


def _read(corpus: Corpus, carried: pa.Schema, units: Sequence[Unit]) -> Iterator[tuple[Unit, pa.Table]]:
    """The rows of units of a shard; of units that come to more than is held at once, part by part; as many as can be
    read, as a file that cannot be read any more tells as little as one that is gone."""
    at = 0
    try:
        for at, rows in enumerate(corpus.read(units, carried), 1):
            yield units[at - 1], rows
    except TooLarge:
        yield from _read(corpus, carried, [*split(units[at]), *units[at + 1 :]])
    except OF_ONE_FILE as bad:
        if isinstance(bad, OF_THE_STORE):
            raise


@dataclass(frozen=True)
class Fill:
    """Gives a fragment's records NEW_FIELDS. units: of each unit in the table its range."""

    corpus: Corpus
    carried: pa.Schema
    task: Task
    spec: ModelSpec
    shards: Mapping[int, Shard]
    units: Mapping[int, Range]

    def __call__(self, records: pa.Table) -> pa.Table:
        count = len(records)
        ranges = np.array([self.units[unit] for unit in records["_unit"].to_pylist()], np.int64).reshape(count, 2)
        found = {field.name: pa.nulls(count, field.type) for field in NEW_FIELDS}
        found["_first"], found["_rows"] = pa.array(ranges[:, 0]), pa.array(ranges[:, 1] - ranges[:, 0])
        files = {shard: self.shards[shard].content for shard in self.shards}
        found["_file"] = pa.array([files.get(shard) for shard in records["_shard"].to_pylist()], pa.int64())
        parts = list(self._parts(records))
        for name in READ if parts else ():
            places = np.concatenate([places for places, _ in parts])
            values = pa.concat_arrays([made[name].combine_chunks() for _, made in parts])
            found[name] = _put(places, values, count)
        has_result = records["_reason"].combine_chunks().is_null()
        found["_passage"] = pc.if_else(has_result, found["_passage"], pa.scalar(None, DIGEST))
        return pa.table([found[field.name] for field in NEW_FIELDS], schema=pa.schema(NEW_FIELDS))

    def _parts(self, records: pa.Table) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """(positions of records, what a fresh run would write for them)."""
        shard_N, row_N = records["_shard"].to_numpy(), records["_row"].to_numpy()
        for shard in np.unique(shard_N).tolist():
            if shard not in self.shards:
                continue
            here_n = np.flatnonzero(shard_N == shard)
            units = list(_units(self.shards[shard], np.unique(row_N[here_n])))
            for unit, rows in _read(self.corpus, self.carried, units):
                inside_n = here_n[(row_N[here_n] >= unit.start) & (row_N[here_n] < unit.stop)]
                made = self.task.passages(self.spec, rows.drop_columns(self.carried.names))
                yield _matched(records, inside_n, made)


def _units(shard: Shard, rows: np.ndarray) -> Iterator[Unit]:
    """Stretches of the shard that hold these rows, each short enough."""
    edges = np.flatnonzero(np.diff(rows) > ROWS_AT_ONCE) + 1
    wanted = [(int(part[0]), int(part[-1]) + 1) for part in np.split(rows, edges) if len(part)]
    others = list(zip([0, *(stop for _, stop in wanted)], [*(start for start, _ in wanted), shard.rows], strict=True))
    return cut(shard, ROWS_AT_ONCE, [(start, stop) for start, stop in others if start < stop])


def _matched(records: pa.Table, places: np.ndarray, made: pa.Table) -> tuple[np.ndarray, pa.Table]:
    """The records at these positions that are still made of what they were made of, and what belongs to each."""
    keys = [name for name in KEYS if name in records.column_names and name in made.column_names]
    here = records.select(keys).take(pa.array(places)).append_column("_place", pa.array(places))
    lacking = {field.name: pa.nulls(len(made), field.type) for field in NEW_FIELDS if field.name in READ}
    there = pa.table(
        {name: made[name] for name in keys} | lacking | {n: made[n] for n in READ if n in made.column_names}
    )
    joined = here.join(there, keys=keys, join_type="inner")
    return joined["_place"].to_numpy(), joined.select(READ)


def _put(places: np.ndarray, values: pa.Array, count: int) -> pa.Array:
    """`count` values, these at their places, null elsewhere."""
    at = np.full(count, -1, np.int64)
    at[places] = np.arange(len(places))
    return values.take(pa.array(at, mask=at < 0))
