"""`vectormill verify`: prove that the table holds each row of the corpus once, by this model, and nothing else.

Trusts neither run records nor the count cache: the corpus is listed and counted again, the table is scanned, and a
random sample is read from the corpus and embedded again by the slow reference path."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from actors.reference import Reference
from pipelines.checkpoint import Certificate
from pipelines.config import JobConfig
from pipelines.display import Display
from pipelines.embed import account
from pipelines.executor import Executor
from pipelines.lance_table import LanceTable
from pipelines.plan import single_row
from pipelines.prepare import Prepared, open_executor, prepare
from pipelines.status import open_table

RECORDS_PER_PASS = 20_000_000  # of a GROUP BY over all records: bounds its memory to a few GB
NORM_TOLERANCE = {"float32": 1e-3, "float16": 5e-3}
LEAST_COSINE = {("float32", "float32"): 0.9999, ("float32", "float16"): 0.9995}
LEAST_COSINE_BF16 = 0.999


@dataclass(frozen=True)
class Check:
    """One thing proved or doubted. `found` is what was seen, in words."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Verdict:
    checks: tuple[Check, ...]
    certificate: Certificate

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "checks": [asdict(check) for check in self.checks],
            "certificate": self.certificate.to_dict(),
        }


def verify(job: JobConfig, display: Display, sample: int = 32, seed: int | None = None) -> Verdict:
    """Run every check. Raises FingerprintMismatch when the job's model is not the table's, TableError without one."""
    with display.engine_output(), open_executor(job) as executor:
        return _verify(job, executor, display, sample, random.Random(seed))


def _verify(job: JobConfig, executor: Executor, display: Display, sample: int, chance: random.Random) -> Verdict:
    display.say(f"listing and counting {job.corpus.uri} again")
    prepared = prepare(job, executor, fresh_counts=True)
    table = open_table(prepared.address)
    steps: list[Callable[[], Check]] = [
        lambda: _rows_once(table),
        lambda: _ids_once(table),
        lambda: _vectors(table),
        lambda: _files(table),
        lambda: _sample(table, prepared, sample, chance),
    ]
    certificate = account(prepared, table)
    checks = [Check("fingerprint", True, f"{table.metadata.fingerprint} is this job's"), *_sums(certificate)]
    for step in steps:
        check = step()
        display.say(f"checked {check.name}: {check.found}")
        checks.append(check)
    return Verdict(tuple(checks), certificate)


def _sums(c: Certificate) -> Iterator[Check]:
    accounted = f"{c.rows:,} rows = {c.embedded_rows:,} embedded + {c.bad_rows:,} with a reason"
    if c.missing_rows:
        accounted += f" + {c.missing_rows:,} MISSING (run `vectormill embed` again)"
    if c.deleted_rows:
        accounted += f" + {c.deleted_rows:,} deleted from the table since"
    yield Check("every row accounted for", c.missing_rows == 0 and c.deleted_rows == 0, accounted)
    yield Check("no row in two units", c.overlapping_rows == 0, f"{c.overlapping_rows:,} rows claimed twice")
    found = f"{c.stale_rows:,} rows of shards that changed or left the corpus"
    if c.stale_rows:
        found += "; `vectormill embed --set run.stale_rows=delete` removes them"
    yield Check("no row without a source", c.stale_rows == 0, found)


def _rows_once(table: LanceTable) -> Check:
    doubled = 0
    passes = table.count_rows() // RECORDS_PER_PASS + 1
    for number in range(passes):
        doubled += table.count(
            f"SELECT _shard, _row, _chunk FROM dataset WHERE _row % {passes} = {number} "
            "GROUP BY _shard, _row, _chunk HAVING count(*) > 1"
        )
    return Check("each record once", doubled == 0, f"{doubled:,} (shard, row, chunk) triples occur more than once")


def _ids_once(table: LanceTable) -> Check:
    doubled = 0
    passes = table.count_rows() // RECORDS_PER_PASS + 1
    for number in range(passes):
        doubled += table.count(
            f"SELECT id FROM dataset WHERE _reason IS NULL AND _chunk = 0 AND "
            f"(ascii(substr(md5(id), 1, 1)) * 256 + ascii(substr(md5(id), 2, 1))) % {passes} = {number} "
            "GROUP BY id HAVING count(*) > 1"
        )
    found = f"{doubled:,} ids name more than one embedded row"
    return Check("ids unique", doubled == 0, found + ("; corpus.id must be unique in the corpus" if doubled else ""))


