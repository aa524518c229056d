"""How parcels and spans travel between the processes of an engine: a parcel as one row, its table as Arrow IPC bytes,
so that an engine of rows can neither split nor merge nor half-deliver it."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipelines.engine.stage import Parcel
from pipelines.units import Bundle, Span, Unit

SCHEMA = pa.schema([pa.field("head", pa.string()), pa.field("rows", pa.large_binary())])


def span_to_json(span: Span) -> str:
    return json.dumps([_bundle_to_json(bundle) for bundle in span])


def span_from_json(text: str) -> Span:
    return tuple(_bundle_from_json(bundle) for bundle in json.loads(text))


def _bundle_to_json(bundle: Bundle) -> list[list[Any]]:
    return [[u.shard, u.path, u.start, u.stop, u.size, u.stamp, list(u.seek), u.stretch] for u in bundle]


def _bundle_from_json(data: list[list[Any]]) -> tuple[Unit, ...]:
    return tuple(
        Unit(shard, path, start, stop, size, stamp, (seek[0], seek[1]), stretch)
        for shard, path, start, stop, size, stamp, seek, stretch in data
    )


def encode(parcels: Sequence[Parcel]) -> pa.Table:
    """One row a parcel."""
    heads, bodies = [], []
    for p in parcels:
        head = [_bundle_to_json(p.bundle), p.failure, p.fatal, p.hung, p.seconds, p.counts, list(p.fragments)]
        heads.append(json.dumps(head))
        bodies.append(pa.nulls(1, pa.large_binary()) if p.rows is None else _to_ipc(p.rows))
    return pa.table([pa.array(heads, pa.string()), pa.chunked_array(bodies, pa.large_binary())], schema=SCHEMA)


def decode(batch: pa.Table) -> list[Parcel]:
    parcels = []
    for head, body in zip(batch["head"], batch["rows"], strict=True):
        bundle, failure, fatal, hung, seconds, counts, fragments = json.loads(head.as_py())
        rows = pa.ipc.open_stream(body.as_buffer()).read_all() if body.is_valid else None
        parcels.append(Parcel(_bundle_from_json(bundle), rows, failure, fatal, hung, seconds, counts, tuple(fragments)))
    return parcels


def _to_ipc(table: pa.Table) -> pa.Array:
    """The table's IPC bytes as an array of one value, without copying them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(struct.pack("<2q", 0, body.size)), body])
