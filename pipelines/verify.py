"""`vectormill verify`: prove that the table holds each row of the corpus once, by this model, and nothing else.

Trusts neither run records nor the count cache: the corpus is listed and counted again, the table is scanned, and a
random sample is read from the corpus and embedded again by the slow reference path."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.reference import Reference
from pipelines.account import account
from pipelines.certificate import PAIRS, Certificate, differences, parse
from pipelines.config import JobConfig
from pipelines.digests import as_text
from pipelines.display import Display
from pipelines.executor import Executor
from pipelines.lance_files import TableAddress, reading
from pipelines.lance_table import LanceTable
from pipelines.plan import single_row
from pipelines.prepare import Prepared, open_executor, prepare
from pipelines.scan import Scan, scan
from pipelines.status import open_table
from pipelines.storage import read_bytes
from pipelines.values import python_rows

RECORDS_PER_PASS = 20_000_000  # of a GROUP BY over all records: bounds its memory to a few GB
LEAST_COSINE = {("float32", "float32"): 0.9999, ("float32", "float16"): 0.9995}
# Between two implementations of many layers, each with its own rounding; another row's or model's vector is far below.
LEAST_COSINE_HALF = {"bfloat16": 0.995, "float16": 0.995, "float8": 0.95}
UNSEEN_REASONS = ("duplicate_id", "non_finite", "crashes_worker")  # not seen by reading one row alone
LENGTH_TOLERANCE = 0.02  # matters for models that do not normalise
Vectors = Literal["exact", "rounded"]
ONLY_PAIRS = (
    "right after two runs with a real model, which round differently (accept it with --vectors rounded), wrong of one "
    "table at two times"
)


@dataclass(frozen=True)
class Check:
    """One thing proved or doubted. `found` is what was seen, in words."""

    name: str
    ok: bool
    found: str


@dataclass(frozen=True)
class Other:
    """A certificate to compare with. vectors: whether they must be equal in every bit (two looks at one table; runs
    with the fake model), or may be rounded otherwise, as by two runs on GPUs."""

    name: str
    vectors: Vectors
    document: Mapping[str, Any]


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


def verify(
    job: JobConfig,
    display: Display,
    sample: int = 32,
    seed: int | None = None,
    against: str | None = None,
    vectors: Vectors = "exact",
) -> Verdict:
    """Run every check; `against` is the file of another certificate. Raises FingerprintMismatch when the job's model
    is not the table's, TableError when there is no table or it cannot be read, ConfigError for a file that holds no
    certificate. Writes nothing to the table."""
    with display.engine_output():
        address = TableAddress(job.table.location, job.storage)
        open_table(address)  # this and `parse` before minutes of counting
        other = Other(against, vectors, parse(read_bytes(against, job.storage), against)) if against else None
        with open_executor(job) as executor, reading(address):
            return _verify(job, executor, display, other, (sample, np.random.default_rng(seed)))


def _verify(
    job: JobConfig,
    executor: Executor,
    display: Display,
    other: Other | None,
    draw: tuple[int, np.random.Generator],
) -> Verdict:
    display.say(f"listing and counting {job.corpus.uri} again")
    prepared = prepare(job, executor, fresh_counts=True)
    table = open_table(prepared.address)
    display.say("checking every record")
    seen = scan(table, prepared.by_id())
    certificate = replace(account(prepared, table), id_digest=as_text(seen.ids), pair_digest=as_text(seen.pairs))
    checks = [Check("fingerprint", True, f"{table.metadata.fingerprint} is this job's"), *_sums(certificate)]
    checks += _records(table, seen)
    steps: dict[str, Callable[[], Check]] = {
        "that no record is doubled or lacks a passage": lambda: _rows_once(table),
        "that ids are unique": lambda: _ids_once(table),
        "the table's files": lambda: _files(table),
        "a sample against the reference": lambda: _sample(table, prepared, *draw),
        "a sample of the bad rows": lambda: _bad_sample(table, prepared, *draw),
    }
    for what, step in steps.items():
        display.say(f"checking {what}")
        checks.append(step())
    if other is not None:
        checks += _as_other(certificate, other)
    return Verdict(tuple(checks), certificate)


def _sums(c: Certificate) -> Iterator[Check]:
    accounted = f"{c.rows:,} rows = {c.embedded_rows:,} embedded + {c.bad_rows:,} with a reason"
    if c.deleted_rows > 0:
        accounted += f" + {c.deleted_rows:,} deleted from the table since"
    if c.missing_rows > 0:
        accounted += f" + {c.missing_rows:,} MISSING (run `vectormill embed` again)"
    if (extra := -min(c.missing_rows, 0) - min(c.deleted_rows, 0)) > 0:
        accounted += f" - {extra:,} TOO MANY"
    yield Check("every row accounted for", c.missing_rows == 0 and c.deleted_rows == 0, accounted)
    yield Check("no row in two units", c.overlapping_rows == 0, f"{c.overlapping_rows:,} rows claimed twice")
    found = f"{c.stale_rows:,} rows of shards that changed or left the corpus"
    if c.stale_rows:
        found += "; `vectormill embed --set run.stale_rows=delete` removes them"
    yield Check("no row without a source", c.stale_rows == 0, found)


def _rows_once(table: LanceTable) -> Check:
    """Each row has its passages 0, 1, 2, ..., each once."""
    doubled = cut = 0
    passes = table.count_rows() // RECORDS_PER_PASS + 1
    for number in range(passes):
        part = f"FROM dataset WHERE _row % {passes} = {number} GROUP BY _shard, _row"
        doubled += table.count(f"SELECT _shard, _row, _chunk {part}, _chunk HAVING count(*) > 1")
        cut += table.count(f"SELECT _shard, _row {part} HAVING count(*) < max(_chunk) + 1")
    found = f"{doubled:,} records occur more than once, {cut:,} rows lack a passage"
    return Check("each record once", doubled == 0 and cut == 0, found)


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


def _records(table: LanceTable, found: Scan) -> Iterator[Check]:
    """Finite, of unit length if the model normalises, null exactly where a reason is given; and as handed to Lance."""
    unit_length = table.metadata.identity["normalise"]
    name = "vectors finite and of unit length" if unit_length else "vectors finite"
    dimensions = table.schema.field("vector").type.list_size
    said = f"{found.vectors:,} vectors of {dimensions} dimensions, {found.wrong:,} wrong"
    said += f"; lengths {found.shortest:.6f} to {found.longest:.6f}" if found.vectors else ""
    yield Check(name, found.wrong == 0, said)
    said = f"{found.changed:,} records hold another id, passage number, vector or reason than was written"
    yield Check("records as they were written", found.changed == 0, said)


def _as_other(certificate: Certificate, other: Other) -> Iterator[Check]:
    """One check for each thing that differs, one in all if nothing does."""
    found = list(differences(certificate.to_dict(), other.document))
    name = f"as certified in {other.name}"
    if [key for key, _ in found] == [PAIRS]:
        rest = "the same corpus, ids, counts and fingerprint, but other vectors or reasons; "
        if other.vectors == "rounded":
            yield Check(name, True, rest + "accepted with --vectors rounded")
        else:
            yield Check(name, False, rest + ONLY_PAIRS)
        return
    for _, what in found:
        yield Check(name, False, what)
    if not found:
        yield Check(name, True, "the same corpus, ids, counts, fingerprint and vectors")


def _files(table: LanceTable) -> Check:
    try:
        table.dataset.validate()
    except (OSError, ValueError) as bad:
        return Check("files of the table", False, str(bad).splitlines()[0])
    return Check("files of the table", True, f"{len(table.dataset.get_fragments()):,} fragment(s) valid")


def _sample(table: LanceTable, prepared: Prepared, size: int, chance: np.random.Generator) -> Check:
    """Read random rows from the corpus again, embed them by the reference path, compare with what is stored."""
    name = "sample embedded again"
    records = _random_records(table, prepared, "_reason IS NULL AND vector IS NOT NULL", size, chance)
    if not records:
        return Check(name, True, "no vectors of this corpus in the table")
    rows = _read_again(records, prepared)
    texts = [(row["text"] or "")[r["_start"] : r["_end"]] for row, r in zip(rows, records, strict=True)]
    vectors = Reference(prepared.spec).embed(texts)
    stored = np.array([r["vector"] for r in records], np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):  # a zero vector or one of NaN has no cosine: not alike
        lengths, wanted = np.linalg.norm(stored, axis=1), np.linalg.norm(vectors, axis=1)
        cosine = np.nan_to_num(np.sum(stored * vectors, axis=1) / (lengths * wanted), nan=-1.0)
        alike = np.abs(lengths / wanted - 1) < LENGTH_TOLERANCE
    identity = prepared.metadata.identity
    dtype = identity["dtype"]
    least = LEAST_COSINE_HALF.get(dtype) or LEAST_COSINE[dtype, identity["vector_dtype"]]
    carried = ["id", *prepared.carried.names]
    ends = _ends(table, records)
    doubts = {
        "are not the vectors of their rows": ~(alike & (cosine >= least)),
        "have another id or other columns in the corpus": [
            any(repr(row[c]) != repr(r[c]) for c in carried) for row, r in zip(rows, records, strict=True)
        ],
        "are of rows whose passages do not reach the end of the text": [
            ends[r["_shard"], r["_row"]] != len(row["text"] or "") for row, r in zip(rows, records, strict=True)
        ],
    }
    found = [f"{len(records)} records, lowest cosine {cosine.min():.6f} (at least {least})"]
    found += [f"{int(np.sum(which))} {what}" for what, which in doubts.items() if np.any(which)]
    return Check(name, len(found) == 1, "; ".join(found))


def _bad_sample(table: LanceTable, prepared: Prepared, size: int, chance: np.random.Generator) -> Check:
    """Rows without a vector must have a reason in the corpus, as far as reading one row alone can tell."""
    only = f"_reason NOT IN ({', '.join(repr(reason) for reason in UNSEEN_REASONS)})"
    records = _random_records(table, prepared, only, size, chance)
    good = sum(row["_reason"] is None for row in _read_again(records, prepared))
    found = f"{len(records)} rows with a reason read again, {good} have none in the corpus"
    return Check("bad rows are bad", good == 0, found)


def _random_records(
    table: LanceTable, prepared: Prepared, only: str, size: int, chance: np.random.Generator
) -> list[dict[str, Any]]:
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
    columns = ["id", *prepared.carried.names, "vector", "_shard", "_row", "_start", "_end"]
    only = f"_rowid IN ({', '.join(str(int(address)) for address in addresses)})"
    return python_rows(table.dataset.to_table(columns=columns, filter=only))


def _ends(table: LanceTable, records: list[dict[str, Any]]) -> dict[tuple[int, int], int]:
    """Where the last passage of each record's row ends, by (shard, row)."""
    shards, rows = ({str(record[name]) for record in records} for name in ("_shard", "_row"))
    only = f"_shard IN ({', '.join(shards)}) AND _row IN ({', '.join(rows)})"
    ends: dict[tuple[int, int], int] = defaultdict(int)
    for r in table.dataset.to_table(columns=["_shard", "_row", "_end"], filter=only).to_pylist():
        ends[r["_shard"], r["_row"]] = max(ends[r["_shard"], r["_row"]], r["_end"])
    return ends


def _read_again(records: list[dict[str, Any]], prepared: Prepared) -> list[dict[str, Any]]:
    """The row of the corpus behind each record."""
    shards = prepared.by_id()
    places = sorted({(r["_shard"], r["_row"]) for r in records})
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for shard_id in dict.fromkeys(shard for shard, _ in places):
        units = [single_row(shards[shard_id], row) for shard, row in places if shard == shard_id]
        for unit, rows in zip(units, prepared.corpus.read(units, prepared.carried), strict=True):
            found[shard_id, unit.start] = python_rows(rows)[0]
    return [found[r["_shard"], r["_row"]] for r in records]