def _vectors(table: LanceTable) -> Check:
    """Finite, of unit length, and null exactly where a reason is given."""
    field = table.schema.field("vector").type
    stored = "float16" if field.value_type == pa.float16() else "float32"
    wrong = checked = 0
    worst = 0.0
    for batch in table.dataset.scanner(columns=["vector", "_reason"], batch_size=8192).to_batches():
        vector, reason = batch["vector"], batch["_reason"]
        wrong += int(np.sum(vector.is_null().to_numpy(False) != reason.is_valid().to_numpy(False)))
        values = vector.drop_null().flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        norms = np.linalg.norm(values.reshape(-1, field.list_size), axis=1)
        off = np.abs(norms - 1.0)
        wrong += int(np.sum(~(off <= NORM_TOLERANCE[stored])))  # ~ catches NaN
        worst = max(worst, float(off.max(initial=0.0)))
        checked += len(norms)
    found = f"{checked:,} vectors of {field.list_size} dimensions, {wrong:,} wrong; norms within {worst:.1e} of 1"
    return Check("vectors finite and of unit length", wrong == 0, found)


def _files(table: LanceTable) -> Check:
    try:
        table.dataset.validate()
    except (OSError, ValueError) as bad:
        return Check("files of the table", False, str(bad).splitlines()[0])
    return Check("files of the table", True, f"{len(table.dataset.get_fragments()):,} fragment(s) valid")


def _sample(table: LanceTable, prepared: Prepared, size: int, chance: random.Random) -> Check:
    """Read random rows from the corpus again, embed them by the reference path, compare with what is stored."""
    records = _random_records(table, size, chance)
    if not records:
        return Check("sample embedded again", True, "no vectors in the table")
    shards = prepared.by_id()
    records = [r for r in records if r["_shard"] in shards]
    texts, ids_match = _texts(records, prepared)
    vectors = Reference(prepared.spec).embed(texts)
    stored = np.array([r["vector"] for r in records], np.float32)
    cosine = np.sum(stored * vectors, axis=1) / np.linalg.norm(stored, axis=1)
    identity = prepared.metadata.identity
    least = LEAST_COSINE.get((identity["dtype"], identity["vector_dtype"]), LEAST_COSINE_BF16)
    ok = bool(np.all(cosine >= least)) and ids_match
    found = f"{len(records)} records, lowest cosine {cosine.min():.6f} (at least {least})"
    return Check("sample embedded again", ok, found + ("" if ids_match else "; ids differ from the corpus"))


def _random_records(table: LanceTable, size: int, chance: random.Random) -> list[dict[str, Any]]:
    total = table.count_rows()
    offsets = sorted(chance.sample(range(total), min(total, 2 * size)))
    columns = ["id", "vector", "_shard", "_row", "_start", "_end", "_reason"]
    taken = table.dataset.take(offsets, columns=columns).to_pylist()
    return [record for record in taken if record["_reason"] is None][:size]


def _texts(records: list[dict[str, Any]], prepared: Prepared) -> tuple[list[str], bool]:
    """The embedded text of each record, from the corpus, and whether the ids are the same there."""
    shards = prepared.by_id()
    places = sorted({(r["_shard"], r["_row"]) for r in records})
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for shard_id in dict.fromkeys(shard for shard, _ in places):
        units = [single_row(shards[shard_id], row) for shard, row in places if shard == shard_id]
        for unit, rows in zip(units, prepared.corpus.read(units, prepared.carried), strict=True):
            found[shard_id, unit.start] = rows.select(["id", "text"]).to_pylist()[0]
    read = [found[r["_shard"], r["_row"]] for r in records]
    same = all(row["id"] == record["id"] for row, record in zip(read, records, strict=True))
    return [(row["text"] or "")[r["_start"] : r["_end"]] for row, r in zip(read, records, strict=True)], same
