"""How a cluster is reached: nobody there is said within seconds, whatever `auto` finds, and a signal is obeyed."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import yaml

from pipelines.engine import reach
from pipelines.errors import ConfigError, EngineError
from tests.support.jobs import job, write_parquet

DEAD = "127.0.0.1:9"


@pytest.fixture
def no_heads(monkeypatch, tmp_path):
    for name in ("RAY_ADDRESS", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(reach, "_heads_here", lambda: 0)
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_auto_that_points_to_a_dead_head_says_so_at_once(no_heads, monkeypatch):
    with pytest.raises(EngineError, match="no cluster of Ray runs on this machine"):
        reach.must_be_somewhere()
    no_heads.write_text(DEAD)
    with pytest.raises(EngineError, match=rf"by {no_heads}: nothing answers at {DEAD}"):
        reach.must_be_somewhere()
    monkeypatch.setattr(reach, "_heads_here", lambda: 2)
    with pytest.raises(EngineError, match="nothing answers"):
        reach.must_be_somewhere()
    monkeypatch.setenv("RAY_ADDRESS", DEAD)
    monkeypatch.setattr(reach, "_heads_here", lambda: 1)
    with pytest.raises(EngineError, match=f"RAY_ADDRESS: nothing answers at {DEAD}") as caught:
        reach.must_be_somewhere()
    assert caught.value.exit_code == 1
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        reach.must_be_somewhere()


def test_what_is_no_address_is_a_mistake():
    for address in ("nohost", "host:port"):
        with pytest.raises(ConfigError, match=r"is no host:port"):
            reach.must_answer(address)


@pytest.mark.parametrize(
    ("said", "code", "words"),
    [
        (
            "AF_UNIX path length cannot exceed 107 bytes: /x",
            2,
            "set RAY_TMPDIR to a short",
        ),
        (
            "Token authentication is enabled but no authentication token was found",
            2,
            "RAY_AUTH_MODE=token and RAY_AUTH",
        ),
        ("Failed to connect to GCS", 1, "If the cluster wants a token"),
    ],
)
def test_what_ray_says_is_explained(monkeypatch, tmp_path, said, code, words):
    monkeypatch.setenv("HOME", str(tmp_path))
    found = reach.meant("h:1", RuntimeError(said))
    assert (found.exit_code, words in str(found)) == (code, True)


def test_a_home_that_is_not_ours_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    found = reach.meant(None, FileNotFoundError("nowhere"))
    assert (found.exit_code, "nowhere does not exist, and Ray keeps its token there" in str(found)) == (2, True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "is not this user's to write in" in str(reach.meant(None, PermissionError("no")))


def test_what_does_not_come_in_time_is_given_up():
    waits = threading.Event()
    with pytest.raises(EngineError, match=r"no answer within 0 s\. If the cluster wants a token"):
        reach.in_time(waits.wait, 0.01)
    waits.set()
    with pytest.raises(ZeroDivisionError):
        reach.in_time(lambda: 1 / 0)
    reach.in_time(lambda: None)


@pytest.mark.parametrize("how", ["silent", "dead"])
def test_the_command_obeys_sigterm_while_it_connects(tmp_path, how):
    """Something takes the connection and says nothing: Ray's own call would not return for a signal."""
    write_parquet(tmp_path / "corpus")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job(tmp_path).model_dump(mode="json")))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}" if how == "silent" else DEAD
        asked = ["--set", "run.engine=ray", "--set", "run.address=auto"]
        command = [sys.executable, "-m", "vectormill", "embed", str(tmp_path / "job.yaml"), *asked]
        environment = {**os.environ, "RAY_ADDRESS": address}
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        if how == "silent":
            server.settimeout(60)
            server.accept()  # the look whether anybody is there
            time.sleep(5)  # Ray is at it
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == (143 if how == "silent" else 1), said
    assert ("stopped." if how == "silent" else f"RAY_ADDRESS: nothing answers at {DEAD}") in said
    assert "Traceback" not in said
