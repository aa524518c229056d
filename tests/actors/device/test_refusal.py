"""What fails while a replica is set up is a refusal: which device, what went wrong, what to do."""

import errno
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from triton.compiler.errors import CompilationError

from actors.device.device import translated
from actors.device.refusal import setting_up
from actors.embedder.embedder import Embedder
from actors.embedder.model import EmbedModel
from actors.embedder.reference import EmbedReference
from actors.replica.rerank import RerankActor
from actors.reranker.fake import FakeRerankModel
from actors.reranker.reference import RerankReference
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec, ReplicaBroken, WeightsOutOfReach
from tests.support.devices import plug_in
from tests.support.models import build

T4 = "cuda (Tesla T4, compute capability 7.5, driver 535.104.05, torch "
SPEC = ModelSpec("my/weights", device="cuda", dtype="float16", force_float16=True)
FAMILY = [
    (RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nlong"), "Ampere GPUs or newer. Compare the"),
    (NotImplementedError("Could not run 'aten::_scaled_mm'"), "aten::_scaled_mm'. Compare the versions"),
    (AssertionError("libcuda.so cannot found!"), "whether its driver is one for this torch"),
    (AssertionError(), "AssertionError. Compare the versions"),
    (CompilationError(None, None, "type fp8e4nv not supported"), "CompilationError"),
    (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), "/usr/bin/gcc ended with 1"),
    (ImportError("libcudart.so.13: cannot open shared object file"), "Install there what constraints.txt names"),
    (KeyError("rope_theta"), "KeyError: 'rope_theta'. Compare the versions"),
    (ValueError("unknown rope type"), "ValueError: unknown rope type. Compare"),
    (MemoryError(), "The memory of this machine, or what its container may take"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "fewer replicas a node (run.replicas)"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "fewer replicas a node"),
    (OSError(errno.ENOSPC, "No space left on device"), "A disk or /dev/shm is full"),
    (RuntimeError("unable to write to file </torch_12_3>: shared memory"), "docker run --shm-size"),
    (PermissionError(errno.EACCES, "Permission denied", "/w"), "Give this process the right to that place"),
    (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "has no code for this card"),
    (torch.AcceleratorError("CUDA error: operation not supported"), "operation not supported"),
    (RuntimeError("The NVIDIA driver on your system is too old (found version 12020)"), "driver is one for this torch"),
]


def refused(error: Exception, on_device: bool = True) -> ModelError:
    with pytest.raises(ModelError) as caught, setting_up(SPEC, on_device):
        raise error
    return caught.value


