"""Brings a table of format 2 over to format 3 where it stands: no result is made again, no data file is written anew,
and its indexes keep their rows.

First what changes nothing for anybody who reads: our columns may be null, the fingerprint goes to the field of the
first result. Then one commit adds NEW_FIELDS with their values, for all fragments at once (Lance's `Merge`): it lands
only if no record was added, changed or removed since the version that it was computed from, so it is computed again
from the newest until it does. A table has all of these columns or none, and that is what says its format; a run that is
killed on the way leaves one of format 2.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
from lance.commit import CommitConflictError
from lance.fragment import FragmentMetadata

from pipelines.errors import TableChanged
from pipelines.storage.retry import Backoff, with_backoff
from pipelines.table.fence import Fence
from pipelines.table.files import RUN_PROPERTY, TableAddress, reading
from pipelines.table.schema import NEW_FIELDS

ATTEMPTS = 20  # each time somebody else committed while the values were computed
PLACES = ("_shard", "_unit", "_row", "_chunk", "_start", "_end", "_reason")
Fill = Callable[[pa.Table], pa.Table]  # of a fragment's records with PLACES: NEW_FIELDS, in their order
Filled = tuple[str, Any]  # the fragment's metadata with its new file, as JSON; the schema that the table has with it
Map = Callable[[Callable[[int], Filled], Sequence[int]], Iterable[Filled]]


class FillFragment:
    """Computes and writes the new columns of one fragment. Picklable: a worker may do it."""

    def __init__(self, address: TableAddress, version: int, fill: Fill):
        self._address = replace(address, version=version)
        self._fill = fill

    def __call__(self, fragment: int) -> Filled:
        with reading(self._address):
            dataset = self._address.open()
            found = dataset.get_fragment(fragment)
            there = [name for name in PLACES if name in dataset.schema.names]
            values = self._fill(found.scanner(columns=there).to_table()).combine_chunks()
            at = 0

            def part(batch: pa.RecordBatch) -> pa.RecordBatch:
                nonlocal at
                at += batch.num_rows
                return values.slice(at - batch.num_rows, batch.num_rows).to_batches()[0]

            # With the schema given, or Lance would call it on the first records to see what it gives.
            made = lance.batch_udf(output_schema=pa.schema(NEW_FIELDS))(part)
            metadata, schema = found.merge_columns(made, columns=["_row"])
        return json.dumps(metadata.to_json()), schema


def bring_over(fence: Fence, schema: pa.Schema, fill: Fill, run_map: Map) -> None:
    """Make the table one of format 3. Raises Superseded if a newer run took over, TableChanged, StorageError.

    schema: of a new table of this job. run_map: applies a function to many items, as an executor's `map`."""
    handle = fence.handle
    location = handle.address.location
    backoff = Backoff("bringing the table over", location)
    for _ in range(ATTEMPTS):
        fence.prove()
        with reading(handle.address):
            _loosen(handle.dataset, schema)
            fence.identify()
            version = handle.dataset.version
            fragments = [fragment.fragment_id for fragment in handle.dataset.get_fragments()]
            if not fragments:
                handle.dataset.add_columns(pa.schema(NEW_FIELDS))
                fence.identify()
                return
        filled = list(run_map(FillFragment(handle.address, version, fill), fragments))
        operation = lance.LanceOperation.Merge([FragmentMetadata.from_json(one) for one, _ in filled], filled[-1][1])
        stamped = {RUN_PROPERTY: fence.run, "vectormill.time": datetime.now(UTC).isoformat()}
        transaction = lance.Transaction(version, operation, str(uuid.uuid4()), transaction_properties=stamped)
        try:
            handle.dataset = lance.LanceDataset.commit(handle.dataset, transaction)
            fence.identify()
            return
        except OSError as bad:  # somebody wrote, or the answer was lost
            if not isinstance(bad, CommitConflictError):
                backoff.failed(bad)
            handle.dataset = with_backoff("opening the table", location, handle.address.open)
            if all(one.name in handle.dataset.schema.names for one in NEW_FIELDS):
                fence.identify()
                return
    raise TableChanged(f"{location}: others keep writing to it; stop them, and run the same command again")


def _loosen(dataset: lance.LanceDataset, schema: pa.Schema) -> None:
    """Let our columns be null, and put the fingerprint and marks where they belong. Done again it changes nothing."""
    there = [field for field in schema if field.name in dataset.schema.names]
    strict = [field.name for field in there if not dataset.schema.field(field.name).nullable]
    if strict:
        dataset.alter_columns(*({"path": name, "nullable": True} for name in strict))
    dataset.update_field_metadata({field.name: _as_text(field.metadata) for field in there if field.metadata})
    dataset.update_schema_metadata(_as_text(schema.metadata))


def _as_text(said: Mapping[bytes, bytes]) -> dict[str, str | None]:
    return {key.decode(): value.decode() for key, value in said.items()}
