"""`pipelines` and `actors` are names that others use too: a folder of DAGs, a project, whatever is on PYTHONPATH. The
command, a program and every process of Ray take vectormill's own, or say in one message why they cannot."""

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.clusters import Nodes
from tests.support.jobs import job, write_parquet

COMMAND = str(Path(sys.executable).parent / "vectormill")
NOISE = 'raise RuntimeError("somebody else\'s package was imported")\n'


def package(folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(NOISE)


def module(folder, name):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(NOISE)


def namespace(folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "mine.py").write_text(NOISE)


KINDS = {"package": package, "module": module, "namespace": namespace}


def decoys(folder, kind):
    """A folder in which both names are somebody else's."""
    for name in ("pipelines", "actors"):
        KINDS[kind](folder, name)
    return folder


def job_in(folder, engine="inline", **run):
    write_parquet(folder / "corpus")
    settings = {"engine": engine, "rows_per_unit": 16, **run}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(job(folder, run=settings).model_dump(mode="json")))
    return str(path)


def run(*command, cwd, path=None):
    """The command, in this folder, with `path` as PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(path)} if path is not None else {}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


def embeds_and_verifies(job_file, command, **where):
    for words in (("embed", job_file, "--json"), ("verify", job_file, "--json", "--sample", "2")):
        done = run(*command, *words, **where)
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["certificate"]["embedded_rows"] == 120


@pytest.mark.parametrize("command", [[COMMAND], [sys.executable, "-m", "vectormill"]], ids=["script", "module"])
@pytest.mark.parametrize("kind", KINDS)
def test_inline_the_command_finds_its_own_packages(tmp_path, kind, command):
    project = decoys(tmp_path / "project", kind)
    embeds_and_verifies(job_in(tmp_path), command, cwd=project, path=project)


@pytest.mark.parametrize("kind", KINDS)
def test_on_ray_each_process_finds_them(tmp_path, kind):
    """Ray puts the driver's working directory first on its workers' path."""
    project = decoys(tmp_path / "project", kind)
    embeds_and_verifies(job_in(tmp_path, "ray"), [COMMAND], cwd=project, path=project)


def on_a_cluster(tmp_path):
    """The nodes have the decoys on their path, too."""
    project = decoys(tmp_path / "project", "package")
    os.environ["PYTHONPATH"] = str(project)
    nodes = Nodes(workers=1)
    try:
        job_file = job_in(tmp_path, "ray", address=nodes.address)
        os.environ |= {"RAY_ENABLE_AUTO_CONNECT": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        embeds_and_verifies(job_file, [COMMAND], cwd=project, path=project)
    finally:
        nodes.end()


def test_on_a_cluster_too(tmp_path):
    """In a process of its own, as test_cluster.py."""
    process = multiprocessing.get_context("spawn").Process(target=on_a_cluster, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0, "its traceback is on stderr"


# ---------------------------------------------------------------------- in somebody's program


def program(text, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "pipelines").mkdir()
    (project / "pipelines" / "__init__.py").write_text("MINE = True\n")
    (project / "pipelines" / "mine.py").write_text("MINE = True\n")
    (project / "program.py").write_text(text)
    return run(sys.executable, "program.py", cwd=project)


def test_a_program_may_import_both_as_long_as_it_asks_for_nothing(tmp_path):
    done = program("import vectormill\nimport pipelines.mine\nassert pipelines.mine.MINE\n", tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_program_that_has_its_own_is_told_what_to_do(tmp_path):
    done = program("import pipelines.mine\nimport vectormill\nvectormill.Job\n", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "this process has imported another package 'pipelines', from " in last
    assert "project/pipelines, and" in last
    assert "in a process of its own, by the command" in last


def test_a_program_that_looks_for_its_own_in_ours_is_told_too(tmp_path):
    done = program("import vectormill\nvectormill.Job\nimport pipelines.mine\n", tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ModuleNotFoundError: No module named 'pipelines.mine': in this process 'pipelines' is")
    assert "in a process of its own, by the command" in last
