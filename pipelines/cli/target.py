"""What a command works on: the table of a job, or a table by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.config import JobConfig, RunConfig
from pipelines.errors import ConfigError
from pipelines.job_file import load_job

if TYPE_CHECKING:  # it imports Lance; `vectormill --help` does not need it
    from pipelines.table.files import TableAddress


@dataclass(frozen=True)
class Target:
    """job: None for a table by itself."""

    address: TableAddress
    job: JobConfig | None

    @property
    def run(self) -> RunConfig:
        """How a job over this table runs: as the job file says; for a table alone in this process."""
        return self.job.run if self.job is not None else RunConfig(engine="inline")


def target_of(text: str, overrides: Sequence[str]) -> Target:
    """A job file, or FOLDER/NAME, or s3://BUCKET/FOLDER/NAME. Raises ConfigError."""
    from pipelines.table.files import TableAddress

    if text.endswith((".yaml", ".yml")):
        job = load_job(text, overrides)
        return Target(TableAddress(job.table.location, job.storage), job)
    if overrides:
        raise ConfigError("--set goes with a job file, not with a table")
    return Target(TableAddress.named(text), None)
