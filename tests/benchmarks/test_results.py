"""The results that are kept are of one form, the one that `benchmarks/machine.py` writes."""

import datetime
import json
from pathlib import Path

import pytest

from benchmarks import machine

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").iterdir())
SCRIPTS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} | {"gpu", "model layer", "chaos", "kill driver"}


def of_the_form(found):
    assert list(found)[:3] == ["benchmark", "settings", "machine"]
    assert len(found) > 3, "something was measured"
    assert found["benchmark"] in SCRIPTS
    assert {"date", "cpu", "cores", "versions"} <= set(found["machine"])
    assert found["machine"]["versions"]
    assert isinstance(found["settings"], dict)
    return datetime.date.fromisoformat(found["machine"]["date"])


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_kept_result(path):
    (line,) = path.read_text(encoding="utf-8").splitlines()
    date = of_the_form(json.loads(line))
    assert path.name.startswith(f"{date}-")
    assert path.suffix == ".json"


def test_a_new_one():
    settings = {"rows": 5, "folder": "/somewhere", "one_run": None}
    found = json.loads(json.dumps(machine.result("scale", settings, machine.facts(), rows_per_second=7)))
    of_the_form(found)
    assert found["settings"] == {"rows": 5}
    assert "/somewhere" not in json.dumps(found)
    assert found["rows_per_second"] == 7
