"""The tasks that a job file can ask for, by name."""

from __future__ import annotations

from pipelines.config import JobConfig
from pipelines.tasks.embed import EmbedTask
from pipelines.tasks.rerank import RerankTask
from pipelines.tasks.task import JobTask

TASKS: dict[str, type[EmbedTask] | type[RerankTask]] = {EmbedTask.name: EmbedTask, RerankTask.name: RerankTask}


def task_of(job: JobConfig) -> JobTask:
    return TASKS[job.task](job)
