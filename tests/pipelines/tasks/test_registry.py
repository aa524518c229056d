"""The job file and the tasks speak of the same things."""

from typing import get_args

from pipelines.config import RESULT_COLUMNS, JobConfig
from pipelines.tasks.registry import TASKS


def test_a_job_file_may_ask_for_each_task_and_no_other():
    assert set(get_args(JobConfig.model_fields["task"].annotation)) == set(TASKS)
    assert {name: task.name for name, task in TASKS.items()} == {name: name for name in TASKS}


def test_no_carried_column_may_be_called_as_a_result():
    assert {name: task.results.columns for name, task in TASKS.items()} == RESULT_COLUMNS
