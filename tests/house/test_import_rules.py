"""Who may import whom, proven by importing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "actors").rglob("*.py"))
MODULES = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES]
LIGHT = [
    "actors",
    "actors.spec",
    "actors.weights.locate",
    "actors.weights.recipe",
    "actors.tokenizer.text",
    "actors.fake",
]


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_model_layer_stands_alone() -> None:
    assert len(MODULES) > 10
    blocked = ["ray", "lance", "lancedb", "pydantic", "pipelines"]
    run(f"import sys, importlib\nfor name in {blocked}: sys.modules[name] = None\n"
        f"for name in {MODULES}: importlib.import_module(name)")  # fmt: skip


def test_tokenising_and_planning_do_not_pay_for_torch() -> None:
    heavy = ["torch", "transformers", "sentence_transformers", "huggingface_hub"]
    run(
        f"import sys, importlib\nfor name in {LIGHT}: importlib.import_module(name)\n"
        "from actors.spec import ModelSpec\nfrom actors.tokenizer.text import TextTokenizer\n"
        "from actors.embedder.recipe import identity\n"
        "spec = ModelSpec('bundled', device='cpu', dtype='float32')\n"
        "identity(spec), TextTokenizer(spec).encode(['a'])\n"
        f"found = set({heavy}) & set(sys.modules)\nassert not found, found"
    )


def test_the_package_itself_imports_nothing() -> None:
    assert "import" not in (ROOT / "actors" / "__init__.py").read_text()
