"""A short slice of the chaos suite; `make chaos` runs it for half an hour."""

import json

from chaos import __main__ as chaos


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
