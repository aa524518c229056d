"""How a model is meant to be used is read from its folder; what would give wrong vectors is refused, with a message
that says what to do.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from actors.embedder.embedder import Embedder
from actors.embedder.recipe import identity
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.recipe import QWEN_QUERY_PROMPT, load_recipe
from tests.support.models import build, write_modules


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("originals")
    build(base / "qwen3", "qwen3")
    build(base / "bert", "bert")
    build(base / "xlm-roberta", "xlm-roberta")
    return base


@pytest.fixture
def qwen(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "qwen3", tmp_path / "qwen3"))


@pytest.fixture
def bert(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "bert", tmp_path / "bert"))


def spec_of(folder: Path) -> ModelSpec:
    return ModelSpec(str(folder), device="cpu")


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("kind", ["Dense", "LSTM", "WeightedLayerPooling"])
def test_a_module_that_is_not_known(bert: Path, kind: str) -> None:
    write_modules(bert, "mean", ("Transformer", "Pooling", kind, "Normalize"))
    with pytest.raises(ModelError, match=f"module {kind}, which is not supported"):
        load_recipe(bert)


def test_modules_in_another_order(bert: Path) -> None:
    write_modules(bert, "mean", ("Transformer", "Normalize", "Pooling"))
    with pytest.raises(ModelError, match="chains Transformer -> Normalize -> Pooling"):
        load_recipe(bert)


def test_normalise_only_when_the_model_does(bert: Path, qwen: Path) -> None:
    write_modules(bert, "mean", ("Transformer", "Pooling"))
    assert not load_recipe(bert).normalise
    write_modules(qwen, "lasttoken", ("Transformer", "Pooling"))
    assert load_recipe(qwen).normalise
    assert load_recipe(qwen).pooling == "last"


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"], "embedding_dimension": 64}, "cls"),
        ({"pooling_mode": "max"}, None),
        ({"pooling_mode": ["mean", "cls"]}, None),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_weightedmean_tokens": True}, None),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, None),
        ({}, None),
    ],
)
def test_pooling_in_old_and_new_spelling(bert: Path, config: dict[str, object], wanted: str | None) -> None:
    (bert / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if wanted:
        assert load_recipe(bert).pooling == wanted
    else:
        with pytest.raises(ModelError, match="pooling"):
            load_recipe(bert)


def test_pooling_unknown(bert: Path) -> None:
    (bert / "modules.json").unlink()
    with pytest.raises(ModelError, match=r"no modules\.json, so its pooling is unknown"):
        load_recipe(bert)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "mpnet"},
        {"position_embedding_type": "alibi"},
        {"auto_map": {"AutoModel": "modeling_own.OwnModel"}},
        {"quantization_config": {"quant_method": "gptq"}},
        {"model_type": "qwen3", "use_bidirectional_attention": True},
    ],
)
def test_architectures_we_would_run_wrongly(bert: Path, change: dict[str, object]) -> None:
    edit(bert / "config.json", **change)
    with pytest.raises(ModelError, match="supported: bert, modernbert, qwen3, roberta, xlm-roberta"):
        load_recipe(bert)


@pytest.mark.parametrize("name", ["qwen3", "bert"])
def test_a_reranker_by_its_class(originals: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(originals / name, tmp_path / name))
    edit(folder / "config.json", architectures=[f"{name.title()}ForSequenceClassification"])
    with pytest.raises(ModelError, match=r"is a reranker .*ForSequenceClassification.* take an embedding model"):
        load_recipe(folder)
    with pytest.raises(ModelError, match="is a reranker"):
        Embedder(spec_of(folder))


def test_a_reranker_by_its_modules(qwen: Path) -> None:
    write_modules(qwen, "lasttoken", ("Transformer", "LogitScore"))
    with pytest.raises(ModelError, match=r"is a reranker \(module LogitScore\)"):
        load_recipe(qwen)


@pytest.mark.parametrize(
    "oddity",
    [
        {"architectures": ["Qwen3ForCausalLM"]},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"attention_bias": True},
        {"use_sliding_window": True, "sliding_window": 64},
        {"hidden_act": "gelu"},
    ],
)
def test_an_unusual_qwen3_is_not_refused(qwen: Path, oddity: dict[str, object]) -> None:
    edit(qwen / "config.json", **oddity)
    assert load_recipe(qwen).architecture == "qwen3"


@pytest.mark.parametrize("name", ["hidden_size", "num_attention_heads", "rms_norm_eps"])
def test_a_config_that_lacks_a_size(qwen: Path, name: str) -> None:
    config = json.loads((qwen / "config.json").read_text())
    del config[name]
    (qwen / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=f"does not say {name}: fetch the model again"):
        load_recipe(qwen)


def test_prompts_and_lengths_come_from_the_recipe(bert: Path, originals: Path) -> None:
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": "query"}
    (bert / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (bert / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 4000, "do_lower_case": True}))
    recipe = load_recipe(bert)
    assert (recipe.document_prompt, recipe.query_prompt) == ("passage: ", "query: ")
    assert (recipe.max_tokens, recipe.lower_case) == (256, True), "never more than there are positions"
    assert load_recipe(originals / "xlm-roberta").max_positions == 256, "258 rows, the first two are never used"


def test_beyond_what_the_model_can_do(bert: Path) -> None:
    with pytest.raises(ModelError, match=r"dimensions 65 asked, .* gives 64"):
        identity(replace(spec_of(bert), dimensions=65))
    with pytest.raises(ModelError, match=r"max_tokens 257 asked, .* takes 256"):
        Embedder(replace(spec_of(bert), max_tokens=257))
    with pytest.raises(ModelError, match="special tokens and prompt alone take"):
        TextTokenizer(replace(spec_of(bert), max_tokens=4, prompt="a long prompt that fills it"))
    with pytest.raises(ModelError, match="takes no instruction"):
        TextTokenizer(spec_of(bert)).encode_queries(["a"], "Find it")


def test_qwen3_needs_no_modules_json_and_knows_its_recipe(originals: Path) -> None:
    recipe = load_recipe(originals / "qwen3")
    assert (recipe.pooling, recipe.normalise, recipe.document_prompt) == ("last", True, "")
    assert recipe.query_prompt == QWEN_QUERY_PROMPT
    assert recipe.max_tokens == recipe.max_positions == 512
