"""Every supported architecture, tiny and random, against transformers' plain forward of one text at a time."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, BertConfig, ModernBertConfig, Qwen3Config, XLMRobertaConfig

from actors.embedder.embedder import Embedder
from actors.embedder.reference import EmbedReference
from actors.network import attention
from actors.spec import ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.recipe import QWEN_QUERY_PROMPT, load_recipe
from tests.actors.network.test_attention import varlen_of_torch_2_11, varlen_of_torch_2_13

TRAINING = ["the capital of France is Paris and the river runs through it", "gravity pulls two bodies together"] * 20
TEXTS = [
    "gravity",
    "the capital of France",
    "",
    "x" * 40,
    "the river runs through Paris " * 6,
    "abc def",
    "def abc",
    "今天天气不错 🙂",
    "the capital of Prussia",
]
# Threads that wait for one another make a busy machine many times slower, and nothing here is large.
torch.set_num_threads(1)

ARCHITECTURES = ["bert", "xlm-roberta", "modernbert", "qwen3", "qwen3-window"]


def write_tokenizer(folder: Path, specials: list[str], template: str) -> int:
    """A small byte-level BPE; gives its vocabulary size. The specials have ids 0, 1, 2 ..."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    if template:
        ids = [(name, tokenizer.token_to_id(name)) for name in specials]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_modules(
    folder: Path, pooling: str, modules: tuple[str, ...] = ("Transformer", "Pooling", "Normalize")
) -> None:
    """modules.json and 1_Pooling/config.json as sentence-transformers writes them."""
    paths = {"Transformer": "", "Pooling": "1_Pooling"}
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": paths.get(kind, f"{i}_{kind}"),
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))


def build(folder: Path, name: str) -> Path:
    """A random model of one architecture with its tokenizer and recipe; std 0.15, so that a leak would show."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if name.startswith("qwen3"):
        vocabulary = write_tokenizer(folder, ["<|endoftext|>", "<|im_end|>"], "$A <|endoftext|>")
    elif name == "xlm-roberta":
        vocabulary = write_tokenizer(folder, ["<s>", "<pad>", "</s>"], "<s> $A </s>")
        write_modules(folder, "cls")
    else:
        vocabulary = write_tokenizer(folder, ["[PAD]", "[CLS]", "[SEP]"], "[CLS] $A [SEP]")
        write_modules(folder, "mean")
    AutoModel.from_config(_config(name, vocabulary), dtype=torch.float32).save_pretrained(folder)
    return folder


def _config(name: str, vocabulary: int):
    shape = {"vocab_size": vocabulary, "hidden_size": 64, "num_attention_heads": 4, "initializer_range": 0.15}
    if name == "bert":
        return BertConfig(
            **shape, num_hidden_layers=2, intermediate_size=128, max_position_embeddings=256, pad_token_id=0
        )
    if name == "xlm-roberta":
        return XLMRobertaConfig(
            **shape, num_hidden_layers=2, intermediate_size=128, max_position_embeddings=258, pad_token_id=1
        )
    if name == "modernbert":
        ends = {"pad_token_id": 0, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2, "sep_token_id": 2}
        return ModernBertConfig(
            **shape,
            **ends,
            num_hidden_layers=4,
            intermediate_size=96,
            max_position_embeddings=256,
            local_attention=8,
            global_attn_every_n_layers=3,
        )
    window = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1} if name == "qwen3-window" else {}
    return Qwen3Config(
        **shape,
        **window,
        num_hidden_layers=2,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=128,
        max_position_embeddings=512,
    )


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
