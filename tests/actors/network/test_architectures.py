"""Every supported architecture, tiny and random, against transformers' plain forward of one text at a time."""

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModel

from actors.embedder.embedder import Embedder
from actors.embedder.reference import EmbedReference
from actors.network import attention
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.recipe import QWEN_QUERY_PROMPT, load_recipe
from tests.support.models import ARCHITECTURES, TEXTS, build
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


@pytest.mark.parametrize("token_budget", [None, 40])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_is_the_plain_forward(folders: dict[str, Path], name: str, token_budget: int | None) -> None:
    texts = [*TEXTS, "a<pad>b <pad>"] if name == "xlm-roberta" else TEXTS
    found = Embedder(replace(spec_of(folders[name]), token_budget=token_budget)).embed_documents(texts)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(folders[name], texts), atol=1e-5)


def test_windows_are_smaller_than_the_texts(folders: dict[str, Path]) -> None:
    lengths = np.diff(TextTokenizer(spec_of(folders["modernbert"])).encode(TEXTS).offsets)
    assert (lengths > 20).sum() >= 2
    assert len(set(lengths.tolist())) < len(lengths), "equal lengths are wanted too"


def test_cut_to_dimensions_then_normalised(folders: dict[str, Path]) -> None:
    found = Embedder(replace(spec_of(folders["qwen3"]), dimensions=24)).embed_documents(TEXTS)
    assert found.shape == (len(TEXTS), 24)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, plain(folders["qwen3"], TEXTS, 24), atol=1e-5)


def test_qwen3_needs_no_modules_json_and_knows_its_recipe(folders: dict[str, Path]) -> None:
    recipe = load_recipe(folders["qwen3"])
    assert (recipe.pooling, recipe.normalise, recipe.document_prompt) == ("last", True, "")
    assert recipe.query_prompt == QWEN_QUERY_PROMPT
    assert recipe.max_tokens == recipe.max_positions == 512


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_on_cuda_in_bfloat16(folders: dict[str, Path], name: str) -> None:
    found = Embedder(ModelSpec(str(folders[name]), device="cuda", dtype="bfloat16")).embed_documents(TEXTS)
    assert (found * plain(folders[name], TEXTS)).sum(axis=1).min() > 0.99
