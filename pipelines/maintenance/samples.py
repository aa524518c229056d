"""What `verify` proves on a random sample: rows read from the corpus again, and their results made again by the slow
reference path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.checks.check import Check
from actors.checks.layouts import LOGIT_TOLERANCE
from pipelines.config import DOCUMENT, QUERY
from pipelines.maintenance.values import python_rows
from pipelines.run.prepare import Prepared
from pipelines.table.schema import results_of
from pipelines.table.table import LanceTable
from pipelines.tasks.pairs import one_a_candidate
from pipelines.units import single_row

LEAST_COSINE = {("float32", "float32"): 0.9999, ("float32", "float16"): 0.9995}
# Between two implementations of many layers, each with its own rounding; another row's or model's vector is far below.
LEAST_COSINE_HALF = {"bfloat16": 0.995, "float16": 0.995, "float8": 0.95}
UNSEEN_REASONS = ("duplicate_id", "non_finite", "crashes_worker", "hangs_worker")  # not seen by reading one row alone
LENGTH_TOLERANCE = 0.02  # matters for models that do not normalise
Record = Mapping[str, Any]
Doubts = dict[str, Sequence[bool] | np.ndarray]


def sample_again(table: LanceTable, prepared: Prepared, size: int, chance: np.random.Generator) -> Check:
    """Read random rows from the corpus again, give them to the reference path, compare with what is stored."""
    embeds = prepared.task.name == "embed"
    name = "sample embedded again" if embeds else "sample scored again"
    result = results_of(table.schema)[0]
    records = _random_records(table, prepared, f"_reason IS NULL AND {result} IS NOT NULL", size, chance)
    if not records:
        return Check(name, True, f"no {prepared.task.result}s of this corpus in the table")
    rows = _read_again(records, prepared)
    found, doubts = (_vectors if embeds else _scores)(table, prepared, records, rows)
    carried = ["id", *prepared.carried.names]
    doubts["have another id or other columns in the corpus"] = [
        repr(python_rows(row.select(carried))[0]) != repr({c: r[c] for c in carried})
        for row, r in zip(rows, records, strict=True)
    ]
    said = [f"{int(np.sum(which))} {what}" for what, which in doubts.items() if np.any(which)]
    return Check(name, not said, "; ".join([f"{len(records)} records, {found}", *said]))


def _vectors(table: LanceTable, prepared: Prepared, records: list[Record], rows: list[pa.Table]) -> tuple[str, Doubts]:
    """What was found, and by what is wrong which records are to be doubted."""
    from actors.embedder.reference import EmbedReference

    texts = [row["text"][0].as_py() or "" for row in rows]
    passages = [text[r["_start"] : r["_end"]] for text, r in zip(texts, records, strict=True)]
    vectors = EmbedReference(prepared.spec).embed(passages)
    stored = np.array([r["vector"] for r in records], np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector or one of NaN has no cosine: not alike
        lengths, wanted = np.linalg.norm(stored, axis=1), np.linalg.norm(vectors, axis=1)
        cosine = np.nan_to_num(np.sum(stored * vectors, axis=1) / (lengths * wanted), nan=-1.0)
        alike = np.abs(lengths / wanted - 1) < LENGTH_TOLERANCE
    identity = prepared.metadata.identity
    dtype = identity["dtype"]
    least = LEAST_COSINE_HALF.get(dtype) or LEAST_COSINE[dtype, identity["vector_dtype"]]
    ends = _ends(table, records)
    doubts: Doubts = {
        "are not the vectors of their rows": ~(alike & (cosine >= least)),
        "are of rows whose passages do not reach the end of the text": [
            ends[r["_shard"], r["_row"]] != len(text) for text, r in zip(texts, records, strict=True)
        ],
    }
    return f"lowest cosine {cosine.min():.6f} (at least {least})", doubts


def _scores(table: LanceTable, prepared: Prepared, records: list[Record], rows: list[pa.Table]) -> tuple[str, Doubts]:
    """As `_vectors`."""
    from actors.reranker.reference import RerankReference  # torch

    pairs: list[tuple[str, str]] = []
    there: list[bool] = []
    for row, r in zip(rows, records, strict=True):
        candidates = one_a_candidate(row)
        there.append(r["_chunk"] < len(candidates) and candidates["_reason"][r["_chunk"]].as_py() is None)
        place = r["_chunk"] if there[-1] else 0
        pairs.append(tuple(candidates[name][place].as_py() or "" for name in (QUERY, DOCUMENT)))  # type: ignore[arg-type]
    logits = RerankReference(prepared.spec).logits(pairs, prepared.job.model.instruction)
    stored = np.array([r["logit"] for r in records], np.float32)
    errors = np.nan_to_num(np.abs(stored - logits), nan=np.inf)
    most = LOGIT_TOLERANCE[prepared.metadata.identity["dtype"]]
    numbers = _records_of_rows(table, records)
    doubts: Doubts = {
        "are not the scores of their pairs": ~(np.array(there) & (errors <= most)),
        "are of rows with more or fewer candidates": [
            numbers[r["_shard"], r["_row"]] != len(one_a_candidate(row)) for row, r in zip(rows, records, strict=True)
        ],
    }
    return f"largest error of a logit {errors.max():.6f} (at most {most})", doubts


def bad_sample(table: LanceTable, prepared: Prepared, size: int, chance: np.random.Generator) -> Check:
    """Records without a result must have a reason in the corpus, as far as reading one row alone can tell."""
    only = f"_reason NOT IN ({', '.join(repr(reason) for reason in UNSEEN_REASONS)})"
    records = _random_records(table, prepared, only, size, chance)
    good = sum(_reason(row, r) is None for row, r in zip(_read_again(records, prepared), records, strict=True))
    found = f"{len(records)} rows with a reason read again, {good} have none in the corpus"
    return Check("bad rows are bad", good == 0, found)


def _reason(row: pa.Table, record: Record) -> str | None:
    if QUERY in row.column_names:
        row = one_a_candidate(row)
        return row["_reason"][record["_chunk"]].as_py() if record["_chunk"] < len(row) else None
    return row["_reason"][0].as_py()


def _random_records(
    table: LanceTable, prepared: Prepared, only: str, size: int, chance: np.random.Generator
) -> list[Record]:
    """`size` records of the corpus's shards that a filter lets through, each as likely as any other: those that draw
    the smallest random keys."""
    shards = pa.array(list(prepared.by_id()), pa.int64())
    keys, addresses = np.zeros(0), np.zeros(0, np.int64)
    scan = table.dataset.scanner(columns=["_shard"], filter=only, with_row_id=True, batch_size=65536)
    for batch in scan.to_batches():
        fit = batch["_rowid"].filter(pc.is_in(batch["_shard"], value_set=shards)).to_numpy(zero_copy_only=False)
        keys, addresses = np.concatenate([keys, chance.random(len(fit))]), np.concatenate([addresses, fit])
        first = np.argsort(keys)[:size]
        keys, addresses = keys[first], addresses[first]
    if not len(addresses):
        return []
    place = [name for name in ("_shard", "_row", "_chunk", "_start", "_end") if name in table.schema.names]
    columns = ["id", *prepared.carried.names, *results_of(table.schema), *place]
    only = f"_rowid IN ({', '.join(str(int(address)) for address in addresses)})"
    return list(python_rows(table.dataset.to_table(columns=columns, filter=only)))


def _ends(table: LanceTable, records: list[Record]) -> dict[tuple[int, int], int]:
    """Where the last passage of each record's row ends, by (shard, row)."""
    ends: dict[tuple[int, int], int] = defaultdict(int)
    for r in _of_rows(table, records, ["_shard", "_row", "_end"]):
        ends[r["_shard"], r["_row"]] = max(ends[r["_shard"], r["_row"]], r["_end"])
    return ends


