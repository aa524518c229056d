"""Everything a run can tell its user, as one tree.

    VectormillError              one clear message: what, where, what to do; exit code 1
    ├── ConfigError              the job file or an override is wrong; exit code 2
    ├── CorpusError              a shard cannot be listed, read or understood
    │   └── TooLarge             rows come to more bytes than are held at once: read fewer of them together
    ├── StorageError             the object store or disk refuses, or is unfit (no conditional PUT)
    │   ├── StoreUnavailable     it does not answer, fails inside, asks for fewer requests: tried again for minutes
    │   └── CredentialsRefused   none, wrong or expired: nothing else will fare better
    ├── TableError               the table is missing, foreign or damaged
    │   └── FingerprintMismatch  the table holds another embedding space, or other scores
    ├── Superseded               a newer run took over the table; nothing to repair
    └── Incomplete               the run ended and the sums do not add up, or too many rows are bad

The model layer has its own `actors.spec.ModelError`: it must not know this package.
"""

from __future__ import annotations


class VectormillError(Exception):
    """A failure with a message meant for a person. `exit_code` is the process's exit status."""

    exit_code = 1


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM; `exit_code` is 130 or 143. Raised by the command line's signal handlers, because the engine
    and the CLI library each have ideas of their own about a plain KeyboardInterrupt."""

    def __init__(self, signal_number: int):
        self.exit_code = 128 + signal_number
        super().__init__("stopped. What is committed stays; the same command goes on from there.")


class ConfigError(VectormillError):
    exit_code = 2


class CorpusError(VectormillError):
    pass


class TooLarge(CorpusError):
    pass


class StorageError(VectormillError):
    pass


class StoreUnavailable(StorageError):
    """`fault`: what is wrong in a few words, for the line that says a call is tried again."""

    def __init__(self, message: str, fault: str = ""):  # one argument must do: it travels between processes
        self.fault = fault
        super().__init__(message)


class CredentialsRefused(StorageError):
    pass


class TableError(VectormillError):
    pass


class FingerprintMismatch(TableError):
    """`differences` maps each differing identity field to (in the table, in this job); `space`: what of another kind
    the table holds; `remedy`: what to do."""

    def __init__(self, table: str, differences: dict[str, tuple[object, object]], space: str, remedy: str):
        self.differences = differences
        lines = [f"  {name}: table has {old!r}, this job has {new!r}" for name, (old, new) in differences.items()]
        super().__init__(
            f"{table} holds {space}; nothing was written. It differs in:\n" + "\n".join(lines) + f"\n{remedy}"
        )


class Superseded(VectormillError):
    pass


class Incomplete(VectormillError):
    pass
