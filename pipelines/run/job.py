"""The main job: a corpus in, an exactly-once table out.

list and count shards, compare fingerprints (prepare.py) → one run over the table (run.py) → its record and certificate
beside the table
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.config import JobConfig
from pipelines.engine.open import open_executor
from pipelines.engine.stage import Executor
from pipelines.errors import ConfigError, VectormillError
from pipelines.progress import Progress
from pipelines.run.certificate import Certificate
from pipelines.run.little import marked
from pipelines.run.prepare import Prepared, prepare
from pipelines.run.run import Run
from pipelines.storage.conditional_put import check_conditional_put
from pipelines.storage.files import write_json
from pipelines.table.files import TableAddress
from pipelines.table.identity import heal
from pipelines.tasks.task import Task


def embed(job: JobConfig, progress: Progress) -> Certificate:
    """`vectormill embed`: run or resume the job. The account adds up, or Incomplete is raised with it."""
    _check_command(job, "embed")
    return run_job(job, progress)


def rerank(job: JobConfig, progress: Progress) -> Certificate:
    """`vectormill rerank`: as `embed`, for a job of pairs."""
    _check_command(job, "rerank")
    return run_job(job, progress)


def _check_command(job: JobConfig, command: str) -> None:
    if job.task != command:
        raise ConfigError(
            f"this job has task: {job.task}, and `vectormill {command}` runs jobs of task: {command}; run it with "
            f"`vectormill {job.task}`"
        )


def run_job(job: JobConfig, progress: Progress) -> Certificate:
    """Run or resume a job, whatever its task."""
    with prepared_job(job, progress) as (prepared, executor):
        return run_prepared(prepared, executor, progress)


@contextmanager
def prepared_job(job: JobConfig, progress: Progress, task: Task | None = None) -> Iterator[tuple[Prepared, Executor]]:
    """The job with its corpus counted, and the engine to run it, not started before it is needed; `task`: other than
    the job file's."""
    check_conditional_put(job.table.uri, job.storage)
    with progress.engine_output(), open_executor(job) as executor:
        address = TableAddress(job.table.location, job.storage)
        for version in heal(address):
            progress.say(f"{address.location}: took back version {version}, which a run made of another table there")
        progress.say(f"counting the rows of {job.corpus.uri}")
        yield prepare(job, executor, other=task), executor


def run_prepared(prepared: Prepared, executor: Executor, progress: Progress) -> Certificate:
    """One run; it leaves its record however it ends."""
    run = Run.open(prepared, executor, progress)
    certificate = None
    outcome = "failed"
    try:
        with marked(run.job, run.executor, run.rows_to_do, run.id):
            certificate = run.work()
        outcome = "complete" if certificate.adds_up else "incomplete"
    except KeyboardInterrupt:
        outcome = "stopped"
        raise
    finally:
        _save_record(run, outcome, certificate)
    return certificate


def _save_record(run: Run, outcome: str, certificate: Certificate | None) -> None:
    folder = run.job.table.side_folder
    try:
        write_json(f"{folder}/runs/{run.id}.json", run.record(outcome, certificate), run.job.storage)
        if certificate is not None:
            write_json(f"{folder}/certificate.json", certificate.to_dict(), run.job.storage)
    except VectormillError as bad:  # the table is what counts, and another error may be on its way
        run.progress.say(f"the run record could not be written: {bad}")
