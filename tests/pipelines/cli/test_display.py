"""The display of a run: its line, its panel, and what becomes of the engine's output."""

import io
import os
import subprocess
import tempfile
import time

import pytest
from rich.console import Console

from pipelines.cli import terminal as report
from pipelines.cli.display import Display, duration, line
from pipelines.engine.stage import Receipt, Tally
from pipelines.errors import CorpusError
from pipelines.run.metrics import RunMetrics
from pipelines.units import Unit


def metrics(**facts):
    known = {"rows_total": 1000, "units_total": 10, "replicas": 2, "rows_before": 300, "units_before": 3}
    return RunMetrics(**{**known, **facts})


def in_the_middle():
    """300 rows were there, 400 more are written and 200 of these committed, 7 of them bad."""
    found = metrics()
    found.begin()
    found.began -= 10
    tallies = (Tally(tokens=5000, bad_rows=bad) for bad in (3, 4))
    receipts = [
        Receipt((Unit(1, "a", n, n + 200, 9, "s"),), (), one) for n, one in zip((300, 500), tallies, strict=True)
    ]
    for receipt in receipts:
        found.received(receipt)
    found.committed(receipts[:1])
    return found


def test_line():
    shown = line(in_the_middle().snapshot())
    for part in ("500 of 1,000 rows in the table (50%)", "4 of 10 units", "2 replica(s)", "1 commits", "7 bad"):
        assert part in shown
    assert shown.endswith(" s left")
    assert "failed" not in shown
    done = metrics(rows_before=1000, units_before=10).snapshot()
    assert "left" not in line(done)
    assert "(100%)" in line(metrics(rows_total=0, rows_before=0).snapshot())
    assert "3 units failed" in line(metrics(failures=3).snapshot())


def test_durations_and_sizes():
    assert [duration(s) for s in (-1, 0.4, 59, 60, 75, 3599, 3600, 90061)] == [
        *("0 s", "0 s", "59 s", "1 min 00 s", "1 min 15 s", "59 min 59 s", "1 h 00 min", "25 h 01 min")
    ]
    assert [report.size(n) for n in (0, 999, 1000, 1_234_567, 5e9, 7.5e12)] == [
        *("0 bytes", "999 bytes", "1.0 kB", "1.2 MB", "5.0 GB", "7.5 TB")
    ]


def test_plain_lines_without_a_terminal(capsys):
    shown = Display(seconds_between_lines=0.05)
    with shown.running():
        shown.update(in_the_middle().snapshot())
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) >= 3
    assert all("500 of 1,000 rows in the table" in s and s[2] == s[5] == ":" for s in err.splitlines())
    quiet = Display(quiet=True, seconds_between_lines=0.01)
    with quiet.running():
        quiet.update(in_the_middle().snapshot())
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


def on_a_terminal(monkeypatch):
    shown, screen = Display(), io.StringIO()
    monkeypatch.setattr(shown, "_console", Console(file=screen, force_terminal=True, width=120, highlight=False))
    return shown, screen


def test_panel_on_a_terminal(monkeypatch, capsys):
    shown, screen = on_a_terminal(monkeypatch)
    with shown.running():
        shown.update(in_the_middle().snapshot())
        shown.say("a line [of] ours")
        print("noise of the engine")
    for part in ("700 of 1,000", "in the table", "500", "4 of 10", "bad rows", "70%", "s left", "a line [of] ours"):
        assert part in screen.getvalue()
    assert "noise" not in screen.getvalue(), "rich must not carry the engine's output onto the screen"
    assert "noise" in capsys.readouterr().out
    shown, screen = on_a_terminal(monkeypatch)
    with shown.running():
        shown.update(metrics(failures=1).snapshot())
    assert "starting the replicas" in screen.getvalue()
    assert "failed units" in screen.getvalue()


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: sorted(tmp_path.glob("vectormill-engine-*.log"))


def make_noise():
    for number, words in ((1, "python noise"), (2, "python errors")):
        with open(number, "w", closefd=False) as stream:  # pytest's sys.stdout does not write to the descriptor
            print(words, file=stream)
    os.write(1, b"native noise\n")
    os.write(2, b"native errors\n")
    subprocess.run(["sh", "-c", "echo noise of a child; echo errors of a child >&2"], check=True)


def test_engine_output_is_hidden_and_the_terminal_comes_back(logs, capfd):
    shown = Display()
    with shown.engine_output():
        make_noise()
        shown.say("ours")
    print("after")
    os.write(2, b"after too\n")
    shown.say("ours again")
    out, err = capfd.readouterr()
    assert out == "after\n"
    assert [s.partition(" ")[2] if s[2] == ":" else s for s in err.splitlines()] == ["ours", "after too", "ours again"]
    assert logs() == []


def fail_amid_noise(shown, error):
    with shown.engine_output():
        make_noise()
        raise error


@pytest.mark.parametrize("quiet", [False, True])
def test_engine_output_is_kept_and_named_after_an_error(logs, capfd, quiet):
    with pytest.raises(RuntimeError):
        fail_amid_noise(Display(quiet), RuntimeError)
    (log,) = logs()
    out, err = capfd.readouterr()
    assert out == ""
    assert err == f"what the engine wrote is in {log}\n"
    assert sorted(log.read_text().splitlines()) == [
        *("errors of a child", "native errors", "native noise", "noise of a child", "python errors", "python noise")
    ]


@pytest.mark.parametrize("error", [CorpusError, KeyboardInterrupt])
def test_engine_output_is_not_kept_when_it_explains_nothing(logs, capfd, error):
    """A mistake in the job, and Ctrl-C."""
    with pytest.raises(error):
        fail_amid_noise(Display(), error)
    assert logs() == []
    assert capfd.readouterr().err == ""


def test_an_engine_that_was_silent_leaves_no_log(logs, capfd):
    with pytest.raises(RuntimeError), Display().engine_output():
        raise RuntimeError
    assert logs() == []
    assert capfd.readouterr().err == ""
