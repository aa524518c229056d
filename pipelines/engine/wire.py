"""How parcels, what became of them, and spans travel between the processes of an engine: each as one row, a table as
Arrow IPC bytes, so that an engine of rows can neither split nor merge nor half-deliver it."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import pyarrow as pa

from actors.spec import ModelError
from pipelines.engine.stage import Failed, Item, Parcel, Receipt, Tally
from pipelines.errors import VectormillError
from pipelines.units import Bundle, Span, Unit

SCHEMA = pa.schema(
    [pa.field("head", pa.string()), *(pa.field(name, pa.large_binary()) for name in ("rows", "carried"))]
)

PAIRS = ("replicas", "facts")  # sets in a tally
ALL_FED = Receipt((), ())  # what becomes of the null behind the last span: all before it was handed out


def heads(spans: Sequence[str | None]) -> pa.Table:
    """What read tasks begin with, a row each."""
    return pa.table({"span": pa.array(spans, pa.string())})


def span_to_json(span: Span) -> str:
    return json.dumps([_bundle_to_json(bundle) for bundle in span])


def span_from_json(text: str) -> Span:
    return tuple(_bundle_from_json(bundle) for bundle in json.loads(text))


def _bundle_to_json(bundle: Bundle) -> list[list[Any]]:
    return [[u.shard, u.path, u.start, u.stop, u.size, u.stamp, list(u.seek), u.stretch, u.file] for u in bundle]


def _bundle_from_json(data: list[list[Any]]) -> tuple[Unit, ...]:
    return tuple(
        Unit(shard, path, start, stop, size, stamp, (seek[0], seek[1]), stretch, file=file)
        for shard, path, start, stop, size, stamp, seek, stretch, file in data
    )


def encode(items: Sequence[Item]) -> pa.Table:
    """One row an item."""
    heads = pa.array([json.dumps(_head(item)) for item in items], pa.string())
    tables = [(item.rows, item.carried) if isinstance(item, Parcel) else (None, None) for item in items]
    bodies = [pa.chunked_array(map(_to_ipc, column), pa.large_binary()) for column in zip(*tables, strict=True)]
    return pa.table([heads, *bodies], schema=SCHEMA) if items else SCHEMA.empty_table()


def _head(item: Item) -> dict[str, Any]:
    head: dict[str, Any] = {"bundle": _bundle_to_json(item.bundle)}
    match item:
        case Failed():
            fatal = item.fatal and item.fatal.__name__
            return head | {"why": item.why, "fatal": fatal, "flags": [item.hung, item.unread, item.too_large]}
        case Receipt():
            return head | {"fragments": list(item.fragments), "tally": _tally_to_json(item.tally)}
    return head | {"tally": _tally_to_json(item.tally)}


def decode(batch: pa.Table) -> list[Item]:
    items: list[Item] = []
    for text, rows, carried in zip(batch["head"], batch["rows"], batch["carried"], strict=True):
        head = json.loads(text.as_py())
        bundle = _bundle_from_json(head["bundle"])
        if "why" in head:
            items.append(Failed(bundle, head["why"], _error_named(head["fatal"]), *head["flags"]))
        elif "fragments" in head:
            items.append(Receipt(bundle, tuple(head["fragments"]), _tally_from_json(head["tally"])))
        else:
            items.append(Parcel(bundle, _from_ipc(rows), _tally_from_json(head["tally"]), _from_ipc(carried)))
    return items


def _error_named(name: str | None) -> type[Exception] | None:
    """By its name, in the trees of what a run can say."""
    kinds: list[type[Exception]] = [VectormillError, ModelError]
    for kind in kinds:
        if kind.__name__ == name:
            return kind
        kinds += kind.__subclasses__()
    return VectormillError if name else None


def _tally_to_json(tally: Tally) -> dict[str, Any]:
    found = {one.name: getattr(tally, one.name) for one in fields(tally)}
    return found | {name: sorted(getattr(tally, name)) for name in PAIRS}


def _tally_from_json(data: dict[str, Any]) -> Tally:
    counters = {name: Counter(data[name]) for name in ("reasons", "retries")}
    pairs = {name: frozenset((first, second) for first, second in data[name]) for name in PAIRS}
    return Tally(**{**data, **counters, **pairs})


def _from_ipc(body: pa.LargeBinaryScalar) -> pa.Table | None:
    return pa.ipc.open_stream(body.as_buffer()).read_all() if body.is_valid else None


def _to_ipc(table: pa.Table | None) -> pa.Array:
    """The table's IPC bytes as an array of one value, without copying them; null for none."""
    if table is None:
        return pa.nulls(1, pa.large_binary())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(struct.pack("<2q", 0, body.size)), body])
