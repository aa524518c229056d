"""How units are packed: small ones into bundles, bundles into spans, and long rows into small ones of both."""

from pipelines.run.sizing import BUNDLES_PER_SPAN, bundles, spans
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
    big_group = list(spans(bundles(cut(shard(1000), 10), 10)))
    assert [len(s) for s in big_group] == [BUNDLES_PER_SPAN] * 6 + [4]
    groups = list(spans(bundles(cut(shard(1000, breaks=tuple(range(100, 1000, 100))), 100), 100)))
    assert [len(s) for s in groups] == [1] * 10
    many = [u for n in range(6) for u in cut(shard(3, f"{n}"), 3)]
    assert len(list(spans(bundles(many, 3)))) == 6


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
