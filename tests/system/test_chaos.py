"""A short slice of the chaos suite; `make chaos` runs it for half an hour."""

import json

from tests.system.chaos import __main__ as chaos
from tests.system.chaos.faults import Kind


def test_a_few_faults(capsys):
    options = "--faults 5 --minutes 0 --seed 3 --at-once 1 --engine inline --store folder"
    code = chaos.main(options.split())
    *trials, last = capsys.readouterr().out.splitlines()
    result = json.loads(last)
    assert code == 0, trials
    assert result["faults"] >= 5
    assert result["records_judged"] > 0
    assert [result[fault] for fault in ("lost", "doubled", "unknown", "wrong", "torn")] == [0] * 5
    assert result["reads"] > 0


def test_a_kind_of_fault_that_never_happens_is_not_well(capsys, monkeypatch):
    """Such as one that looks for processes by a name that they no longer have."""
    monkeypatch.setattr(chaos, "KINDS", [Kind("in vain", lambda trial: False)])
    assert chaos.main(["--trial-seed", "3", "--engine", "inline", "--store", "folder"]) == 1
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["ok"], result["never_happened"], result["failed_trial_seeds"]) == (False, ["in vain"], [])
