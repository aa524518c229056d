"""The account of a run as a document that another program can check: read from the table, not from what a run
believes; and what differs between two of them.

It says how many rows the corpus has and what became of each, by which model, and digests of three sets: the corpus's
shards, the ids, and the records. Two runs over the same corpus with the same model agree in all that `differences`
compares, however often they were killed, on whatever hardware; in the records' digest (`pair_digest`) only as far as
the hardware gives the same bits. docs/architecture.md says how each digest is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.corpus.broken import BrokenFile, error_of
from pipelines.errors import ConfigError, Incomplete, VectormillError
from pipelines.run.prepare import Prepared
from pipelines.table import contents
from pipelines.table.digests import as_text
from pipelines.table.table import LanceTable
from pipelines.units import Shard

FORMAT = "vectormill-certificate"
FORMAT_VERSION = 1
COMPARED = {
    "fingerprint": "fingerprint (the model and all else that changes a vector)",
    "corpus_digest": "corpus (path, size, version, reader or rows of a shard)",
    "shards": "shards",
    "rows": "rows in the corpus",
    "id_digest": "set of ids",
    "embedded_rows": "rows embedded",
    "bad_rows": "rows with a reason",
    "reasons": "rows with a reason, by reason",
    "deleted_rows": "rows deleted since",
    "records": "records (passages)",
    "tokens": "tokens",
    "truncated": "texts truncated",
}
PAIRS = "pair_digest"


@dataclass(frozen=True)
class Certificate:
    """Every row of the corpus is embedded, recorded with a reason, deleted by the table's owner, or missing.

    rows: in the corpus. All else is of the corpus's shards, read from the table, but stale_rows: in the table, of
    shards no longer in the corpus. incomplete_rows: that lost some of their passages. duplicate_ids: ids that name
    several rows; all of these are embedded. failures: units that could not be embedded, with why. broken_files: of the
    corpus, that could not be counted, so that nobody knows their rows (which are not in `rows`), or not be read.
    exchange: shards that went and came with the same rows, as this run found them (`Exchange`); None if there are
    none."""

    table: str
    table_version: int
    fingerprint: str
    corpus_digest: str
    id_digest: str
    pair_digest: str
    shards: int
    units: int
    rows: int
    embedded_rows: int
    bad_rows: int
    deleted_rows: int
    records: int
    tokens: int
    truncated: int
    reasons: Mapping[str, int]
    stale_rows: int
    overlapping_rows: int
    incomplete_rows: int
    duplicate_ids: int
    failures: tuple[str, ...] = ()
    broken_files: tuple[BrokenFile, ...] = ()
    exchange: Mapping[str, int] | None = None

    @property
    def missing_rows(self) -> int:
        return self.rows - self.embedded_rows - self.bad_rows - self.deleted_rows

    @property
    def adds_up(self) -> bool:
        torn = self.missing_rows or self.overlapping_rows or self.incomplete_rows
        return not (torn or self.failures or self.broken_files)

    @property
    def wrong(self) -> VectormillError | None:
        """What does not add up; None if all does. Incomplete where the same command would not mend it: another program
        added rows, or deleted passages of some."""
        if self.adds_up:
            return None
        counted = {"missing": self.missing_rows, "there twice": self.overlapping_rows, "torn": self.incomplete_rows}
        found = [f"{rows:,} rows are {what}" for what, rows in counted.items() if rows]
        found += [f"{len(self.failures):,} failures, the first: {self.failures[0]}"] if self.failures else []
        found += [str(broken)] if (broken := error_of(self.broken_files)) else []
        kind = Incomplete if self.missing_rows < 0 or self.overlapping_rows or self.incomplete_rows else VectormillError
        return kind(f"the sums do not add up: {', '.join(found)}")

    def to_dict(self) -> dict[str, Any]:
        """The document, its keys sorted."""
        own = {"format": FORMAT, "format_version": FORMAT_VERSION}
        found = {**asdict(self), **own, "missing_rows": self.missing_rows, "adds_up": self.adds_up}
        return dict(sorted(found.items()))


def account(
    prepared: Prepared,
    table: LanceTable,
    failures: tuple[str, ...] = (),
    unread: tuple[BrokenFile, ...] = (),
) -> Certificate:
    """Sums by a scan of the provenance columns. Takes the digests from their columns, as they were when the records
    were written; `verify` makes them again. unread: files that were counted, and then could not be read."""
    shards = prepared.by_id
    state = contents.checkpoint(table, shards)
    totals = contents.totals(table, shards)
    ids, pairs = stored_digests(table, shards)
    return Certificate(
        table=prepared.address.location,
        table_version=table.version,
        fingerprint=table.metadata.fingerprint,
        corpus_digest=corpus_digest(prepared.shards),
        id_digest=as_text(ids),
        pair_digest=as_text(pairs),
        shards=len(shards),
        units=state.units,
        rows=prepared.rows,
        embedded_rows=totals.rows - totals.bad_rows,
        bad_rows=totals.bad_rows,
        deleted_rows=state.deleted_rows,
        records=totals.records,
        tokens=totals.tokens,
        truncated=totals.truncated,
        reasons=totals.reasons,
        stale_rows=sum(state.stale.values()),
        overlapping_rows=state.overlaps,
        incomplete_rows=contents.count_torn(table, state.torn),
        duplicate_ids=contents.count_duplicate_ids(table, shards),
        failures=failures,
        broken_files=(*prepared.broken, *unread),
    )


def stored_digests(table: LanceTable, shards: Container[int]) -> tuple[int, int]:
    """Sums over these shards of `_id_digest`, once a row, and of `_digest`, once a record. 0.6 s of CPU at 10 million
    records. Summed in halves of 32 bits: what a sum of int64 does when it overflows is the query engine's affair."""
    halves = ", ".join(
        f"sum(CASE WHEN {which} THEN {column} & 4294967295 ELSE 0 END) AS {name}_low, "
        f"sum(CASE WHEN {which} THEN {column} >> 32 ELSE 0 END) AS {name}_high"
        for name, column, which in (("ids", "_id_digest", "_chunk = 0"), ("pairs", "_digest", "true"))
    )
    query = f"SELECT _shard, {halves} FROM dataset GROUP BY _shard"
    sums = contents.sums(table, query, shards, "ids_low", "ids_high", "pairs_low", "pairs_high")
    return sums["ids_low"] + (sums["ids_high"] << 32), sums["pairs_low"] + (sums["pairs_high"] << 32)


