"""What must hold for any corpus, any cut and any order: rows are read as they were counted, each is planned once, and a
unit is committed once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from pipelines.corpus.corpus import Corpus
from pipelines.engine.in_hand import InHand
from pipelines.engine.stage import Receipt
from pipelines.errors import VectormillError
from pipelines.run.commits import Committer
from pipelines.run.sizing import bundles, spans
from pipelines.table.checkpoint import UnitInTable, pending, read_checkpoint
from pipelines.units import Shard, Unit, cut, missing_ranges, split
from tests.support.corpora import as_csv, as_jsonl, corpus, pack, read

few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
many = settings(max_examples=80, deadline=None, derandomize=True)

# ---------------------------------------------------------------------- readers

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=8)
ROWS = st.lists(
    st.tuples(TEXT, st.none() | TEXT, st.none() | st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20
)
KINDS = ["jsonl", "jsonl.gz", "jsonl.zst", "csv", "csv.gz", "parquet", "arrow", "arrow stream"]


def write(folder: str, kind: str, rows: list[dict], group: int) -> None:
    name, _, suffix = kind.partition(".")
    table = pa.Table.from_pylist(rows, pa.schema([("text", pa.string()), ("c", pa.string()), ("n", pa.int64())]))
    path = f"{folder}/a.{kind.split()[0]}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=group)
    elif name.startswith("arrow"):
        write_arrow(path, kind, table, group)
    else:
        Path(path).write_bytes(pack(as_csv(rows, "\n") if name == "csv" else as_jsonl(rows), suffix and f".{suffix}"))


def write_arrow(path: str, kind: str, table: pa.Table, group: int) -> None:
    with (pa.ipc.new_stream if "stream" in kind else pa.ipc.new_file)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=group)


@few
@given(ROWS, st.sampled_from(KINDS), st.integers(1, 25), st.integers(1, 7), st.sampled_from([5, 64, 1 << 20]))
def test_every_format_gives_back_its_rows(records: list, kind: str, per_unit: int, group: int, block: int) -> None:
    """Same rows, same order, same values, for any size of units, row groups and blocks."""
    rows = [dict(zip(("text", "c", "n"), record, strict=True)) for record in records]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", block)
        write(folder, kind, rows, group)
        got = read(corpus(folder, columns=("c", "n")), per_unit)
    assert [r["_row"] for r in got] == list(range(len(rows)))
    for one, row in zip(got, rows, strict=True):
        assert one["text"] == (row["text"] if row["text"].strip() else None)
        assert (one["_reason"] is None) == bool(row["text"].strip())
        if kind.startswith("csv"):  # knows neither nulls nor numbers
            row = {name: "" if value is None else str(value) for name, value in row.items()}
        elif kind.startswith("jsonl") and all(r["n"] is None for r in rows):
            row = {**row, "n": None}
        assert (one["c"], one["n"]) == (row["c"], row["n"])


UNITS = ("s", "ms", "us", "ns")
COUNTS = st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2 * 10**9)
TYPED = st.one_of(
    st.tuples(st.just(pa.int64()), st.lists(COUNTS, min_size=1, max_size=12)),
    *(st.tuples(st.just(pa.timestamp(unit, zone)), st.lists(COUNTS, min_size=1, max_size=12))
      for unit in UNITS for zone in (None, "UTC", "Europe/Berlin", "+05:30", "Nowhere/Land")),
    *(st.tuples(st.just(pa.duration(unit)), st.lists(COUNTS, min_size=1, max_size=12)) for unit in UNITS),
    st.tuples(st.just(pa.date32()), st.lists(st.none() | st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=12)),
    st.tuples(st.just(pa.date64()), st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=1, max_size=12)),
    st.tuples(st.just(pa.time64("ns")), st.lists(st.none() | st.integers(0, 10**13), min_size=1, max_size=9)),
    st.tuples(st.just(pa.float64()), st.lists(st.none() | st.floats(), min_size=1, max_size=12)),
    st.tuples(st.just(pa.float16()), st.lists(st.none() | st.floats(width=16), min_size=1, max_size=12)),
    st.tuples(st.just(pa.bool_()), st.lists(st.none() | st.booleans(), min_size=1, max_size=12)),
    st.tuples(st.just(pa.string()), st.lists(st.none() | TEXT, min_size=1, max_size=12)),
    st.tuples(st.just(pa.binary()), st.lists(st.none() | st.binary(max_size=6), min_size=1, max_size=12)),
    st.tuples(st.just(pa.decimal128(9, 2)), st.lists(
        st.none() | st.decimals(-10**6, 10**6, places=2), min_size=1, max_size=12)),
    st.tuples(st.just(pa.list_(pa.int8())), st.lists(
        st.none() | st.lists(st.none() | st.integers(-128, 127), max_size=3), min_size=1, max_size=12)),
)  # fmt: skip


def _of_type(values: list, kind: pa.DataType) -> pa.Array:
    if pa.types.is_temporal(kind):
        counts = pa.array(values, pa.int32() if kind.bit_width == 32 else pa.int64())
        return counts.view(kind)
    return pa.array(values, kind)


@settings(many, max_examples=200)
@given(TYPED, st.sampled_from(["arrow", "arrow stream", "parquet", "jsonl", "csv"]), st.integers(2, 7))
def test_a_row_is_read_alone_as_with_others(typed: tuple, kind: str, group: int) -> None:
    """Its text, its carried value, its digests and its reason, of every type: by itself, in units of two, or with all
    others, in whatever groups they are stored."""
    column = _of_type(typed[1], typed[0])
    table = pa.table({"text": ["a"] * len(column), "c": column})
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/a.{kind.split()[0]}"
        try:
            if kind == "parquet":
                pq.write_table(table, path, row_group_size=group)
            elif kind.startswith("arrow"):
                write_arrow(path, kind, table, group)
            else:
                rows = [{"text": "a", "c": value} for value in column.to_pylist()]
                Path(path).write_bytes(as_csv(rows) if kind == "csv" else as_jsonl(rows))
        except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, TypeError):
            reject()  # the format does not hold such a value
        source = corpus(folder, columns=("c",), text="{c}: {text}")
        try:
            whole = _said(source, 1000)
        except VectormillError:
            reject()
        for per_unit in (1, 2):
            assert _said(source, per_unit) == whole


def _said(source: Corpus, per_unit: int) -> list[dict]:
    """Of each row what does not depend on its unit; of what it carries the digest, as Python does not hold it all."""
    shard = source.scan(source.list()[0])
    carried = source.carried([shard.listing])
    tables = [table for unit in cut(shard, per_unit) for table in source.read([unit], carried)]  # each by itself
    return pa.concat_tables(tables).select(["id", "text", "_row", "_reason", "_text", "_carried"]).to_pylist()


PARTS = [
    b'{"text": "x"}', b"text", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf",
    b"[" * 2000, b'"\\ud800"', b"1e999", b" ", b"{}", b"null",
]  # fmt: skip
BYTES = st.binary(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join)


@settings(many, max_examples=120)
@given(
    BYTES,
    st.sampled_from(["jsonl", "csv", "txt", "jsonl.gz", "csv.zst"]),
    st.integers(1, 5),
    st.integers(3, 40),
    st.integers(2, 50),
)
def test_any_bytes_are_rows_or_one_error(content: bytes, kind: str, per_unit: int, block: int, longest: int) -> None:
    """Whatever a file holds, whatever the longest record that is held: as many rows are read as were counted, or a
    VectormillError says why not. Records too long to be held are rows all the same."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        name, _, suffix = kind.partition(".")
        Path(f"{folder}/a.{kind}").write_bytes(
            pack((b"text,c\n" if name == "csv" else b"") + content, suffix and f".{suffix}")
        )
        patch.setattr("pipelines.corpus.shard_file.BLOCK_BYTES", block)
        source = corpus(folder)
        counts = []
        for limit in (1 << 20, longest):
            patch.setattr("pipelines.corpus.formats.lines.RECORD_BYTES_MAX", limit)
            try:
                shard = source.scan(source.list()[0])
                units = list(cut(shard, per_unit))
                found = [row for table in source.read(units, pa.schema([])) for row in table.to_pylist()]
            except VectormillError:
                return
            assert [row["_row"] for row in found] == list(range(shard.rows))
            counts.append(shard.rows)
        assert counts[0] == counts[1], "a row is a row, however long it is"


