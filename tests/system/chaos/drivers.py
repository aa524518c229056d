"""`vectormill embed` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.system.chaos.processes import Process, descendants

ROOT = Path(__file__).resolve().parents[3]
LONGEST_RUN_SECONDS = 600.0


def environment(folder: Path) -> dict[str, str]:
    """This tree's code, and temporary files where they go with the trial's folder."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(folder), "TMPDIR": str(folder)}


class Driver:
    """One process. `signals`: what it was sent; `rivals`: whether another driver ran at the same time;
    `may_fail`: whether something was done that it may rightly report with exit code 1 or 2."""

    def __init__(self, folder: Path, number: int, command: Sequence[str]):
        self.number = number
        self.folder = folder
        self.signals: list[int] = []
        self.rivals = False
        self.may_fail = False
        self.serial = 0
        self.family: set[Process] = set()  # as seen before it was killed
        self.started = time.monotonic()
        with open(self._file("out"), "wb") as out, open(self._file("log"), "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=environment(folder),
                stdout=out,
                stderr=log,
                start_new_session=True,
            )

    def _file(self, kind: str) -> Path:
        return self.folder / f"driver-{self.number:03d}.{kind}"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def log(self) -> str:
        return self._file("log").read_text(errors="replace")

    @property
    def certificate(self) -> dict[str, Any]:
        return json.loads(self._file("out").read_text())

    def send(self, signal_number: int) -> bool:
        """False if it had ended."""
        if not self.alive:
            return False
        if signal_number == signal.SIGKILL:
            self.family = descendants(self.pid)
        self.signals.append(signal_number)
        os.kill(self.pid, signal_number)
        return True

    def wait(self, seconds: float = LONGEST_RUN_SECONDS) -> int | None:
        """Its exit code; None if it did not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def wait_until_it_speaks(self, seconds: float = 60) -> None:
        """Its first message comes when its signal handlers are in place."""
        deadline = time.monotonic() + seconds
        while self.alive and not self.log and time.monotonic() < deadline:
            time.sleep(0.02)