def corpus_digest(shards: Iterable[Shard]) -> str:
    """sha256 over one line of JSON a shard, [path, size, version, reader, rows], ASCII without spaces, sorted."""
    lines = sorted(
        json.dumps([shard.path, shard.size, shard.version, shard.reader, shard.rows], separators=(",", ":")) + "\n"
        for shard in shards
    )
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()


def parse(content: bytes | None, name: str) -> Mapping[str, Any]:
    """The document in a file: a certificate, or what holds one under `certificate` (a run record, what `verify --json`
    printed). Raises ConfigError."""
    if content is None:
        raise ConfigError(f"--against {name}: there is no such file; give a certificate that a run left")
    try:
        found = json.loads(content)
    except ValueError as bad:
        raise ConfigError(f"--against {name}: this is not JSON, so no certificate") from bad
    if isinstance(found, dict) and "certificate" in found:
        found = found["certificate"]
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ConfigError(
            f"--against {name}: this holds no certificate; give <table>.vectormill/certificate.json, a run record of a "
            "finished run, or what `embed --json` or `verify --json` printed"
        )
    if found.get("format_version") != FORMAT_VERSION:
        raise ConfigError(
            f"--against {name}: this certificate has format version {found.get('format_version')}, this release knows "
            f"{FORMAT_VERSION}; let the same release make both"
        )
    if lacking := [key for key in (*COMPARED, PAIRS) if key not in found]:
        raise ConfigError(f"--against {name}: this certificate lacks {', '.join(lacking)}; it is not whole")
    return found


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(field, what differs) for each field in which two documents should agree, `pair_digest` last."""
    for key, name in COMPARED.items():
        if here[key] != there[key]:
            yield key, f"{name}: {_shown(here[key])} here, {_shown(there[key])} there"
    if here[PAIRS] != there[PAIRS]:
        yield PAIRS, f"vectors or reasons of the ids: {here[PAIRS]} here, {there[PAIRS]} there"


def _shown(value: Any) -> str:
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
