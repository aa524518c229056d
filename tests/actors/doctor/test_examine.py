"""The doctor: published numbers, every layout, the tokenizer's ids; what it says of weights that are not well."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from actors.checks import goldens
from actors.checks.published import Golden, Published
from actors.doctor import inspection
from actors.doctor.diagnosis import Diagnosis
from actors.doctor.examine import examine, main
from actors.embedder.embedder import Embedder
from actors.network import attention, qwen3
from actors.reranker.reranker import Reranker
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import locate
from pipelines.cli.app import app
from tests.support.models import build, write_tokenizer

ROOT = Path(__file__).parents[3]
TINY_SHAPE = (64, 2, 4, 128)
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3 whose final norm is not the ones it started with."""
    folder = build(tmp_path_factory.mktemp("doctor") / "tiny", "qwen3")
    tensors = load_file(folder / "model.safetensors")
    tensors["norm.weight"] *= 1.1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture
def known_shape(monkeypatch: pytest.MonkeyPatch) -> Published:
    """Numbers "published" for models of the tiny one's shape, which it does not give."""
    published = Published("Some/Model", "embed", TINY_SHAPE, (Golden("cosine", "a river", "Paris", 0.123, "a paper"),))
    monkeypatch.setattr(goldens, "PUBLISHED", (published,))
    return published


def cpu(folder: Path | str, **changes: object) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu", **changes)


# ---------------------------------------------------------------------- real weights


def test_the_bundled_weights_give_the_published_numbers() -> None:
    found = examine(ModelSpec("bundled", device="cpu"))
    assert found.ok
    assert found.task == "embed"
    assert found.published_as == "sentence-transformers/all-MiniLM-L6-v2"
    assert [result.ok for result in found.goldens] == [True] * 7
    exact = [result.difference for result in found.goldens if "README" in result.golden.source]
    assert max(exact) < 1e-4
    assert [layout.layout for layout in found.layouts] == ["alone", "together", "equal lengths", "packed"]
    assert (found.model["pooling"], found.model["parameters"]) == ("mean", 22_713_728)


@pytest.fixture
def minilm(tmp_path: Path) -> Path:
    """The bundled weights in a folder of their own, which may be changed."""
    place = locate(ModelSpec("bundled"))
    folder = tmp_path / "all-MiniLM-L6-v2"
    shutil.copytree(place, folder, ignore=lambda _, names: [name for name in names if name.endswith(".safetensors")])
    (folder / "model.safetensors").symlink_to(place / "model.safetensors")
    return folder


