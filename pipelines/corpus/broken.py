"""Files of a corpus that cannot be listed, counted or read: each is named, and costs its own rows only.

What is wrong with one file is told from what is wrong with the store, which stops a run: no other file will fare
better while it does not answer or refuses the credentials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.errors import CorpusError, CredentialsRefused, StorageError, StoreUnavailable, VectormillError

OF_ONE_FILE = (CorpusError, StorageError)
OF_THE_STORE = (StoreUnavailable, CredentialsRefused)  # these are StorageErrors, too
NAMED = 10  # of many, in one message


@dataclass(frozen=True)
class BrokenFile:
    """file: where it lies, in full. rows: how many of it cannot be had; None: nobody knows."""

    file: str
    why: str
    rows: int | None = None

    def __str__(self) -> str:
        return self.why if self.file in self.why else f"{self.file}: {self.why}"


Unfit = Callable[[BrokenFile], None]


def refuse(broken: BrokenFile) -> None:
    """For who wants a corpus without broken files. Raises CorpusError."""
    raise CorpusError(str(broken))


def error_of(files: Sequence[BrokenFile]) -> VectormillError | None:
    """What ends a command that did all it could; None for none."""
    return VectormillError(f"{len(files):,} file(s) cannot be read, the first: {files[0]}") if files else None


def named(files: Sequence[BrokenFile]) -> str:
    """The first of them, a line each."""
    lines = [f"  {file}" for file in files[:NAMED]]
    if len(files) > NAMED:
        lines.append(f"  and {len(files) - NAMED:,} more")
    return "\n".join(lines)
