"""A table, a collection for it, and what is measured with the two."""

import pytest
import yaml

from pipelines.search.evaluation.evaluate import EvaluationRequest, evaluate
from tests.support.evaluating import write_beir
from tests.support.jobs import Said, job, run, write_parquet


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The job of a table of 120 rows, and a collection for it."""
    folder = tmp_path_factory.mktemp("built")
    write_parquet(folder / "corpus")
    config = job(folder)
    run(config)
    return config, write_beir(folder / "beir")


@pytest.fixture(scope="module")
def found(built):
    return evaluate(built[0], EvaluationRequest(built[1]), Said())


@pytest.fixture(scope="module")
def job_file(built):
    config, beir = built
    path = beir.parent / "job.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_none=True)))
    return path