# ---------------------------------------------------------------------- planner and checkpoint


@st.composite
def shards(draw: st.DrawFn, name: str = "a") -> Shard:
    rows = draw(st.integers(0, 200))
    edges = draw(st.sets(st.integers(1, max(1, rows - 1)), max_size=6)) if rows > 1 else set()
    marks = tuple((row, row * 10) for row in sorted(edges)) if draw(st.booleans()) else ()
    breaks = () if marks else tuple(sorted(edges))
    return Shard(
        name, draw(st.integers(0, 1 << 34)), "mtime:1", "blake2b:1", "x", rows, breaks, marks, draw(st.booleans())
    )


CORPORA = st.integers(1, 5).flatmap(lambda n: st.tuples(*(shards(f"{i}") for i in range(n))))


@many
@given(CORPORA, st.integers(1, 64), st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60)), max_size=5))
def test_each_pending_row_travels_once(corpus: tuple[Shard, ...], size: int, done: list[tuple[int, int]]) -> None:
    """Through cut, bundles and spans, for any breaks, any done ranges, any size."""
    gone = {shard.id: [(a, min(a + n, shard.rows)) for a, n in done if a < shard.rows] for shard in corpus}
    units = list(pending(corpus, gone, size))
    travelling = [unit for span in spans(bundles(units, size)) for bundle in span for unit in bundle]
    assert travelling == units
    for shard in corpus:
        mine = [unit for unit in units if unit.shard == shard.id]
        rows = [row for unit in mine for row in range(unit.start, unit.stop)]
        assert rows == [r for a, b in missing_ranges(shard.rows, gone[shard.id]) for r in range(a, b)]
        assert all(unit.seek[0] <= unit.start < unit.stop for unit in mine)
        halves = [half for unit in mine for half in split(unit)]
        assert [r for half in halves for r in range(half.start, half.stop)] == rows


