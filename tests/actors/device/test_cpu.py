"""Whether a CPU is faster in bfloat16."""

import pytest

from actors.device import cpu

decide = cpu.bfloat16_is_faster  # as it is before a fixture replaces it


@pytest.mark.parametrize(
    ("supported", "seconds", "faster"), [(True, 2.0, True), (True, 1.1, False), (False, 9.0, False)]
)
def test_bfloat16_only_where_it_is_supported_and_clearly_faster(monkeypatch, supported, seconds, faster):
    monkeypatch.setattr(cpu, "_supports_bfloat16", lambda: supported)
    monkeypatch.setattr(cpu, "_seconds", lambda dtype: seconds if dtype.itemsize == 4 else 1.0)
    decide.cache_clear()
    try:
        assert decide() is faster
    finally:
        decide.cache_clear()


def test_the_timing_runs_here():
    assert cpu._seconds(cpu.torch.float32) > 0
