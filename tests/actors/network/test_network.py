"""Every supported architecture, tiny and random, against transformers' plain forward of one text at a time."""

import gc
import inspect
import json
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel, Qwen3Config

from actors.embedder.embedder import Embedder
from actors.embedder.model import EmbedModel
from actors.embedder.reference import EmbedReference
from actors.network import attention, flash
from actors.network.network import Qwen3Network, TransformersNetwork
from actors.network.qwen3_weights import Geometry, unsupported
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.recipe import QWEN_QUERY_PROMPT, load_recipe
from tests.support.models import ARCHITECTURES, TEXTS, build, write_modules
from tests.support.qwen3 import SMALL, filled
from tests.support.varlen import varlen_of_torch_2_11, varlen_of_torch_2_13

# Threads that wait for one another make a busy machine many times slower, and nothing here is large.
torch.set_num_threads(1)


def plain(folder: Path, texts: list[str], dimensions: int | None = None) -> np.ndarray:
    """One text at a time, transformers' own attention; pooled, cut and scaled here."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pooling = load_recipe(folder).pooling
    vectors = []
    for text in texts:
        with torch.no_grad():
            states = model(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0].double().numpy()
        vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling][:dimensions]
        vectors.append(vector / np.sqrt((vector**2).sum()))
    return np.array(vectors)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("models")
    return {name: build(base / name, name) for name in ARCHITECTURES}


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu", dtype="float32")


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float((left * right).sum(axis=1).min())


@pytest.mark.parametrize("token_budget", [None, 40])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_is_the_plain_forward(folders: dict[str, Path], name: str, token_budget: int | None) -> None:
    texts = [*TEXTS, "a<pad>b <pad>"] if name == "xlm-roberta" else TEXTS
    found = Embedder(replace(spec_of(folders[name]), token_budget=token_budget)).embed_documents(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(folders[name], texts), atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_operations_are_those_of_the_matrices(folders: dict[str, Path], name: str) -> None:
    c = AutoConfig.from_pretrained(folders[name])
    h, f = c.hidden_size, c.intermediate_size
    sizes = {"modernbert": 4 * h * h + 3 * h * f, "qwen3": 2 * h * h + 2 * h * 32 + 3 * h * f}  # 2 key heads of 16
    found = Embedder(spec_of(folders[name]))._model._network.operations
    assert found == 2 * c.num_hidden_layers * sizes.get(name.removesuffix("-window"), 4 * h * h + 2 * h * f)


def test_windows_are_smaller_than_the_texts(folders: dict[str, Path]) -> None:
    lengths = np.diff(TextTokenizer(spec_of(folders["modernbert"])).encode(TEXTS).offsets)
    assert (lengths > 20).sum() >= 2
    assert len(set(lengths.tolist())) < len(lengths), "equal lengths are wanted too"


def test_cut_to_dimensions_then_normalised(folders: dict[str, Path]) -> None:
    found = Embedder(replace(spec_of(folders["qwen3"]), dimensions=24)).embed_documents(TEXTS)
    assert found.shape == (len(TEXTS), 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, plain(folders["qwen3"], TEXTS, 24), atol=1e-5)


def test_queries_carry_the_instruction_without_a_space(folders: dict[str, Path]) -> None:
    embedder = Embedder(spec_of(folders["qwen3"]))
    task = r"Find \1 things: Instruct"
    np.testing.assert_allclose(
        embedder.embed_queries(["who?"], task),
        plain(folders["qwen3"], [f"Instruct: {task}\nQuery:who?"]),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        embedder.embed_queries(["who?"]), plain(folders["qwen3"], [QWEN_QUERY_PROMPT + "who?"]), atol=1e-5
    )
    np.testing.assert_allclose(embedder.embed_queries(["who?"], ""), embedder.embed_documents(["who?"]), atol=1e-6)


def test_the_reference_agrees_and_both_cut_alike(folders: dict[str, Path]) -> None:
    spec = replace(spec_of(folders["qwen3"]), max_tokens=20, prompt="note: ", dimensions=32)
    np.testing.assert_allclose(Embedder(spec).embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)


def test_bfloat16_on_cpu_stays_near(folders: dict[str, Path]) -> None:
    half = Embedder(replace(spec_of(folders["modernbert"]), dtype="bfloat16")).embed_documents(TEXTS)
    assert half.dtype == np.float32
    assert (half * plain(folders["modernbert"], TEXTS)).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("kernel", [varlen_of_torch_2_11, varlen_of_torch_2_13])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_kernel_for_cuda_is_asked_for_the_same(
    folders: dict[str, Path], name: str, kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder(spec_of(folders[name]))
    calls = []

    def counted(*tensors, **options):
        calls.append(options)
        return kernel(*tensors, **options)

    monkeypatch.setattr(attention, "varlen_function", lambda: counted)
    monkeypatch.setattr(attention, "_varlen_parameters", lambda: frozenset(inspect.signature(kernel).parameters))
    embedder._model._network._varlen = True
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), plain(folders[name], TEXTS), atol=1e-5)
    assert len(calls) == AutoConfig.from_pretrained(folders[name]).num_hidden_layers


def test_fa3_is_tried_on_cuda_once_the_reference_was_asked(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take the place of the kernel below SDPA, with which the reference computes, too."""
    order: list[str] = []
    monkeypatch.setattr(flash, "prefer_fa3", order.append)
    honest, start = EmbedModel.reference, EmbedModel.start
    monkeypatch.setattr(EmbedModel, "reference", lambda *given: (order.append("reference"), honest(*given))[1])
    spec = replace(spec_of(folders["bert"]), token_budget=512)
    Embedder(spec)
    assert set(order) == {"reference"}, "on a CPU"

    def on_cuda(model: EmbedModel, budget: int | None) -> None:
        model._on_cuda = True
        start(model, budget)

    monkeypatch.setattr(EmbedModel, "start", on_cuda)
    order.clear()
    Embedder(spec)
    assert order == ["reference"] * (len(order) - 1) + ["cpu"]
    assert len(order) > 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_cuda_in_bfloat16(folders: dict[str, Path], name: str) -> None:
    found = Embedder(ModelSpec(str(folders[name]), device="cuda", dtype="bfloat16")).embed_documents(TEXTS)
    assert (found * plain(folders[name], TEXTS)).sum(axis=1).min() > 0.99