@many
@given(CORPORA, st.integers(1, 64), st.randoms(use_true_random=False))
def test_units_keep_their_ids(corpus: tuple[Shard, ...], size: int, chance: object) -> None:
    """In any order of the files, and whatever files are added."""
    before = {unit.id: (unit.path, unit.start, unit.stop) for unit in pending(corpus, {}, size)}
    mixed = [*corpus, Shard("new", 1, "mtime:2", "blake2b:2", "x", 70)]
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    after = {unit.id: (unit.path, unit.start, unit.stop) for unit in pending(mixed, {}, size)}
    assert before.items() <= after.items()
    assert len(before) == sum(1 for _ in pending(corpus, {}, size)), "no two units have one id"


@many
@given(CORPORA, st.integers(1, 64), st.integers(1, 64), st.data())
def test_a_checkpoint_of_any_subset_is_exact(
    corpus: tuple[Shard, ...], size: int, later: int, data: st.DataObject
) -> None:
    """Any units committed, read back in any order; the rest is pending, once, also when cut by another size."""
    units = list(pending(corpus, {}, size))
    kept = data.draw(st.lists(st.sampled_from(units), unique=True)) if units else []
    in_table = [UnitInTable(u.id, u.shard, (u.start, u.stop), u.rows) for u in kept]
    state = read_checkpoint({shard.id: shard for shard in corpus}, in_table)
    assert (state.units, state.overlaps, state.deleted_rows, state.stale) == (len(kept), 0, 0, {})
    for again in (size, later):
        rest = list(pending(corpus, state.done, again))
        rows = sorted((u.shard, r) for u in [*kept, *rest] for r in range(u.start, u.stop))
        assert rows == sorted((shard.id, r) for shard in corpus for r in range(shard.rows))
    assert {u.id for u in pending(corpus, state.done, size)} == {u.id for u in units} - {u.id for u in kept}


# ---------------------------------------------------------------------- committer


class Table:
    def __init__(self) -> None:
        self.commits: list[list[str]] = []

    def commit(self, fragments: list[str], properties: object) -> None:
        self.commits.append(list(fragments))


@many
@given(
    st.lists(st.tuples(st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True), st.booleans()), max_size=25)
)
def test_the_first_receipt_of_a_unit_wins(offers: list[tuple[list[int], bool]]) -> None:
    """For any order, any doubling, any packing of receipts and any moment of a commit: no unit is in two commits, and
    what was taken is committed, all of it, once."""
    table = Table()
    in_hand = InHand([(tuple(Unit(1, "a", n, n + 1, 0, "") for n in range(8)),)])
    next(in_hand)
    committer = Committer(table.commit, 3600, 10**9, dict)
    taken: list[str] = []
    seen: set[int] = set()
    for number, (units, commit) in enumerate(offers):
        bundle = tuple(Unit(1, "a", n, n + 1, 0, "") for n in units)
        receipt = Receipt(bundle, (f"{number}",))
        first = not seen & set(units)
        assert (in_hand.answered(receipt) is receipt) is first
        if first:
            committer.offer(receipt)
            seen |= set(units)
            taken.append(f"{number}")
        if commit:
            committer.commit()
    committer.commit()
    assert [fragment for one in table.commits for fragment in one] == taken
