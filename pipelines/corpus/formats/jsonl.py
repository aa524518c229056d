"""JSON Lines: an object a non-blank line; types come from the values.

A carried column is bool, int64, float64 or string, whichever holds its values in the first INFERRED_ROWS rows (of long
ones INFERRED_BYTES), and string where they are mixed or nested. In a string column a string stands as it is and any
other value as JSON.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from pipelines.config import CorpusConfig, columns_in, is_template
from pipelines.corpus.columns import EXACT_INTEGERS
from pipelines.corpus.formats import lines
from pipelines.corpus.formats.lines import LINES, Raw, records, stretches
from pipelines.corpus.reading import ABSENT, TOO_LONG, Piece, Wanted, fill_template, reason_of
from pipelines.corpus.shard_file import ShardFile
from pipelines.units import Shard, Unit

EXTENSIONS = (".jsonl", ".ndjson")
STREAMED = True
SCAN_READS_ALL = True
INFERRED_ROWS, INFERRED_BYTES = 1000, 32 << 20
EXACT_TYPES: dict[pa.DataType, set[type]] = {
    pa.string(): {str},
    pa.int64(): {int},
    pa.float64(): {float, int},
    pa.bool_(): {bool},
}
Record = dict[str, Any] | None


def reader(corpus: CorpusConfig) -> str:
    return "jsonl"


def columns(file: ShardFile, wanted: Wanted) -> pa.Schema | None:
    """The columns of the first rows, and the types of the carried ones there; None for a file without rows. Raises
    CorpusError."""
    corpus = wanted.corpus
    seen = _Seen()
    rows = size = 0
    for _, found, _ in records(file, LINES):
        found = found[: INFERRED_ROWS - rows]
        rows += len(found)
        size += sum(len(raw or b"") for raw in found)
        seen.add(parse(found, wanted)[0], wanted)
        if rows >= INFERRED_ROWS or size >= INFERRED_BYTES:
            break
    if not seen.rows:
        return None
    if corpus.candidates and seen.no_candidates is not None and not seen.has_candidates:
        raise file.error(
            f"the candidates column {corpus.candidates!r} holds no list of strings (the first value is a "
            f"{seen.no_candidates}); name a column of lists, or give corpus.document for one document a row"
        )
    # A name may be half of a surrogate pair.
    names = {name.encode(errors="replace").decode(): name for name in seen.names}
    return pa.schema([pa.field(shown, _infer(seen.kinds[name])) for shown, name in names.items()])


class _Seen:
    """What rows say of the columns; the rows themselves are not kept. names: of all columns, in order of first use.
    kinds: of the values of each carried column. no_candidates: the type of a first value that is no list of strings."""

    def __init__(self) -> None:
        self.rows = 0
        self.names: dict[str, None] = {}
        self.kinds: defaultdict[str, set[type]] = defaultdict(set)
        self.has_candidates = False
        self.no_candidates: str | None = None

    def add(self, parsed: list[Record], wanted: Wanted) -> None:
        corpus = wanted.corpus
        for row in parsed:
            if row is None:
                continue
            self.rows += 1
            self.names.update(dict.fromkeys(row))
            for name in corpus.columns:
                self.kinds[name].add(_kind(row.get(name)))
            given = row.get(corpus.candidates) if corpus.candidates else None
            if given is not None and _is_strings(given):
                self.has_candidates = True
            elif given is not None and self.no_candidates is None:
                self.no_candidates = type(given).__name__


def scan(file: ShardFile, corpus: CorpusConfig) -> Shard:
    """As `lines.scan`: whether the columns are there, each row says. Raises CorpusError, StorageError."""
    return lines.scan(file, LINES, reader(corpus))


class _Huge(int):
    """Stands for an integer that no int64 holds."""


def _kind(value: Any) -> type:
    return _Huge if type(value) is int and not -(2**63) <= value < 2**63 else type(value)


def _infer(kinds: set[type]) -> pa.DataType:
    """Of a column with values of these kinds."""
    given = kinds - {type(None)}
    if not given:
        return pa.null()  # another file may tell
    if given in ({bool}, {int}):
        return pa.bool_() if given == {bool} else pa.int64()
    return pa.float64() if float in given and given <= {int, _Huge, float} else pa.string()


def pieces(file: ShardFile, units: Sequence[Unit], wanted: Wanted) -> Iterator[Piece]:
    for row, found in stretches(file, units, LINES):
        yield row, decode(*parse(found, wanted), wanted)


def parse(found: list[Raw], wanted: Wanted) -> tuple[list[Record], dict[int, str]]:
    """(records, why those that are None cannot be decoded, by position)."""
    parsed: list[Record] = []
    notes: dict[int, str] = {}
    for i, raw in enumerate(found):
        record, why = None, None
        if raw is None:
            parsed.append(None)
            notes[i] = TOO_LONG
            continue
        try:
            record = json.loads(raw.decode())
            if not isinstance(record, dict):
                record, why = None, "not a JSON object"
            elif b"\\ud" in raw or b"\\uD" in raw:
                json.dumps([record.get(name) for name in wanted.columns], ensure_ascii=False).encode()
        except UnicodeDecodeError:
            why = "invalid UTF-8"
        except UnicodeEncodeError:
            record, why = None, "half of a surrogate pair in a string"
        except json.JSONDecodeError as bad:
            why = f"broken JSON at character {bad.pos}"
        except (ValueError, RecursionError):
            record, why = None, "JSON nested too deep or with too long a number"
        parsed.append(record)
        if why:
            notes[i] = why
    return parsed, notes


def decode(parsed: list[Record], notes: dict[int, str], wanted: Wanted) -> pa.Table:
    """The decoded form of parsed records."""
    corpus = wanted.corpus
    rows = [record if record is not None else {} for record in parsed]
    reasons: dict[int, str] = {}
    why: dict[int, str] = {}
    carried = []
    for field in wanted.carried:
        values = [row.get(field.name) for row in rows]
        array, misfits = _column(values, field.type)
        carried.append(array)
        for i in misfits:
            reasons[i], why[i] = "bad_column", f"the value of {field.name!r} does not fit the table's {field.type}"
    texts = [
        pa.array(_texts(name, source, rows, reasons), pa.string())
        for name, source in reversed(corpus.texts.items())  # what is said of the first one stands
    ][::-1]
    if corpus.candidates:
        texts.append(pa.array(_lists(corpus.candidates, rows, reasons), pa.list_(pa.string())))
    ids = [_id(row.get(corpus.id)) for row in rows] if corpus.id else [None] * len(rows)
    reasons.update({i: reason_of(note) for i, note in notes.items()})
    why.update(notes)
    reason = pa.array([reasons.get(i) for i in range(len(rows))] if reasons else [None] * len(rows), pa.string())
    note = pa.array([why.get(i) for i in range(len(rows))] if why else [None] * len(rows), pa.string())
    arrays = [pa.array(ids, pa.string()), *carried, *texts, reason, note]
    return pa.Table.from_arrays(arrays, schema=wanted.decoded)


def _texts(name: str, source: str, rows: list[dict[str, Any]], reasons: dict[int, str]) -> list[str | None]:
    """One of the texts of each row; what is wrong with it is added to `reasons`, by position."""
    if is_template(source):
        columns = {column: [row.get(column) for row in rows] for column in columns_in(source)}
        texts, found = fill_template(source, columns, len(rows), ABSENT[name])
        reasons.update({i: reason for i, reason in enumerate(found) if reason})
        return texts
    values = [row.get(source) for row in rows]
    if not {type(value) for value in values} <= {str, type(None)}:
        reasons.update({i: "not_a_string" for i, v in enumerate(values) if v is not None and not isinstance(v, str)})
    reasons.update({i: ABSENT[name] for i in reasons if values[i] is None})
    return [value if isinstance(value, str) else None for value in values]


def _lists(column: str, rows: list[dict[str, Any]], reasons: dict[int, str]) -> list[list[str | None] | None]:
    """The candidates of each row; a row whose value is no list of strings is a bad one."""
    values = [row.get(column) for row in rows]
    good = [value is None or _is_strings(value) for value in values]
    reasons.update({i: "not_a_string" for i, is_good in enumerate(good) if not is_good})
    return [value if is_good else None for value, is_good in zip(values, good, strict=True)]


def _is_strings(value: Any) -> bool:
    """Whether it is a list of strings, of which some may be null."""
    return isinstance(value, list) and all(one is None or isinstance(one, str) for one in value)


def _id(value: object) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < EXACT_INTEGERS[64]:
        return str(int(value))  # 1.0, as pandas writes integers where one is missing
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _column(values: list[Any], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """The values as an array of `kind`, null where they do not fit, and the positions of those."""
    if {type(value) for value in values} <= EXACT_TYPES.get(kind, set()) | {type(None)}:
        try:
            return pa.array(values, kind), []
        except (pa.ArrowException, OverflowError):
            pass  # an integer too large for the type
    kept, misfits = [], []
    for i, value in enumerate(values):
        one, fits = _fit(value, kind)
        kept.append(one)
        if not fits:
            misfits.append(i)
    return pa.array(kept, kind), misfits


def _fit(value: Any, kind: pa.DataType) -> tuple[Any, bool]:
    if value is None:
        return None, True
    if kind == pa.string():
        return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))), True
    allowed = EXACT_TYPES.get(kind)
    if kind == pa.int64() and isinstance(value, float) and value.is_integer():
        value = int(value)  # 3.0, as written by tools that know only floats
    if allowed is not None and type(value) not in allowed:
        return None, False
    try:
        pa.array([value], kind)
    except (pa.ArrowException, OverflowError, ValueError):
        return None, False
    return value, True
