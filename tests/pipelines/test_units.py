import hypothesis.strategies as st
from hypothesis import given

from pipelines.table.checkpoint import UnitInTable, pending, read_checkpoint
from pipelines.units import Shard, cut, missing_ranges, split
from tests.support.units import shard

ranges = st.lists(st.tuples(st.integers(0, 200), st.integers(1, 40)).map(lambda p: (p[0], p[0] + p[1])), max_size=8)


@given(st.integers(0, 200), ranges)
def test_missing_ranges_complement_exactly(rows, done):
    covered = {r for a, b in done for r in range(a, b)}
    missing = [r for a, b in missing_ranges(rows, done) for r in range(a, b)]
    assert missing == [r for r in range(rows) if r not in covered]


@given(st.integers(0, 300), st.integers(1, 64), st.lists(st.integers(1, 299), max_size=12), ranges)
def test_cut_covers_what_is_missing_once(rows, size, breaks, done):
    s = shard(rows, breaks=tuple(sorted({b for b in breaks if b < rows})))
    done = [(a, min(b, rows)) for a, b in done if a < rows]
    units = list(cut(s, size, done))
    covered = [r for a, b in done for r in range(a, b)]
    assert [r for u in units for r in range(u.start, u.stop)] == [r for r in range(rows) if r not in set(covered)]
    assert all(u.rows <= 2 * size for u in units), "a unit is at most twice the wanted size"


@given(st.integers(1, 300), st.integers(1, 64), st.data())
def test_cut_gives_the_same_units_again(rows, size, data):
    """Any subset committed, the rest is cut as before: a resume never makes a second unit over committed rows."""
    s = shard(rows, breaks=tuple(range(50, rows, 50)))
    units = list(cut(s, size))
    kept = [u for u in units if data.draw(st.booleans())]
    rest = list(cut(s, size, [(u.start, u.stop) for u in kept]))
    assert {u.id for u in kept} | {u.id for u in rest} == {u.id for u in units}
    assert not {u.id for u in kept} & {u.id for u in rest}


def test_unit_identity_is_content():
    one, other = shard(10), Shard("a.parquet", 100, "mtime:999", "blake2b:1", "parquet", 10)
    assert [u.id for u in cut(one, 4)] == [u.id for u in cut(other, 4)], "a touched file with the same content"
    changed = Shard("a.parquet", 100, "mtime:1", "blake2b:2", "parquet", 10)
    moved = shard(10, path="b.parquet")
    assert len({s.id for s in (one, changed, moved)}) == 3


def test_ids_are_stable_over_releases():
    """Pinned: another value would make every table in the world start from nothing."""
    (unit,) = cut(shard(4), 8)
    assert (unit.shard, unit.id) == (2062360779772216671, 7098121794653065307)


def test_marks_point_before_the_unit():
    s = shard(100, marks=((0, 0), (30, 3000), (60, 6000)))
    assert [u.seek for u in cut(s, 20)] == [(0, 0), (0, 0), (30, 3000), (60, 6000), (60, 6000)]


@given(st.integers(2, 5000))
def test_split_narrows_to_one_row(rows):
    (unit,) = cut(shard(rows), rows)
    steps = 0
    while unit.rows > 1:
        left, right = split(unit)
        assert (left.start, left.stop, right.stop) == (unit.start, right.start, unit.stop)
        unit, steps = (left if steps % 2 else right), steps + 1
    assert split(unit) == (unit,)
    assert steps <= 13


# ---------------------------------------------------------------------- checkpoint


def in_table(unit, rows=None, is_whole=True):
    return UnitInTable(unit.id, unit.shard, (unit.start, unit.stop), unit.rows if rows is None else rows, is_whole)


def test_checkpoint_counts_done_stale_and_pending():
    s, old = shard(100), shard(30, "old")
    units, stale = list(cut(s, 10)), list(cut(old, 10))
    state = read_checkpoint({s.id: s}, [in_table(u) for u in [*units[:4], *stale]])
    assert (state.rows_done, state.units, state.stale, state.overlaps) == (40, 4, {old.id: 30}, 0)
    assert [u.id for u in pending([s], state.done, 10)] == [u.id for u in units[4:]]


def test_other_unit_size_covers_the_rest_exactly():
    s = shard(100)
    state = read_checkpoint({s.id: s}, [in_table(u) for u in list(cut(s, 10))[3:5]])
    rest = list(pending([s], state.done, 33))
    assert sorted(r for u in rest for r in range(u.start, u.stop)) == [*range(30), *range(50, 100)]


def test_deleted_rows_do_not_reopen_a_unit():
    s = shard(100)
    unit = list(cut(s, 10))[2]
    state = read_checkpoint({s.id: s}, [in_table(unit, rows=6)])
    assert state.done[s.id] == [(20, 30)]
    assert state.deleted_rows == 4


def test_units_with_rows_that_lost_passages_are_named():
    s = shard(40)
    first, second = cut(s, 20)
    state = read_checkpoint({s.id: s}, [in_table(first), in_table(second, is_whole=False)])
    assert (state.torn, state.rows_done) == ([second.id], 40)


def test_doubled_records_are_seen_and_do_not_hide_deleted_ones():
    s = shard(40)
    first, second = cut(s, 20)
    state = read_checkpoint({s.id: s}, [in_table(first, rows=21), in_table(second, rows=19)])
    assert (state.overlaps, state.deleted_rows) == (1, 1)


def test_overlapping_units_are_seen():
    s = shard(20)
    (whole,) = cut(s, 20)
    state = read_checkpoint({s.id: s}, [in_table(whole), in_table(split(whole)[0])])
    assert state.overlaps == 10
