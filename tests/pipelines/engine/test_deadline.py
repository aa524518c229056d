"""Calls that hang: they are not waited for, and the log says which rows were in hand."""

import subprocess
import sys
import textwrap
import threading

import pytest

from pipelines.corpus.corpus import Corpus
from pipelines.engine import deadline
from pipelines.errors import VectormillError
from pipelines.tasks import embed
from pipelines.tasks.embed import embedder
from tests.support.jobs import Said, ids, job, run, write_parquet

SHORT = 3.0  # long enough for a healthy call on a busy machine


@pytest.fixture
def hang():
    """Blocks whoever waits for it until the test is over."""
    over = threading.Event()
    yield over.wait
    over.set()


def test_results_and_errors_come_through():
    def fails():
        raise KeyError("x")

    assert deadline.call(60, lambda: 3) == 3
    assert deadline.call(None, threading.get_ident) == threading.get_ident(), "without a limit: in this thread"
    with pytest.raises(KeyError, match="x"):
        deadline.call(60, fails)
    first, second = (deadline.call(60, threading.get_ident) for _ in range(2))
    assert first == second != threading.get_ident(), "always the same thread"


def test_a_call_that_hangs_is_left_alone_and_its_answer_reaches_nobody():
    over = threading.Event()
    before = deadline.given_up()

    def late():
        over.wait()
        return "late"

    with pytest.raises(deadline.Hung, match=r"not done after 0.3 seconds \(run.stage_timeout_seconds\)"):
        deadline.call(0.3, late)
    assert deadline.given_up() == before + 1
    over.set()
    assert deadline.call(60, lambda: "mine") == "mine"


def test_a_process_that_cannot_even_say_that_it_hangs_ends():
    """A regular expression that never ends holds the interpreter's lock."""
    script = """
        import re
        from pipelines.engine import deadline
        deadline.GRACE_SECONDS = 0.5
        with deadline.watchdog(0.5):
            pass
        with deadline.watchdog(None):
            pass
        with deadline.watchdog(0.5):
            deadline.call(0.5, lambda: re.match(r"(a+)+$", "a" * 60 + "b"))
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert "in make\n" in done.stderr, "it says where"


# ---------------------------------------------------------------------- the inline engine


def hanging_embedder(spec, hang, poison):
    work = embedder(spec)

    def embed(parcels):
        if any(poison in parcel.rows["id"].to_pylist() for parcel in parcels):
            hang()
        return work(parcels)

    return embed


def test_inline_a_hang_ends_the_run_and_names_the_rows(tmp_path, monkeypatch, hang):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"stage_timeout_seconds": SHORT, "commit_every_seconds": 60})
    monkeypatch.setattr(embed, "embedder", lambda spec: hanging_embedder(spec, hang, "d90"))
    with pytest.raises(VectormillError, match=r"part-2.parquet rows 0 to 16: embed: not done after 3 s") as caught:
        run(config)
    assert caught.value.exit_code == 1
    assert "the same command goes on" in str(caught.value)
    assert 0 < len(ids(config)) < 120, "what was written is committed"
    monkeypatch.undo()
    assert run(config).adds_up
    assert ids(config) == sorted({f"d{n}" for n in range(120)})


def test_a_file_that_hangs_fails_its_units_only(tmp_path, monkeypatch, hang):
    write_parquet(tmp_path / "corpus")
    real = Corpus.read

    def read(self, units, carried):
        for number, table in enumerate(real(self, units, carried)):
            if units[0].path == "part-1.parquet" and number == 1:
                hang()
            yield table

    config, said = job(tmp_path, run={"stage_timeout_seconds": SHORT}), Said()
    monkeypatch.setattr(Corpus, "read", read)
    # The second time each unit is read alone, so it is the first of its reading.
    assert run(config, display=said).adds_up
    monkeypatch.setattr(Corpus, "read", lambda self, units, carried: iter(lambda: hang(), None))
    other = job(tmp_path, table={"name": "other"}, run={"stage_timeout_seconds": 0.05})
    certificate = run(other, display=said)
    assert not certificate.adds_up
    assert len(certificate.failures) == 9
    assert all("read: not done after 0.05 seconds" in failure for failure in certificate.failures)
