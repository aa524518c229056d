"""The wheel holds what it must, and what it installs runs from any folder.

Its dependencies are this environment's: installing them again would take minutes, and prove nothing of ours."""

import json
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from tests.support.jobs import job, write_parquet

ROOT = Path(__file__).parents[2]
SOURCES = ("vectormill", "pipelines", "actors", "pyproject.toml", "README.md", "LICENSE")


def done(*command, **how):
    finished = subprocess.run(command, capture_output=True, text=True, timeout=250, **how)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of a copy, or building would leave its folders in the clone."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    done(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, folder)
    (found,) = folder.glob("vectormill-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The bin folder of a new environment with the wheel; this one's packages come last on its path."""
    place = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", place)
    done(sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet", "--no-deps", wheel)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))  # its own .pth files are not read
    return place / "bin"


def test_the_wheel_holds_the_three_packages_and_their_types(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vectormill", "pipelines", "actors"}
    modules = {name for name in names if name.endswith(".py")}
    wanted = {path.relative_to(ROOT).as_posix() for top in SOURCES[:3] for path in (ROOT / top).rglob("*.py")}
    assert modules == wanted
    assert {name for name in names if name.endswith("py.typed")} == {f"{top}/py.typed" for top in SOURCES[:3]}


@pytest.mark.parametrize("engine", ["inline", "ray"])
def test_what_it_installs_runs_from_any_folder(installed, tmp_path, engine):
    where = done(installed / "python", "-c", "import pipelines; print(pipelines.__file__)", cwd=tmp_path)
    assert where.startswith(str(installed.parent)), "not the clone's"
    write_parquet(tmp_path / "corpus")
    settings = {"engine": engine, "rows_per_unit": 16}
    job_file = tmp_path / "job.yaml"
    job_file.write_text(yaml.safe_dump(job(tmp_path, run=settings).model_dump(mode="json")))
    assert json.loads(done(installed / "vectormill", "embed", job_file, "--json", cwd=tmp_path))["adds_up"]
    assert json.loads(done(installed / "vectormill", "verify", job_file, "--json", cwd=tmp_path))["ok"]
