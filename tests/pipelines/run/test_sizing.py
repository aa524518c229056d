"""How units are packed: small ones into bundles, bundles into spans, and long rows into small ones of both."""

from pipelines.run.sizing import SPAN_BYTES, bundles, spans
from pipelines.units import UNIT_BYTES, UNSEEKABLE, Shard, cut
from tests.support.units import shard


def test_tiny_files_travel_together_and_large_ones_alone():
    tiny = [u for n in range(1000) for u in cut(shard(1, f"{n}.txt"), 64)]
    packed = list(bundles(tiny, 64))
    assert [len(b) for b in packed[:2]] == [64, 64]
    assert sum(len(b) for b in packed) == 1000
    assert [len(b) for b in bundles(cut(shard(640), 64), 64)] == [1] * 10


def test_spans_join_one_pass_reads_only():
    gz = Shard("a.jsonl.gz", 1, "s", "v", "jsonl", 2000, seekable=False)
    (span,) = spans(bundles(cut(gz, 10), 10))
    assert len(span) == 200
    assert span[0][0].stretch == UNSEEKABLE
    many = [u for n in range(6) for u in cut(shard(3, f"{n}"), 3)]
    assert len(list(spans(bundles(many, 3)))) == 6


def test_bytes_decide_how_a_file_is_read_in_passes():
    """A pass ends where the next one can begin without reading again what lies before, and not before it is long."""
    mib = 1 << 20

    def passes(size, rows=10_000, rows_per_unit=10, **kwargs):
        one = Shard("a", size, "s", "v", "x", rows, **kwargs)
        found = list(spans(bundles(cut(one, rows_per_unit), rows_per_unit)))
        assert [unit.id for span in found for bundle in span for unit in bundle] == [
            u.id for u in cut(one, rows_per_unit)
        ]
        return [sum(unit.share for bundle in span for unit in bundle) / size for span in found]

    assert len(passes(1 * mib)) == len(passes(10_000 * mib)) == 1, "one row group"
    breaks = tuple(range(100, 10_000, 100))
    assert len(passes(1 * mib, breaks=breaks)) == 1, "100 row groups of 10 kB: the footer is not read 100 times"
    assert max(passes(160 * mib, breaks=breaks)) < 0.14, "row groups of 1.6 MB: passes of SPAN_BYTES"
    assert len(passes(100 * SPAN_BYTES, breaks=breaks)) == 8, "and never more of a file than so many"
    marks = tuple((row, row) for row in range(50, 10_000, 50))
    assert len(passes(2 * mib, marks=marks)) == 1
    assert max(passes(160 * mib, marks=marks)) < 0.14
    assert len(passes(160 * mib, marks=marks, seekable=False)) == 1


def test_what_is_left_of_a_row_group_is_read_in_one_pass():
    """Whatever was committed in it, and by units of whatever size."""
    one = shard(1000)
    done = [(start, start + 2) for start in range(0, 1000, 4)]
    assert len(list(spans(bundles(cut(one, 100, done), 100)))) == 1


def test_a_pass_goes_forward():
    first, second = cut(shard(20), 10)
    assert len(list(spans([(second,), (first,)]))) == 2


def test_long_rows_make_small_units_and_small_bundles():
    """A unit and a bundle hold about UNIT_BYTES of files at most: their memory does not follow the length of rows."""
    long = Shard("a", 640 << 20, "mtime:1", "blake2b:1", "jsonl", 1000)
    units = list(cut(long, 1000))
    assert [u.rows for u in units] == [50] * 20
    assert max(u.share for u in units) <= UNIT_BYTES
    files = [u for n in range(64) for u in cut(Shard(f"{n}.txt", 10 << 20, "mtime:1", "x", "text:file", 1), 1000)]
    assert {len(b) for b in bundles(files, 1000)} == {3, 1}
    huge = Shard("a", 10 << 30, "mtime:1", "blake2b:1", "text:file", 1)
    assert [u.rows for u in cut(huge, 1000)] == [1]
