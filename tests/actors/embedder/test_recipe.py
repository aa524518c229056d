"""What a vector depends on, and nothing else, is in its identity."""

from dataclasses import replace
from pathlib import Path

import pytest

from actors.embedder.recipe import identity
from actors.spec import ModelError, ModelSpec
from tests.support.models import build


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("models") / "bert", "bert")


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu")


def test_identity_names_what_changes_a_vector() -> None:
    spec = ModelSpec("bundled", device="cpu")
    base = identity(spec)
    assert base["dtype"] == "float32"
    assert base["max_tokens"] == 256
    assert identity(replace(spec, token_budget=5, threads=1, device="cpu")) == base
    for change in ({"dimensions": 10}, {"max_tokens": 12}, {"dtype": "bfloat16"}, {"prompt": "x: "}):
        changed = identity(replace(spec, **change))
        assert [name for name in base if base[name] != changed[name]] == list(change)
    assert identity(ModelSpec("fake:5000")) == identity(ModelSpec("fake", device="cuda"))


def test_float8_is_for_qwen3(bert: Path, qwen: Path) -> None:
    with pytest.raises(ModelError, match=r"float8 is for qwen3 only, and .* is bert"):
        identity(replace(spec_of(bert), dtype="float8"))
    exact, fast = identity(spec_of(qwen)), identity(replace(spec_of(qwen), dtype="float8"))
    assert {name: fast[name] for name in exact if exact[name] != fast[name]} == {"dtype": "float8"}


def test_float16_only_by_force(qwen: Path) -> None:
    with pytest.raises(ModelError, match=r"float16 is refused: .* set force_float16"):
        replace(spec_of(qwen), dtype="float16")
    forced = replace(spec_of(qwen), dtype="float16", force_float16=True)
    assert identity(forced)["dtype"] == "float16"
    assert identity(replace(forced, dtype="float32")) == identity(spec_of(qwen)), "the permission changes no vector"