def test_a_wrong_recipe_is_found_by_the_goldens_alone(minilm: Path) -> None:
    """Layouts cannot see it: the reference has the same recipe."""
    (minilm / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    found = examine(cpu(minilm))
    assert all(layout.ok for layout in found.layouts)
    assert not found.ok
    assert sum(result.ok is False for result in found.goldens) >= 5
    assert "Fine-tuned weights" in found.notes[-1]


def test_a_replica_of_known_weights_checks_the_published_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    Embedder(ModelSpec("bundled", device="cpu"))
    monkeypatch.setattr("actors.weights.recipe.modules.pooling_and_normalise", lambda folder: ("cls", True))
    with pytest.raises(ModelError, match=r"all-MiniLM-L6-v2 must give the cosine 0\.6660 for 'The weather is lovely"):
        Embedder(ModelSpec("bundled", device="cpu"))
    Embedder(ModelSpec("bundled", device="cpu", dimensions=64))  # of which nothing is published


def test_a_reranker_of_known_weights_checks_the_published_numbers(
    reranker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Published("Some/Reranker", "rerank", (), (Golden("logit", "a river", "Paris", 50.0, "a paper"),))
    monkeypatch.setattr(goldens, "PUBLISHED", (published,))
    for module in ("prompt", "reranker"):
        monkeypatch.setattr(f"actors.reranker.{module}.locate", lambda spec, tokenizer_only=False: reranker)
    Reranker(cpu("Other/Reranker"))
    with pytest.raises(ModelError, match=r"Some/Reranker must give the logit 50\.0000 for 'a river' and 'Paris'"):
        Reranker(cpu("Some/Reranker"))


def test_half_precision_is_examined_and_then_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: True)
    found = examine(ModelSpec("bundled", device="cpu"))
    assert found.ok
    assert [check.name for check in found.checks[2:]] == ["runs in bfloat16", "runs in float32"]
    assert [result.dtype for result in found.goldens] == ["bfloat16"] * 7 + ["float32"] * 7
    assert {result.tolerance for result in found.goldens[:3]} == {5e-3}
    assert {result.tolerance for result in found.goldens[7:10]} == {1e-3}


def test_float32_is_left_out_where_it_does_not_fit(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: True)
    assert [check.name for check in examine(cpu(tiny)).checks[2:]] == ["runs in bfloat16", "runs in float32"]
    monkeypatch.setattr(inspection, "free_memory", lambda device: 9 * 10**8)
    found = examine(cpu(tiny))
    assert [check.name for check in found.checks[2:]] == ["runs in bfloat16"]
    assert "needs 1.0 GB (0.9 GB are free): bfloat16 alone" in found.notes[-1]
    asked = examine(cpu(tiny, dtype="float32"))
    assert [check.name for check in asked.checks[2:]] == ["runs in float32"]


# ---------------------------------------------------------------------- weights that are not well


def test_random_weights_and_unknown_shapes_have_no_published_numbers(tmp_path: Path, tiny: Path) -> None:
    found = examine(cpu(tiny))
    assert found.ok
    assert found.notes == ["no published numbers for this model"]
    assert found.goldens == []


def test_random_weights_of_a_known_shape(tmp_path: Path, known_shape: Published) -> None:
    found = examine(cpu(build(tmp_path / "random", "qwen3")))
    assert found.ok
    assert "its weights are random" in found.notes[0]


def test_other_weights_of_a_known_shape_fail_and_are_told_why(tiny: Path, known_shape: Published) -> None:
    found = examine(cpu(tiny))
    assert (found.ok, found.failed, found.published_as) == (False, 1, "Some/Model")
    assert "Fine-tuned weights, and the base model, are expected to give other numbers" in found.notes[0]
    left_out = examine(cpu(tiny), with_goldens=False)
    assert (left_out.ok, left_out.goldens, left_out.notes) == (True, [], ["goldens left out, as asked"])


def test_wanted_numbers_do_not_change_with_the_job(tiny: Path, known_shape: Published) -> None:
    whole = examine(cpu(tiny))
    cut = examine(cpu(tiny, dimensions=16, prompt="passage: ", max_tokens=12))
    assert cut.goldens == whole.goldens
    assert cut.model == whole.model


def test_a_wrong_last_token_is_found_by_the_layouts(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = qwen3.Qwen3.last_states

    def token_before(self, ids, positions, packing, last, last_n):
        return honest(self, ids, positions, packing, last, (last_n - 1).clamp_min(0))

    monkeypatch.setattr(qwen3.Qwen3, "last_states", token_before)
    found = examine(cpu(tiny))
    assert not found.ok
    assert "wrong vectors" in found.checks[-1].found
    assert [layout.ok for layout in found.layouts] == [False] * 4
    assert "0.99999999 at least" in text_of(found)


def test_only_the_wrong_layouts_are_marked(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = attention.pack

    def neighbours_see_each_other(lengths_n, device, varlen):
        packing = honest(lengths_n, device, varlen)
        longest = replace(packing.runs[0], count=1, queries=int(lengths_n.sum()), keys=int(lengths_n.sum()))
        return replace(packing, runs=(longest,))

    monkeypatch.setattr(attention, "pack", neighbours_see_each_other)
    found = examine(cpu(tiny))
    assert [layout.ok for layout in found.layouts] == [True, False, False, False]


def test_a_lost_closing_token_is_found_before_anything_runs(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "no-end"))
    write_tokenizer(folder, ["<|endoftext|>", "<|im_end|>"], "$A")
    found = examine(cpu(folder))
    assert [check.ok for check in found.checks] == [False]
    assert "does not close a text with <|endoftext|>" in found.checks[0].found
    assert found.layouts == []


def test_damaged_weights(tiny: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "damaged"))
    (folder / "model.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ModelError, match="could not be read"):
        examine(cpu(folder))
    tensors = load_file(tiny / "model.safetensors")
    tensors.pop("layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = examine(cpu(folder))
    assert "layers.1.mlp.up_proj.weight missing" in found.checks[-1].found


def test_a_device_that_failed_is_left_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("actors.device.cpu.bfloat16_is_faster", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", broken)
    monkeypatch.setattr(qwen3.Qwen3, "last_states", broken)
    found = examine(cpu(tiny))
    assert [check.name for check in found.checks[2:]] == ["runs in bfloat16"]
    assert "an illegal memory access" in found.checks[-1].found
    assert found.layouts == []


def test_the_fake_model_has_nothing_to_examine() -> None:
    with pytest.raises(ModelError, match="the fake model has no weights"):
        examine(ModelSpec("fake"))


# ---------------------------------------------------------------------- Qwen3's tokenizer


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory, qwen_tokenizers: dict[str, Path]) -> Path:
    """A random model of one narrow layer with the real vocabulary and tokenizer of Qwen3-Embedding."""
    folder = tmp_path_factory.mktemp("qwen") / "model"
    config = Qwen3Config(
        vocab_size=151669,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        max_position_embeddings=512,
    )
    AutoModel.from_config(config, dtype=torch.float32).save_pretrained(folder)
    shutil.copy(qwen_tokenizers["embedding"] / "tokenizer.json", folder)
    return folder


def test_the_published_ids_of_qwens_tokenizer(qwen: Path) -> None:
    found = examine(cpu(qwen))
    assert found.ok
    assert found.checks[0].found == "understood; 'test' gives [1944, 151643]"
    assert (found.checks[1].name, found.checks[1].ok) == ("ids beside transformers", True)
    assert re.fullmatch(r"those of transformers' Qwen2Tokenizer, of 1,\d+ texts", found.checks[1].found)
    assert (found.checks[2].name, found.checks[2].ok) == ("token ids", True)


def test_other_ids_are_found(qwen: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(qwen, tmp_path / "model"))
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = definition["model"]["vocab"]
    vocabulary["ĠBeijing"], vocabulary["ĠChina"] = vocabulary["ĠChina"], vocabulary["ĠBeijing"]
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    found = examine(cpu(folder))
    assert [check.ok for check in found.checks] == [True, True, False, True]
    assert "What is the capital of China?" in found.checks[2].found


def test_tokenizers_of_other_models_have_no_published_ids(tiny: Path) -> None:
    assert not goldens.has_qwen_ids(TextTokenizer(cpu(tiny)))
    assert not goldens.has_qwen_ids(TextTokenizer(ModelSpec("bundled")))


# ---------------------------------------------------------------------- rerankers


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random reranker with a vocabulary of its own, in which "yes" and "no" are tokens."""
    folder = tmp_path_factory.mktemp("rerankers") / "my-Reranker"
    folder.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["yes", "no"] * 20, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = Qwen3Config(
        **shape, vocab_size=tokenizer.get_vocab_size(), head_dim=16, intermediate_size=128, initializer_range=0.15
    )
    model = Qwen3ForCausalLM(config)
    model.model.norm.weight.data *= 1.1
    model.save_pretrained(folder)
    return folder


def test_a_reranker_is_known_by_its_name_and_examined(reranker: Path) -> None:
    found = examine(cpu(reranker))
    assert found.ok
    assert found.task == "rerank"
    assert found.model["instruction"].startswith("Given a web search query")
    assert re.fullmatch(r"understood; yes is \d+, no is \d+", found.checks[0].found)
    assert {"alone", "packed"} <= {layout.layout for layout in found.layouts}
    assert all(layout.logit_error is not None for layout in found.layouts)
    assert "logit off by" in text_of(found)


def test_the_numbers_of_a_reranker_are_compared(reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logit, score = Golden("logit", "a river", "Paris", 50.0, "a paper"), Golden("score", "a", "b", 0.5, "it", 0.5)
    published = Published("Some/Reranker", "rerank", (64, 3, 4, 128), (logit, score))
    monkeypatch.setattr(goldens, "PUBLISHED", (published,))
    found = examine(cpu(reranker))
    assert [result.ok for result in found.goldens] == [False, True]
    assert (found.failed, found.published_as) == (1, "Some/Reranker")


def test_a_reranker_that_mixes_up_its_documents(reranker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = attention.pack_queries

    def of_the_first(queries_n, keys_n, key_rows, device, varlen):
        return honest(queries_n, keys_n, None if key_rows is None else np.zeros_like(key_rows), device, varlen)

    monkeypatch.setattr("actors.reranker.model.attention.pack_queries", of_the_first)
    found = examine(cpu(reranker))
    assert not found.ok
    assert "computes wrong scores" in found.checks[-1].found


def test_the_wrong_task(reranker: Path, tiny: Path) -> None:
    embedding = examine(cpu(reranker), task="embed")
    assert (embedding.ok, embedding.layouts) == (False, [])
    assert "as the tokenizer of a reranker does" in embedding.checks[0].found
    reranking = examine(cpu("bundled"), task="rerank")
    assert not reranking.ok
    assert "only Qwen3-Reranker is supported" in reranking.checks[0].found


# ---------------------------------------------------------------------- the commands


def text_of(diagnosis: Diagnosis) -> str:
    return "\n".join(line for _, line in diagnosis.lines())


def test_the_report_of_the_bundled_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--task", "embed"]) == 0
    said = capsys.readouterr().out
    for words in (
        "doctor: bundled, to embed",
        "pooling                 mean",
        "ok    float32   packed",
        "all checks passed",
    ):
        assert words in said
    assert "0.6660      0.6660" in said
    assert "FAIL" not in said


def test_json_is_one_valid_object_from_both_commands(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--weights", str(tiny), "--device", "cpu", "--dtype", "bfloat16", "--json"]
    assert main(arguments) == 0
    bare = json.loads(capsys.readouterr().out)
    called = CliRunner().invoke(app, ["doctor", *arguments])
    assert called.exit_code == 0, called.output
    whole = json.loads(called.stdout)
    assert whole["ok"] is True
    assert {layout["dtype"] for layout in whole["layouts"]} == {"bfloat16"}
    assert whole["model"] == bare["model"]
    assert set(whole) == set(bare)


def test_numbers_that_are_not_finite_are_null_in_json(tiny: Path) -> None:
    found = examine(cpu(tiny))
    golden = Golden("cosine", "a", "b", 0.5, "a paper")
    found.goldens += goldens.judge([golden], [float("nan")], "float32")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["goldens"][0]["got"] is None


def test_exit_codes_and_messages(tiny: Path, tmp_path: Path, known_shape: Published) -> None:
    missing = CliRunner().invoke(app, ["doctor", "--weights", str(tmp_path / "none")])
    assert missing.exit_code == 2
    assert missing.stdout == ""
    assert "there is no such folder" in missing.stderr
    failed = CliRunner().invoke(app, ["doctor", "--weights", str(tiny), "--device", "cpu"])
    assert failed.exit_code == 1
    assert "NOT WELL: 1 failed" in failed.stdout
    assert "FAIL  float32   cosine  a river | Paris" in failed.stdout
    skipped = CliRunner().invoke(app, ["doctor", "--weights", str(tiny), "--device", "cpu", "--no-goldens"])
    assert skipped.exit_code == 0
    assert CliRunner().invoke(app, ["doctor", "--task", "write"]).exit_code == 2


def test_the_bare_command_says_what_is_wrong(
    tiny: Path, tmp_path: Path, known_shape: Published, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--weights", str(tiny), "--device", "cpu"]) == 1
    assert "NOT WELL: 1 failed" in capsys.readouterr().out
    assert main(["--weights", str(tiny), "--device", "cpu", "--no-goldens"]) == 0
    capsys.readouterr()
    assert main(["--weights", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "there is no such folder" in said.err


def test_it_runs_without_the_data_layer(tiny: Path) -> None:
    code = (
        "import sys\nfor name in ('ray', 'lance', 'lancedb', 'pydantic', 'pipelines', 'typer', 'rich'):\n"
        "    sys.modules[name] = None\n"
        f"from actors.doctor.examine import main\nsys.exit(main(['--weights', {str(tiny)!r}, '--device', 'cpu']))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "all checks passed" in done.stdout
    assert done.stderr == ""
