"""Whether something listens at an address, asked without the engine, whose own calls may wait for minutes."""

from __future__ import annotations

import socket

from pipelines.errors import ConfigError

PROBE_SECONDS = 10.0


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS):
        pass


def answers(address: str) -> bool:
    try:
        _connect(address)
    except OSError:
        return False
    return True


def must_answer(address: str) -> None:
    """Raise ConfigError unless something listens there: ray.init would wait for minutes without a word."""
    try:
        _connect(address)
    except (OSError, ValueError) as bad:
        raise ConfigError(
            f"run.address: nothing answers at {address} ({bad}); give the head node's host:port (6379 by default), "
            "auto on a node of the cluster, or null to start Ray here"
        ) from None
