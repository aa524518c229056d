"""The exit code is the truth, also when the engine is in the middle of something as the command ends."""

import errno
import signal
import subprocess
import sys
import textwrap

import pytest
import yaml

from tests.support.commands import call
from tests.support.jobs import job, write_parquet

# The engine's thread writes without end, so that it is inside Lance whenever the run is stopped.
WRITING = textwrap.dedent(
    """
    import os, signal, sys
    import pipelines.table.sink
    real = pipelines.table.sink.write_rows

    def for_ever(address, rows, run):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            real(address, rows, run)

    pipelines.table.sink.write_rows = for_ever
    from pipelines.cli.app import main
    sys.argv = ["vectormill", "embed", sys.argv[1], "--quiet"]
    main()
    """
)


def embed(script, folder, **run):
    write_parquet(folder / "corpus")
    (folder / "job.yaml").write_text(yaml.safe_dump(job(folder, run=run).model_dump(mode="json")))
    command = [sys.executable, "-c", script, str(folder / "job.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_a_thread_inside_lance_does_not_abort_a_stopped_run(tmp_path):
    done = embed(WRITING, tmp_path)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped. What is committed stays" in done.stderr


# Whoever asks for signals while a call waits may raise something else in place of what the handler raised.
IN_ITS_PLACE = """
import os, signal, sys
import pyarrow as pa
from pipelines.cli import app as cli
from pipelines.table import contents
from pipelines.run import prepare
from pipelines.errors import Stopped

def interrupted(*arguments, **options):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except Stopped as stop:
        error = {error}
    raise error

{place} = interrupted
sys.argv = ["vectormill", "embed", sys.argv[1], "--quiet"]
cli.main()
"""


@pytest.mark.parametrize(
    ("place", "error"),
    [
        pytest.param("contents.units", 'pa.ArrowInvalid(f"External error: Stopped: {stop}")', id="Lance"),
        pytest.param("prepare.scan_all", "KeyboardInterrupt()", id="Ray"),
    ],
)
def test_a_stop_that_comes_back_as_another_error_is_a_stop(tmp_path, place, error):
    done = embed(IN_ITS_PLACE.format(place=place, error=error), tmp_path)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped. What is committed stays" in done.stderr


# A thread of Ray Data that finds Ray shut down ends the process with 1. Here it has the time to.
SHUT_DOWN = textwrap.dedent(
    """
    import os, signal, sys, time
    import ray
    from pipelines.cli import app as cli
    from pipelines.table.fence import Fence
    real = ray.shutdown

    def and_wait():
        real()
        time.sleep(10)

    ray.shutdown = and_wait
    Fence.commit = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
    sys.argv = ["vectormill", "embed", sys.argv[1], "--quiet"]
    cli.main()
    """
)


def test_threads_that_still_ask_ray_do_not_end_a_stopped_run(tmp_path):
    for _ in range(3):  # on a busy machine Ray may not be up within its 30 seconds
        done = embed(SHUT_DOWN, tmp_path, engine="ray", rows_per_unit=4)
        if "cannot start or reach Ray" not in done.stderr:
            break
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert "stopped. What is committed stays" in done.stderr


def test_a_broken_pipe_while_stopping_does_not_hide_the_stop(job_file, monkeypatch):
    from pipelines.errors import Stopped
    from pipelines.run import job

    def stopped(*_):
        try:
            raise Stopped(2)
        finally:
            raise BrokenPipeError(errno.EPIPE, "gone")

    monkeypatch.setattr(job, "embed", stopped)
    result = call("embed", job_file)
    assert result.exit_code == 130
    assert "the same command goes on from there" in result.stderr
