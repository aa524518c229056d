"""A similarity by which the vectors are not ordered as by their cosine is refused; one that orders the same is not."""

import json
from pathlib import Path

import pytest

from actors.doctor.examine import examine
from actors.embedder.embedder import Embedder
from actors.spec import ModelError, ModelSpec
from actors.weights.recipe import load_recipe
from tests.support.models import write_modules
from tests.support.tokenizers import edit, write_model

SENTENCES = "config_sentence_transformers.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "bert", "bert")


@pytest.mark.parametrize("name", ["dot", "euclidean", "manhattan"])
def test_another_similarity_without_normalize(folder: Path, name: str) -> None:
    write_modules(folder, "mean", ("Transformer", "Pooling"))
    edit(folder / SENTENCES, similarity_fn_name=name)
    spec = ModelSpec(str(folder), device="cpu")
    with pytest.raises(ModelError, match=f"similarity_fn_name: '{name}', and modules.json has no") as refused:
        Embedder(spec)
    assert '"similarity_fn_name": "cosine"' in str(refused.value), "what helps"
    found = examine(spec)
    assert (found.ok, found.checks[0].ok) == (False, False)
    edit(folder / SENTENCES, similarity_fn_name="cosine")
    assert not load_recipe(folder).normalise


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", None])
def test_at_length_1_these_order_as_the_cosine_does(folder: Path, name: str | None) -> None:
    (folder / SENTENCES).write_text(json.dumps({"similarity_fn_name": name}))
    assert load_recipe(folder).normalise


@pytest.mark.parametrize("name", ["manhattan", "maxsim", 3])
def test_these_do_not(folder: Path, name: object) -> None:
    edit(folder / SENTENCES, similarity_fn_name=name)
    with pytest.raises(ModelError, match=f"similarity_fn_name: {name!r}: this model's vectors"):
        load_recipe(folder)
