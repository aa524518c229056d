"""Who may import whom, proven by importing."""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACTORS, PIPELINES = ROOT / "actors", ROOT / "pipelines"
PACKAGES = sorted([*ACTORS.rglob("__init__.py"), *PIPELINES.glob("*/**/__init__.py")])


def names(files: Iterable[Path]) -> list[str]:
    """The dotted names of modules."""
    dotted = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files))
    return [name.removesuffix(".__init__") for name in dotted]


MODULES = names(ACTORS.rglob("*.py"))
GROUND = names(ACTORS.glob("*.py"))
WITHOUT_TORCH = [*GROUND, *names((ACTORS / "weights").rglob("*.py")), *names((ACTORS / "tokenizer").rglob("*.py"))]


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_model_layer_stands_alone() -> None:
    assert len(MODULES) > 10
    blocked = ["ray", "lance", "lancedb", "pydantic", "pipelines"]
    run(f"import sys, importlib\nfor name in {blocked}: sys.modules[name] = None\n"
        f"for name in {MODULES}: importlib.import_module(name)")  # fmt: skip


def test_tokenising_and_planning_do_not_pay_for_torch() -> None:
    assert {"actors", "actors.spec", "actors.weights.locate", "actors.tokenizer.text"} < set(WITHOUT_TORCH)
    heavy = ["torch", "transformers", "sentence_transformers", "huggingface_hub"]
    run(
        f"import sys, importlib\nfor name in {[*WITHOUT_TORCH, 'actors.device.auto']}: importlib.import_module(name)\n"
        "from actors.embedder.recipe import identity\nfrom actors.spec import ModelSpec\n"
        "from actors.tokenizer.text import TextTokenizer\n"
        "spec = ModelSpec('bundled', device='cpu', dtype='float32')\n"
        "identity(spec), TextTokenizer(spec).encode(['a'])\n"
        f"found = set({heavy}) & set(sys.modules)\nassert not found, found"
    )


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_a_package_says_what_it_holds_and_imports_nothing(package: Path) -> None:
    """Or whoever takes one module of a room pays for the others."""
    (docstring,) = ast.parse(package.read_text(encoding="utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)
    if package.parents[1] in (ACTORS, PIPELINES):
        assert "import" in docstring.value.value.lower(), "a room says what it may import"


def test_nothing_outside_the_table_room_reaches_for_its_dataset() -> None:
    """A Lance dataset can be written to by whoever holds one. A corpus in Lance is another, and is only read."""
    own = {*(PIPELINES / "table").rglob("*.py"), PIPELINES / "corpus" / "formats" / "lance.py"}
    others = sorted({*PIPELINES.rglob("*.py")} - own)
    assert len(others) > 60
    reached = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in others
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("dataset", "handle", "_dataset", "_handle")
    ]
    assert reached == []


def test_the_long_test_files_are_there() -> None:
    """A stale name would be ignored, and the slowest file come last."""
    from tests.conftest import LONG_FILES

    assert [name for name in LONG_FILES if not (ROOT / "tests" / name).exists()] == []