@pytest.fixture(autouse=True)
def _on_a_t4(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plug_in(monkeypatch, tmp_path, "Tesla T4", (7, 5))


@pytest.mark.parametrize(("error", "said"), FAMILY, ids=lambda one: type(one).__name__)
def test_whatever_is_raised_is_a_refusal_with_the_device_and_what_to_do(error: Exception, said: str) -> None:
    for on_device in (False, True):
        found = refused(error, on_device)
        assert (type(found), found.exit_code) == (ModelError, 2)
        assert str(found).startswith(f"my/weights could not be set up on {T4}"), found
        assert f" of {platform.node()}: {type(error).__name__}" in str(found)
        assert said in str(found)
        assert "\n" not in str(found)
        assert found.__cause__ is error


def test_memory_of_the_device_keeps_its_class() -> None:
    found = refused(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert (type(found), found.exit_code) == (DeviceOutOfMemory, 2)
    assert "`nvidia-smi` shows who else holds its memory" in str(found)
    assert T4 in str(found)


def through_translated(error: Exception) -> ModelError:
    with pytest.raises(ModelError) as caught, setting_up(SPEC, on_device=True), translated("cpu", "a micro-batch"):
        raise error
    return caught.value


@pytest.mark.parametrize("way", [refused, through_translated])
def test_a_device_that_is_broken_from_the_start_is_told_apart(way: Callable[[Exception], ModelError]) -> None:
    for said in (
        "an illegal memory access was encountered",
        "uncorrectable ECC error",
        "devices are busy or unavailable",
    ):
        found = way(RuntimeError(f"CUDA error: {said}\nlong"))
        assert (type(found), found.exit_code) == (ReplicaBroken, 1)
        assert said in str(found)
        assert "`dmesg` (Xid) on that machine say more" in str(found)
        assert T4 in str(found)


def test_a_device_that_another_try_meets_as_it_is_is_no_broken_one() -> None:
    found = through_translated(RuntimeError("CUDA error: no kernel image is available for execution on the device"))
    assert (type(found), found.exit_code) == (ModelError, 2)
    assert "This build of torch has no code for this card" in str(found)


def test_our_own_refusals_keep_their_words_and_name_the_device_where_it_has_a_part() -> None:
    assert str(refused(ModelError("there is no such folder"), on_device=False)) == "there is no such folder"
    found = str(refused(ModelError("this replica computes wrong vectors")))
    assert found.startswith(f"this replica computes wrong vectors (on {T4}"), found
    for on_device in (False, True):
        found = refused(WeightsOutOfReach("the hub does not answer"), on_device)
        assert (type(found), str(found), found.exit_code) == (WeightsOutOfReach, "the hub does not answer", 1)


def test_not_even_a_short_text_fits() -> None:
    with pytest.raises(ModelError) as caught, setting_up(SPEC, on_device=True):
        raise ReplicaBroken("not even a single text fits: full") from DeviceOutOfMemory("full")
    assert (type(caught.value), caught.value.exit_code) == (DeviceOutOfMemory, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8"])
def test_a_card_without_the_dtype_is_refused_before_the_weights_are_looked_for(dtype: str) -> None:
    with pytest.raises(ModelError, match=rf"Tesla T4.* does not compute in {dtype}"):
        Embedder(ModelSpec("/no/such/folder", device="cuda", dtype=dtype))
    with pytest.raises(ModelError, match=rf"Tesla T4.* does not compute in {dtype}"):
        RerankActor(ModelSpec("/no/such/folder", device="cuda", dtype=dtype))


# ---------------------------------------------------------------------- every part of a set-up, both models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    folder = build(tmp_path_factory.mktemp("models") / "bert", "bert")
    return ModelSpec(str(folder), device="cpu", dtype="float32")


def failing(*arguments: object, **options: object) -> None:
    raise RuntimeError("a kernel of theirs failed")


PARTS = {
    "the recipe": "actors.embedder.embedder.resolve",
    "the tokenizer": "actors.embedder.embedder.TextTokenizer",
    "loading": "actors.embedder.model.load_network",
    "the reference": "actors.embedder.model.EmbedModel.reference",
    "the budget": "actors.embedder.model.EmbedModel.start",
    "the first kernel": "actors.network.network.TransformersNetwork.pooled",
    "the self-check": "actors.embedder.selfcheck.compare",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_an_embedders_set_up(monkeypatch: pytest.MonkeyPatch, tiny: ModelSpec, part: str) -> None:
    monkeypatch.setattr(PARTS[part], failing)
    with pytest.raises(
        ModelError, match=r"could not be set up on cpu \(torch .*RuntimeError: a kernel of theirs failed"
    ):
        Embedder(tiny)


@pytest.mark.parametrize("part", ["reference", "start", "states_and_logits"])
def test_every_part_of_a_rerankers_set_up(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(FakeRerankModel, part, failing)
    with pytest.raises(ModelError, match=r"fake could not be set up on cpu .*RuntimeError: a kernel of theirs failed"):
        RerankActor(ModelSpec("fake"))


def test_at_work_errors_are_what_they_are(monkeypatch: pytest.MonkeyPatch, tiny: ModelSpec) -> None:
    embedder = Embedder(tiny)
    monkeypatch.setattr(EmbedModel, "encode", failing)
    with pytest.raises(RuntimeError, match="a kernel of theirs failed") as caught:
        embedder.embed(np.array([1, 2]), np.array([0, 2]))
    assert not isinstance(caught.value, ModelError)


@pytest.mark.parametrize("architecture", ["bert", "qwen3"])
def test_a_full_memory_is_no_reason_to_fetch_the_weights_again(monkeypatch, tmp_path, architecture: str) -> None:
    spec = ModelSpec(str(build(tmp_path / "model", architecture)), device="cpu", dtype="float32")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    for reads in ("transformers.AutoModel.from_pretrained", "actors.network.qwen3_weights.safe_open"):
        monkeypatch.setattr(reads, full)
    with pytest.raises(ModelError, match="The memory of this machine") as caught:
        Embedder(spec)
    assert "etch" not in str(caught.value)


def test_the_witnesses_of_verify_are_set_up_alike(monkeypatch: pytest.MonkeyPatch, tiny: ModelSpec) -> None:
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", failing)
    with pytest.raises(ModelError, match=r"could not be set up on cpu .*a kernel of theirs failed"):
        EmbedReference(tiny)
    monkeypatch.setattr("actors.reranker.reference.load_prompt", failing)
    with pytest.raises(ModelError, match=r"could not be set up on cpu .*a kernel of theirs failed"):
        RerankReference(ModelSpec("fake"))
