"""What keeps a run of 10^10 rows within one driver: what is held, how often the table is asked, how far ahead units are
drawn."""

from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.inline import InlineExecutor
from pipelines.errors import VectormillError
from pipelines.run import sizing, unit_attempts
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table import contents
from pipelines.table.checkpoint import UnitInTable, count_pending, pending, read_checkpoint
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import Tokenise
from pipelines.units import Shard, count_units, cut
from tests.support.engines import Unreliable
from tests.support.jobs import Said, job, rows, run, write_parquet


def shard(count, path="a.parquet", breaks=()):
    return Shard(path, 1000, "mtime:1", "footer:x", "parquet", count, tuple(breaks))


@given(
    count=st.integers(1, 400),
    size=st.integers(1, 60),
    breaks=st.sets(st.integers(1, 399)),
    done=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 90)), max_size=5),
)
def test_pending_units_are_counted_as_they_are_cut(count, size, breaks, done):
    one = shard(count, breaks=sorted(b for b in breaks if b < count))
    ranges = [(start, start + length) for start, length in done]
    assert count_units(one, size, ranges) == len(list(cut(one, size, ranges)))


@given(order=st.permutations(range(10)), gone=st.sets(st.integers(0, 9)))
def test_done_ranges_are_joined_and_say_the_same_in_any_order(order, gone):
    one = shard(100)
    units = list(cut(one, 10))
    found = [UnitInTable(u.id, u.shard, (u.start, u.stop), u.rows) for u in (units[i] for i in order if i not in gone)]
    state = read_checkpoint({one.id: one}, found)
    assert (state.units, state.rows_done, state.overlaps) == (10 - len(gone), 100 - 10 * len(gone), 0)
    assert [u.id for u in pending([one], state.done, 10)] == [units[i].id for i in sorted(gone)]
    assert count_pending([one], state.done, 10) == len(gone)


def test_the_checkpoint_holds_a_range_for_a_shard_not_for_a_unit(tmp_path):
    write_parquet(tmp_path / "corpus", shards=3, rows=160)
    config = job(tmp_path)
    run(config)
    found = prepare(config, InlineExecutor())
    table = LanceTable.open(found.address)
    state = contents.checkpoint(table, found.by_id)
    assert state.units == 30
    assert sorted(map(tuple, state.done.values())) == [((0, 160),)] * 3


def test_what_is_committed_between_the_first_look_and_the_fence_is_seen(tmp_path, monkeypatch):
    """Another run does all the work while this one is about to take the fence."""
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    real, others = LanceTable.take_fence, []

    def take_fence(table, *arguments):
        if not others:
            others.append(run)
            run(config)
        return real(table, *arguments)

    monkeypatch.setattr(LanceTable, "take_fence", take_fence)
    certificate = run(config)
    assert certificate.adds_up
    assert len(rows(config)) == 120


