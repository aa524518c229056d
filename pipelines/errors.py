"""Everything a run can tell its user, as one tree. The number is the process's exit code: what a scheduler should do.

    VectormillError              1  one clear message: what, where, what to do
    ├── ConfigError              2  the job file, an option or the call is wrong
    ├── CorpusError              2  a shard cannot be listed, read or understood
    │   ├── CorpusChanged        1  it was written or taken away while it was read
    │   └── TooLarge             2  rows come to more bytes than are held at once: read fewer of them together
    ├── StorageError             1  the object store or disk fails in a way that nobody foresaw
    │   ├── StoreUnavailable     1  it does not answer, fails inside, asks for fewer requests: tried again for minutes
    │   └── StorageRefused       2  no such bucket, no permission, no room, unfit (no conditional PUT): it stays so
    │       └── CredentialsRefused  2  none, wrong or expired: nothing else will fare better
    ├── TableError               2  the table is missing, foreign or damaged
    │   ├── FingerprintMismatch  2  it holds another embedding space, or other scores
    │   └── TableChanged         1  others changed it at the same moment; the same command goes on from there
    ├── EngineError              1  Ray cannot be started or reached, or lost what it had in hand
    ├── Superseded               3  a newer run, or the table's owner, took it over; nothing to repair
    ├── Incomplete               2  too many rows are bad
    └── OutputError              2  what was found cannot be written to stdout

1: the same command may do better by itself, in a minute or a day. 2: it will not; a person has to look. 3: another one
does the work. A run that ends without an error and whose sums do not add up exits with 1 too.

The model layer has its own tree, `actors.spec.ModelError`, with the same numbers: it must not know this package.
An error whose class is made of one message can travel between processes and keep its class.
"""

from __future__ import annotations


class VectormillError(Exception):
    """A failure with a message meant for a person. `exit_code` is the process's exit status."""

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or SIGHUP; `exit_code` is 130, 143 or 129. Raised by the command line's signal handlers, because
    the engine and the CLI library each have ideas of their own about a plain KeyboardInterrupt."""

    def __init__(self, signal_number: int):
        self.exit_code = 128 + signal_number
        super().__init__("stopped. What is committed stays; the same command goes on from there.")


class ConfigError(VectormillError):
    exit_code = 2


class CorpusError(VectormillError):
    exit_code = 2


class CorpusChanged(CorpusError):
    exit_code = 1


class TooLarge(CorpusError):
    pass


class StorageError(VectormillError):
    pass


class StoreUnavailable(StorageError):
    """`fault`: what is wrong in a few words, for the line that says a call is tried again."""

    def __init__(self, message: str, fault: str = ""):
        self.fault = fault
        super().__init__(message)


class StorageRefused(StorageError):
    exit_code = 2


class CredentialsRefused(StorageRefused):
    pass


class TableError(VectormillError):
    exit_code = 2


class FingerprintMismatch(TableError):
    """`differences` maps each differing identity field to (in the table, in this job)."""

    def __init__(self, message: str, differences: dict[str, tuple[object, object]] | None = None):
        self.differences = differences or {}
        super().__init__(message)

    @classmethod
    def between(
        cls, table: str, differences: dict[str, tuple[object, object]], space: str, remedy: str
    ) -> FingerprintMismatch:
        """`space`: what of another kind the table holds; `remedy`: what to do."""
        lines = [f"  {name}: table has {old!r}, this job has {new!r}" for name, (old, new) in differences.items()]
        said = f"{table} holds {space}; nothing was written. It differs in:\n" + "\n".join(lines) + f"\n{remedy}"
        return cls(said, differences)


class TableChanged(TableError):
    exit_code = 1


class EngineError(VectormillError):
    pass


class Superseded(VectormillError):
    exit_code = 3


class Incomplete(VectormillError):
    exit_code = 2


class OutputError(VectormillError):
    exit_code = 2
