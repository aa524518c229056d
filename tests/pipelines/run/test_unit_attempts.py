"""What is tried again, how a row that kills or hangs its process is found, and what stops the run."""

from itertools import islice

import pytest

from actors.spec import ModelError
from pipelines.engine.inline import InlineExecutor
from pipelines.engine.stage import Failed
from pipelines.errors import VectormillError
from pipelines.run.unit_attempts import MOST_LOST_SPANS, UnitAttempts
from pipelines.units import Unit, cut
from tests.support.engines import Unreliable
from tests.support.jobs import Said, job, rows, run, write_parquet
from tests.support.units import shard


def unit(rows, start=0):
    return Unit(1, "a.parquet", start, start + rows, 10, "s")


def test_a_unit_that_hangs_is_run_alone_then_in_eighths_then_its_row_is_named():
    said = Said()
    retries = UnitAttempts(said.say, str)
    whole = unit(20)

    def hangs(one):
        assert retries.after_failure(Failed((one,), "embed: not done", hung=True)) == []

    hangs(whole)
    assert retries.after_loss([], [((unit(5, 100), whole),)]) == ([(whole,)], [])
    hangs(whole)
    parts, guilty = retries.after_loss([], [((whole,),)])
    assert not guilty
    assert [(part.start, part.stop) for (part,) in parts][:3] == [(0, 2), (2, 5), (5, 7)]
    assert sum(part.rows for (part,) in parts) == 20
    assert len(parts) == 8
    hangs(unit(1))
    ran = [((unit(1),), (unit(1, 5),))]
    assert retries.after_loss([unit(1, 5)], ran) == ([(unit(1, 5),), (unit(1),)], []), "another may have been beside it"
    hangs(unit(1))
    guilty = [(unit(1, 5), "crashes_worker"), (unit(1), "hangs_worker")]
    assert retries.after_loss([unit(1, 5)], ran) == ([], guilty)
    assert "a.parquet rows 0 to 20, 20 row(s) in hand: embed: not done" in said.text
    assert not retries.failures


def test_too_many_hangs_stop_the_run():
    retries = UnitAttempts(lambda message: None, str)
    ran = [(unit(1, number),) for number in range(MOST_LOST_SPANS + 1)]
    for bundle in ran:
        retries.after_failure(Failed(bundle, "embed: not done", hung=True))
    with pytest.raises(VectormillError, match="65 hung"):
        retries.after_loss([], [(bundle,) for bundle in ran])


def test_a_process_that_dies_reading_a_long_span_is_narrowed_down():
    """It takes all units that would have followed with it."""
    units = list(cut(shard(2000), 10))
    again, guilty = UnitAttempts(lambda said: None, str).after_loss(units, [tuple((unit,) for unit in units)])
    assert (sum(part.rows for (part,) in again), guilty) == (2000, [])


def test_a_lost_bundle_of_many_tiny_units_is_narrowed_down():
    """One row that kills its process takes up to 256 units of its bundle with it: that is not a fault of the set-up."""
    tiny = tuple(unit for n in range(200) for unit in cut(shard(5, f"{n}.parquet"), 10))
    again, guilty = UnitAttempts(lambda said: None, str).after_loss(tiny, [(tiny,)])
    assert (len(again), guilty) == (200, [])
    many = [((unit,),) for unit in tiny[: MOST_LOST_SPANS + 1]]
    with pytest.raises(VectormillError, match="lost 65 units"):
        UnitAttempts(lambda said: None, str).after_loss([unit for ((unit,),) in many], many)


# ---------------------------------------------------------------------- in a whole run


def test_a_stage_that_raises_is_tried_again_then_reported(tmp_path, corpus, monkeypatch):
    from pipelines.tasks.embed import Tokenise

    real, calls = Tokenise.__call__, []

    def tokenise(self, table):
        calls.append(1)
        if "d17" in table["id"].to_pylist():
            raise RuntimeError("tokenizer trouble")
        return real(self, table)

    monkeypatch.setattr(Tokenise, "__call__", tokenise)
    certificate = run(job(tmp_path))
    assert not certificate.adds_up
    (failure,) = certificate.failures
    assert "part-0.parquet rows" in failure
    assert "tokenise: RuntimeError: tokenizer trouble" in failure
    assert certificate.missing_rows == 16, "the second unit of part-0"
    assert len(calls) == 9 + 1, "the failing unit was tried twice"


def test_rows_that_kill_their_process_are_found_and_recorded(tmp_path, corpus):
    lost = [("part-0", 3), ("part-2", 39)]
    certificate = run(job(tmp_path), Unreliable(lose=lost))
    assert certificate.adds_up
    assert certificate.reasons == {"crashes_worker": 2}
    bad = [r for r in rows(job(tmp_path)) if r["_reason"]]
    assert sorted(r["_detail"].split(":")[0] for r in bad) == ["part-0.parquet row 3", "part-2.parquet row 39"]
    assert len(rows(job(tmp_path))) == 120


class Deaf(InlineExecutor):
    """Takes `most` spans, and gives nothing back."""

    def __init__(self, most):
        super().__init__()
        self.most = most

    def run(self, read, stages, spans):
        list(islice(spans, self.most))
        return iter(())


def test_an_engine_that_loses_everything_stops_the_run(tmp_path):
    """A broken cluster must not turn a corpus into rows that `crash their worker`."""
    write_parquet(tmp_path / "corpus", shards=2 * MOST_LOST_SPANS, rows=16)
    with pytest.raises(VectormillError, match="the engine lost"):
        run(job(tmp_path), Deaf(MOST_LOST_SPANS + 1))
    assert rows(job(tmp_path)) == []


def test_an_engine_that_takes_nothing_stops_the_run(tmp_path, corpus):
    with pytest.raises(VectormillError, match="before it took up any work"):
        run(job(tmp_path), Deaf(0))


def test_replica_that_refuses_stops_the_run(tmp_path, corpus):
    class Refusing(InlineExecutor):
        def run(self, read, stages, spans):
            for span in spans:
                yield Failed(span[0], "this replica computes wrong vectors", fatal=ModelError)

    with pytest.raises(ModelError, match="this replica computes wrong"):
        run(job(tmp_path), Refusing())
    assert rows(job(tmp_path)) == []
