"""Which dtype "auto" is on a CPU."""

from actors.device import cpu
from actors.device.auto import resolve_dtype
from actors.spec import ModelSpec


def test_auto_takes_what_the_cpu_is_faster_in(monkeypatch):
    spec = ModelSpec("bundled", device="cpu")
    assert resolve_dtype(spec) == "float32"
    monkeypatch.setattr(cpu, "bfloat16_is_faster", lambda: True)
    assert resolve_dtype(spec) == "bfloat16"
    assert resolve_dtype(ModelSpec("bundled", device="cpu", dtype="float32")) == "float32"
    assert resolve_dtype(ModelSpec("fake")) == "float32"
