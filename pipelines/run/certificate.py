"""The account of a run as a document that another program can check, and what differs between two of them.

It says how many rows the corpus has and what became of each, by which model, and digests of three sets: the corpus's
shards, the ids, and the records. Two runs over the same corpus with the same model agree in all that `differences`
compares, however often they were killed, on whatever hardware; in the records' digest (`pair_digest`) only as far as
the hardware gives the same bits. docs/architecture.md says how each digest is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipelines.errors import ConfigError
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
    shards no longer in the corpus. failures: units that could not be embedded, with why."""

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
    failures: tuple[str, ...] = ()

    @property
    def missing_rows(self) -> int:
        return self.rows - self.embedded_rows - self.bad_rows - self.deleted_rows

    @property
    def adds_up(self) -> bool:
        return self.missing_rows == 0 and self.overlapping_rows == 0 and not self.failures

    def to_dict(self) -> dict[str, Any]:
        """The document, its keys sorted."""
        own = {"format": FORMAT, "format_version": FORMAT_VERSION}
        found = {**asdict(self), **own, "missing_rows": self.missing_rows, "adds_up": self.adds_up}
        return dict(sorted(found.items()))


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
