"""docs/models.md cannot rot: its tests, recipes, tolerances and sizes are those of the code."""

import re
from pathlib import Path

from actors.checks.published import PUBLISHED, TOLERANCES
from actors.weights.recipe import QWEN_QUERY_PROMPT

ROOT = Path(__file__).parents[2]


def test_tests_named_on_the_page_of_models_exist() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= 15
    for file, name in named:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no test {name}"


def test_the_page_of_models_has_the_recipes_and_tolerances_of_the_code() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    task, _, _ = QWEN_QUERY_PROMPT.removeprefix("Instruct: ").partition("\n")
    assert f"{{task}}      {task}\n" in page
    assert "Instruct: {task}\\nQuery:{query}" in page
    for kind, name in (("cosine", "cosine of a query and a document"), ("logit", "reranker, logit")):
        exact, half = TOLERANCES[kind]["float32"], TOLERANCES[kind]["bfloat16"]
        assert f"| {name} | {exact} | {half} |" in page
    for published in PUBLISHED:
        assert str(published.shape[0]) in page
