"""How a cluster is reached: at which address, whether somebody is there, and what it means when Ray is not let in. All
of it before, or without, Ray's own calls, which may wait for minutes without a word. Knows no Ray.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from pipelines.errors import ConfigError, EngineError, VectormillError

PROBE_SECONDS = 10.0
CONNECT_SECONDS = 60.0
LOOK_SECONDS = 0.2
TOKEN = (
    "If the cluster wants a token (Ray's default from 2.61 on, or a token in ~/.ray/auth_token there), set "
    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, for this command as for the head and every node"
)
CHOICES = "give the head node's host:port (6379 by default), auto on a node of the cluster, or null to start Ray here"
MEANT: tuple[tuple[str, str], ...] = (
    (r"AF_UNIX|socket path|File name too long",
     "the path of Ray's temporary folder is too long for its sockets (107 bytes with what Ray puts behind it): set "
     "RAY_TMPDIR to a short one, such as /tmp"),
    (r"[Aa]uthenticat|UNAUTHENTICATED|auth_token|auth token", TOKEN),
)  # fmt: skip


def connect(address: str) -> None:
    """Raises OSError if nothing listens there, ValueError for what is no host:port."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS):
        pass


def answers(address: str) -> bool:
    try:
        connect(address)
    except OSError:
        return False
    return True


def must_answer(address: str, told_by: str = "run.address") -> None:
    """Raise EngineError unless something listens there, ConfigError if it is no address."""
    try:
        connect(address)
    except ValueError as bad:
        raise ConfigError(f"{told_by}: {address!r} is no host:port ({bad}); {CHOICES}") from None
    except OSError as bad:
        raise EngineError(
            f"{told_by}: nothing answers at {address} ({bad}). If the cluster is gone or moved, {CHOICES}"
        ) from None


def must_be_somewhere() -> None:
    """For run.address auto: raise EngineError if all that it can find points to a head that is gone."""
    if (told := os.environ.get("RAY_ADDRESS", "")) not in ("", "auto", "local"):
        must_answer(told.removeprefix("ray://"), "RAY_ADDRESS")
        return
    heads = _heads_here()
    if heads == 1:  # Ray takes that one; of several, the one of the pointer
        return
    pointer = _temporary_folder() / "ray_current_cluster"
    try:
        told = pointer.read_text(encoding="utf-8").strip()
    except OSError:
        if heads:
            return
        raise EngineError(f"run.address: auto: no cluster of Ray runs on this machine; {CHOICES}") from None
    must_answer(told, f"run.address: auto, by {pointer}")


def _heads_here() -> int:
    found = 0
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            found += b"gcs_server" in process.read_bytes().split(b"\0")[0]
    return found


def _temporary_folder() -> Path:
    """Ray's own."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def in_time(begin: Callable[[], object], seconds: float = CONNECT_SECONDS) -> None:
    """Call `begin` in a thread of its own, so that a signal is obeyed meanwhile: Ray's calls do not return for one.

    Raises what it raises, EngineError if it is not done in time."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            begin()
        except BaseException as bad:  # noqa: BLE001 - handed on
            raised.append(bad)

    thread = threading.Thread(target=work, name="connecting", daemon=True)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive():
        thread.join(LOOK_SECONDS)
        if time.monotonic() > deadline:
            raise EngineError(f"no answer within {seconds:.0f} s. {TOKEN}")
    if raised:
        raise raised[0]


def meant(address: str | None, error: BaseException) -> VectormillError:
    """What it means that Ray could not be started or reached."""
    said = str(error).strip() or type(error).__name__
    begun = f"cannot start or reach Ray (run.address: {address}): {said}; "
    for pattern, advice in MEANT:
        if re.search(pattern, said):
            return ConfigError(begun + advice)
    if home := _home_is_unfit():
        return ConfigError(begun + home)
    if address is None:
        return EngineError(
            f"{begun}is there enough shared memory, or is the machine too busy? The same command may do in a minute"
        )
    return EngineError(f"{begun}{TOKEN}. run.address: null starts Ray on this machine")


def _home_is_unfit() -> str | None:
    home = Path(os.environ.get("HOME") or "~").expanduser()
    if home.is_dir() and os.access(home, os.R_OK | os.W_OK | os.X_OK):
        return None
    what = "is not this user's to write in" if home.exists() else "does not exist"
    return f"the home folder {home} {what}, and Ray keeps its token there: set HOME to a folder of this user's"
