"""What this machine remembers between processes, under ~/.cache/vectormill: a cache, which may be deleted at any time
when nothing runs."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock


def folder(name: str) -> Path:
    """Where things of one kind are kept. Raises OSError when this user has no home folder."""
    try:
        return Path.home() / ".cache" / "vectormill" / name
    except RuntimeError as error:
        raise OSError(f"there is no home folder to keep a cache in: {error}") from error


def key(*parts: object) -> str:
    """A file name, 24 hex digits, made from what the parts look like."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of `path`, which need not exist: one process or thread of this machine at a time, the others wait.

    A process that dies gives it up. Raises OSError when it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield


def read(path: Path) -> dict[str, Any]:
    """A record, or {} when there is none or it is damaged."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(path: Path, record: dict[str, Any]) -> None:
    """Writes a record; readers see the old one or the new one, never a part. Raises OSError."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        partial.write_text(json.dumps(record, indent=1))
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