def test_the_table_is_asked_once_before_the_first_unit_and_once_at_the_end(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    asked, real = [], contents.units
    monkeypatch.setattr(contents, "units", lambda table, shards: asked.append(1) or real(table, shards))
    run(job(tmp_path))
    assert len(asked) == 2


class Counting(InlineExecutor):
    """Says how many bundles each run of it got, and how many had come in hand when each of its answers came."""

    def __init__(self):
        super().__init__()
        self.executions, self.ahead = [], []

    def run(self, read, stages, spans):
        at = len(self.executions)
        self.executions.append(0)

        def counted():
            for span in spans:
                self.executions[at] += len(span)
                yield span

        for answered, result in enumerate(super().run(read, stages, counted()), 1):
            self.ahead.append(self.executions[at] - answered)
            yield result


def test_a_corpus_is_one_run_of_the_engine_and_drawn_as_it_is_worked_off(tmp_path, monkeypatch):
    """Replicas are started anew with each run of it."""
    write_parquet(tmp_path / "corpus", shards=400, rows=4)
    monkeypatch.setattr(sizing, "parcels_per_fragment", lambda *sizes: 1)
    executor = Counting()
    assert run(job(tmp_path), executor).adds_up
    assert executor.executions == [100], "bundles of 16 rows hold four files"
    assert max(executor.ahead) == 0


def test_what_fails_is_tried_again_in_the_same_run_of_the_engine(tmp_path, monkeypatch):
    """Of a store that fails for an hour the units must not pile up; and a fault of the set-up shows at once."""
    write_parquet(tmp_path / "corpus", shards=40, rows=16)
    monkeypatch.setattr(sizing, "parcels_per_fragment", lambda *sizes: 1)
    real, failed = Tokenise.__call__, []

    def tokenise(self, table):
        if (first := table["id"].to_pylist()[0]) not in failed and len(failed) < 5:
            failed.append(first)
            raise RuntimeError("trouble")
        return real(self, table)

    monkeypatch.setattr(Tokenise, "__call__", tokenise)
    executor = Counting()
    assert run(job(tmp_path), executor).adds_up
    assert executor.executions == [45]


def test_a_fault_of_all_files_stops_the_run_early(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus", shards=60, rows=16)
    monkeypatch.setattr(unit_attempts, "MOST_FAILED", 4)
    config = job(tmp_path)
    found = prepare(config, InlineExecutor())
    for file in (tmp_path / "corpus").iterdir():
        file.unlink()
    executor = Counting()
    with pytest.raises(VectormillError, match="5 units or files failed"):
        Run.open(found, executor, Said()).work()
    assert executor.executions[0] < 20


def test_rows_to_blame_are_looked_for_before_many_are_lost(tmp_path):
    """An engine ends early when much is lost. The rest of the corpus is drawn when the rows to blame are found."""
    write_parquet(tmp_path / "corpus", shards=30, rows=4)

    class Ending(Unreliable):
        def run(self, read, stages, spans):
            return super().run(read, stages, islice(spans, 3))

    executor = Ending(lose=[(f"part-{n}.", 2) for n in (3, 17, 28)])
    certificate = run(job(tmp_path), executor)
    assert certificate.adds_up
    assert certificate.reasons == {"crashes_worker": 3}


def test_a_stream_is_begun_once_more_behind_so_many_bundles(monkeypatch):
    """The driver holds a span as a whole."""
    monkeypatch.setattr(sizing, "BUNDLES_PER_SPAN", 4)
    one = replace(shard(100), seekable=False)
    found = list(sizing.spans((unit,) for unit in cut(one, 10)))
    assert [len(span) for span in found] == [4, 4, 2]
    assert [unit.start for span in found for (unit,) in span] == list(range(0, 100, 10))


def test_units_are_longer_where_one_driver_serves_many_replicas():
    speed = 227_000.0  # tokens/s a replica
    sizes = {n: sizing.rows_per_unit(180, speed, n) for n in (1, 64, 128, 256, 512)}
    assert sizes == {1: 8_192, 64: 8_192, 128: 8_192, 256: 16_384, 512: 32_768}
    for replicas, size in sizes.items():
        assert replicas * 2 * speed / 180 / size < 60, "also when they are twice as fast as estimated"


@pytest.mark.parametrize(("replicas", "commits"), [(1, 8), (4, 2)])
def test_more_replicas_do_not_make_more_commits(tmp_path, monkeypatch, replicas, commits):
    write_parquet(tmp_path / "corpus", shards=2, rows=64)
    monkeypatch.setattr(sizing, "COMMIT_EVERY_ROWS", 16)
    config = job(tmp_path, run={"replicas": replicas, "commit_every_seconds": 600, "rows_per_unit": 16})
    monkeypatch.setattr(sizing, "parcels_per_fragment", lambda *sizes: 1)
    run(config)
    table = LanceTable.open(prepare(config, InlineExecutor()).address)
    assert table.version == 1 + 1 + commits, "creation, fence, commits"
