"""kill -9 of the driver at each seam, then the same command: the same table as an undisturbed run's."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from jobs import Said, job, rows, run, write_parquet

from pipelines.certificate import differences

SEAMS = {
    "after read": ("pipelines.stages", "_read_units", "generator"),
    "after tokenise": ("pipelines.stages.Tokenise", "__call__", "generator"),
    "after write": ("pipelines.stages", "write_rows", "after"),
    "before commit": ("pipelines.lance_table.LanceTable", "commit", "before"),
    "after commit": ("pipelines.lance_table.LanceTable", "commit", "after"),
    "after fence": ("pipelines.lance_table.LanceTable", "take_fence", "after"),
    "after creation": ("pipelines.lance_table.LanceTable", "take_fence", "before"),
}

# Runs a job and kills its own process the n-th time a function is reached or left.
KILLER = textwrap.dedent(
    """
    import importlib, os, signal, sys
    path, name, when, nth, job_file = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]
    try:
        owner = importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, cls = path.rpartition(".")
        owner = getattr(importlib.import_module(module), cls)
    real, calls = getattr(owner, name), 0

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def patched(*args, **kwargs):
        global calls
        calls += 1
        if when == "generator":
            return generator(real(*args, **kwargs), calls)
        if when == "before" and calls == nth:
            die()
        result = real(*args, **kwargs)
        if when == "after" and calls == nth:
            die()
        return result

    def generator(items, call):
        for item in items:
            if call == nth:
                die()
            yield item

    setattr(owner, name, patched)
    from pipelines.cli import main
    sys.argv = ["vectormill", "embed", job_file, "--quiet"]
    main()
    """
)


def write_job(config, path):
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    write_parquet(folder / "corpus")
    config = job(folder)
    certificate = run(config)
    return rows(config), certificate.to_dict()


@pytest.mark.parametrize("nth", [1, 4])
@pytest.mark.parametrize("seam", SEAMS)
def test_killed_at(seam, nth, tmp_path, undisturbed):
    path, name, when = SEAMS[seam]
    if name == "take_fence" and nth > 1:
        pytest.skip("a run takes the fence once")
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path)
    job_file = write_job(config, tmp_path / "job.yaml")
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, path, name, when, str(nth), str(job_file)],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert killed.returncode == -9, killed.stderr
    said = Said()
    certificate = run(config, display=said)
    assert certificate.adds_up
    table, document = undisturbed
    assert rows(config) == table
    assert list(differences(certificate.to_dict(), document)) == [], "every count, id and bit of a vector"
    if nth == 4 and "commit" in seam:
        assert "of 9 units are in the table" in said.text, "what was committed is not embedded again"


def test_orphans_of_a_killed_run_are_removed(tmp_path, undisturbed):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"remove_orphans_after_seconds": 0})
    job_file = write_job(config, tmp_path / "job.yaml")
    path, name, when = SEAMS["after write"]
    subprocess.run([sys.executable, "-c", KILLER, path, name, when, "3", str(job_file)], timeout=120, check=False)
    data = tmp_path / "db" / "t.lance" / "data"
    left = len(list(data.iterdir()))
    said = Said()
    run(config, display=said)
    assert "removed 1 orphan file(s)" in said.text
    assert len(list(data.iterdir())) == left - 1 + 7
    assert rows(config) == undisturbed[0]