def test_a_missing_tensor_is_not_filled_with_random_numbers(folders: dict[str, Path], tmp_path: Path) -> None:
    bert = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"encoder\.layer\.1\.output\.dense\.weight missing"):
        Embedder(spec_of(bert))


def test_weights_that_are_damaged(folders: dict[str, Path], tmp_path: Path) -> None:
    bert = Path(shutil.copytree(folders["bert"], tmp_path / "bert"))
    (bert / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ModelError, match="could not be loaded"):
        Embedder(spec_of(bert))


# What the fused pass does not compute goes to transformers' modules.

YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
UNSUPPORTED = {
    "a scaled rotation": ({"rope_parameters": YARN}, "rope scaling 'yarn'"),
    "a sliding window": ({"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}, "a sliding window"),
    "biases": ({"attention_bias": True}, "biases in its attention"),
    "another activation": ({"hidden_act": "gelu"}, "the activation 'gelu'"),
    "heads of odd sizes": ({"head_dim": 24}, "heads of size 24"),
}


@pytest.fixture
def other_qwen3(tmp_path: Path):
    """A function that writes a random Qwen3 with changes to its config."""
    build(tmp_path, "qwen3")
    vocabulary = json.loads((tmp_path / "config.json").read_text())["vocab_size"]

    def written(**changes: object) -> Path:
        shape = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        rest = {"num_hidden_layers": 2, "intermediate_size": 128, "initializer_range": 0.15, "vocab_size": vocabulary}
        model = AutoModel.from_config(
            Qwen3Config(**{**shape, **rest, "max_position_embeddings": 512, **changes}), dtype=torch.float32
        )
        for name, tensor in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
        model.save_pretrained(tmp_path)
        return tmp_path

    return written


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_qwen3_run_through_transformers(other_qwen3, name: str) -> None:
    changes, problem = UNSUPPORTED[name]
    folder = other_qwen3(**changes)
    config = json.loads((folder / "config.json").read_text())
    assert unsupported(config) == problem
    with pytest.raises(ModelError, match=problem):
        Geometry.of(config)
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, TransformersNetwork)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)
    with pytest.raises(ModelError, match="float8 is for Qwen3 models with last-token pooling only; use bfloat16"):
        Embedder(replace(spec, dtype="float8"))


def test_another_pooling_runs_through_transformers(other_qwen3) -> None:
    """The fused pass knows the last token only."""
    folder = other_qwen3()
    write_modules(folder, "mean")
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, TransformersNetwork)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)


def test_no_cache_keeps_keys_and_values(other_qwen3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would read it, and it would hold all keys and values of a micro-batch."""

    def cache(*given: object, **more: object) -> None:
        raise AssertionError("a cache was made")

    monkeypatch.setattr("transformers.models.qwen3.modeling_qwen3.DynamicCache", cache)
    Embedder(ModelSpec(str(other_qwen3(hidden_act="gelu")), device="cpu", dtype="float32"))


@pytest.mark.parametrize("changes", [{}, {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}}], ids=str)
def test_plain_qwen3_do_not(other_qwen3, changes: dict[str, object]) -> None:
    folder = other_qwen3(**changes)
    spec = ModelSpec(str(folder), device="cpu", dtype="float32")
    embedder = Embedder(spec)
    assert isinstance(embedder._model._network, Qwen3Network)
    np.testing.assert_allclose(embedder.embed_documents(TEXTS), EmbedReference(spec).embed(TEXTS), atol=1e-5)


def test_8_bits_from_the_start_of_a_replica(other_qwen3) -> None:
    """The reference is asked in bfloat16 before the matrices lose their bits."""
    folder = other_qwen3(initializer_range=0.03)
    spec = ModelSpec(str(folder), device="cpu", dtype="float8")
    embedder = Embedder(spec)
    assert {matrix.dtype for matrix in _matrices(embedder)} == {torch.float8_e4m3fn}
    exact = Embedder(replace(spec, dtype="float32")).embed_documents(TEXTS)
    assert cosine(embedder.embed_documents(TEXTS), exact) > 0.99
    assert not np.allclose(embedder.embed_documents(TEXTS), exact, atol=1e-4), "it was computed in 8 bits"


def test_the_reference_lets_go_of_the_weights_it_shared() -> None:
    """Or 8 bits would take 16 more."""
    weights = filled(SMALL, "float8")
    network = Qwen3Network(weights, varlen=False, in_8_bits=True)
    with torch.inference_mode():
        network.plain(np.arange(5))
    before = weakref.ref(weights.layers[0].down.weight)
    network.start()
    gc.collect()
    assert before() is None


def _matrices(embedder: Embedder) -> list[torch.Tensor]:
    layers = embedder._model._network._weights.layers
    return [getattr(layer, part).weight for layer in layers for part in ("qkv", "out", "gate_up", "down")]