def _records_of_rows(table: LanceTable, records: list[Record]) -> dict[tuple[int, int], int]:
    """How many records each record's row has, by (shard, row)."""
    numbers: dict[tuple[int, int], int] = defaultdict(int)
    for r in _of_rows(table, records, ["_shard", "_row"]):
        numbers[r["_shard"], r["_row"]] += 1
    return numbers


def _of_rows(table: LanceTable, records: list[Record], columns: list[str]) -> Iterator[Record]:
    """All records of these records' rows, and some of other rows."""
    shards, rows = ({str(record[name]) for record in records} for name in ("_shard", "_row"))
    only = f"_shard IN ({', '.join(shards)}) AND _row IN ({', '.join(rows)})"
    yield from table.dataset.to_table(columns=columns, filter=only).to_pylist()


def _read_again(records: list[Record], prepared: Prepared) -> list[pa.Table]:
    """The row of the corpus behind each record, as a table of one row."""
    shards = prepared.by_id()
    places = sorted({(r["_shard"], r["_row"]) for r in records})
    found: dict[tuple[int, int], pa.Table] = {}
    for shard_id in dict.fromkeys(shard for shard, _ in places):
        units = [single_row(shards[shard_id], row) for shard, row in places if shard == shard_id]
        for unit, rows in zip(units, prepared.corpus.read(units, prepared.carried), strict=True):
            found[shard_id, unit.start] = rows
    return [found[r["_shard"], r["_row"]] for r in records]
