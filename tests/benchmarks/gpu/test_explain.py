"""What the measurements beside the models mean. Sizes are tiny, so the speeds mean nothing."""

import itertools
import subprocess
from types import SimpleNamespace

import pytest
import torch

from benchmarks import machine
from benchmarks.gpu import device, explain, models, replica
from benchmarks.gpu.profile import union
from benchmarks.model.subjects import RANDOM, Geometry

torch.set_num_threads(1)


def test_products_are_those_of_a_layer():
    """Their arithmetic, over all layers, is what is counted per token and layer of each size."""
    for model, per_token in {"0.6B": 0.881e9, "4B": 7.267e9, "8B": 13.892e9}.items():
        g = Geometry.of(RANDOM[model])
        flop = 2 * g.layers * sum(rows * width for rows, width in explain._matrices(g).values())
        assert flop == pytest.approx(per_token, rel=1e-3)


def test_products_are_measured_with_and_without_the_addition():
    found = explain.products(True, "0.6B")["tflops"]
    assert set(found) == {f"{name} {kind}" for name in ("qkv", "out", "gate_up", "down") for kind in explain.DTYPES}
    assert set(found["qkv bfloat16"]) == set(found["gate_up float8"]) == {"alone"}
    assert set(found["down bfloat16"]) == {"alone", "inside", "apart"}
    assert set(found["out float8"]) == {"alone", "apart"}  # the product of 8 bits cannot add


def test_a_product_that_fails_costs_its_own_number(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no such product")

    monkeypatch.setattr(torch, "_scaled_mm", fails)
    found = explain.products(True, "0.6B")
    assert found["tflops"]["down float8"] == {"error": "RuntimeError: no such product"}
    assert found["tflops"]["down bfloat16"]["alone"] > 0
    assert "failed: qkv float8, out float8, gate_up float8, down float8" in found["said"]


def test_a_rate_counts_what_a_causal_model_sees(monkeypatch):
    """One second for 16 texts of 4 tokens, 16 heads of 128: 4 x 16 x 128 a pair, 10 pairs a text."""
    monkeypatch.setattr(explain, "timed", lambda call, where, times: 1.0)
    assert explain._attention_rate(True, (16, 8, 128), 4, True) == pytest.approx(16 * 10 * 4 * 16 * 128 / 1e12)
    assert explain._attention_rate(True, (12, 12, 32), 4, False) == pytest.approx(16 * 16 * 4 * 12 * 32 / 1e12)


def test_time_of_overlapping_kernels_is_counted_once():
    assert union([(5, 6), (0, 2), (1, 3), (1, 2)]) == 4
    assert union([]) == 0


def test_a_replica_gets_what_the_tokenising_stage_gives():
    ids, offsets = replica._ids(500, 7, seed=3)
    table = replica._table(ids, offsets)
    assert table["_ids"].to_pylist() == [ids[a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert table["_reason"].null_count == 7


def test_a_replica_embeds_every_table():
    found = replica.replica(True, "0.6B")
    assert found["right"]
    assert set(found["shares"]) == {"1 at a time"}
    assert found["shares"]["1 at a time"] > 0


def test_weights_that_are_not_there_are_said():
    found = replica.published(True, "./nowhere")
    assert not found["ran"]
    assert "the weights are not here" in found["said"]


def test_parts_that_raise_leave_the_others():
    found = device.apart({"one": lambda: 1, "two": lambda: 1 / 0, "three": lambda: 3})
    assert (found["one"], found["three"]) == (1, 3)
    assert device.failures(found) == ["two"]


def test_a_device_that_fails_ends_the_parts_and_keeps_what_was_found():
    def fails():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(device.PartlyDone, match="two: CUDA error") as raised:
        device.apart({"one": lambda: 1, "two": fails, "three": lambda: 3})
    assert raised.value.found["one"] == 1
    assert "three" not in raised.value.found


@pytest.mark.parametrize(("works", "poisoned"), [(True, False), (False, True)])
def test_whether_a_device_is_of_use_is_tried(monkeypatch, works, poisoned):
    def ones(*_, **__):
        if not works:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return SimpleNamespace(item=lambda: 1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", ones)
    assert device.is_poisoned(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED")) is poisoned
    assert not device.is_poisoned(torch.OutOfMemoryError("CUDA out of memory"))


def test_random_texts_are_the_same_every_time():
    subject = SimpleNamespace(recipe=SimpleNamespace(vocabulary=100))
    first, again = (models.random_ids(subject, [3, 5]) for _ in range(2))
    assert [row.tolist() for row in first] == [row.tolist() for row in again]
    assert [len(row) for row in first] == [3, 5]


# ---------------------------------------------------------------------- nvidia-smi


def smi(monkeypatch, answers):
    """nvidia-smi that answers by the --id it is asked for."""
    asked = []

    def run(command, **_):
        which = next((part.removeprefix("--id=") for part in command if part.startswith("--id=")), None)
        asked.append(which)
        if which not in answers:
            raise subprocess.CalledProcessError(6, command)
        return SimpleNamespace(stdout=answers[which])

    monkeypatch.setattr(machine.subprocess, "run", run)
    monkeypatch.setattr(machine, "_uuids", lambda: ("GPU-7",))
    return asked


def test_the_visible_gpu_is_asked_for(monkeypatch):
    smi(monkeypatch, {"GPU-7": "1,980 MHz\n", None: "210 MHz\n1,980 MHz\n"})
    assert machine.gpu_state("clocks.sm") == "1,980 MHz"


def test_a_gpu_that_nvidia_smi_does_not_know_by_name_must_be_the_only_one(monkeypatch):
    smi(monkeypatch, {None: "210 MHz\n"})
    assert machine.gpu_state("clocks.sm") == "210 MHz"
    smi(monkeypatch, {None: "210 MHz\n1,980 MHz\n"})
    assert machine.gpu_state("clocks.sm") is None
