"""What can be said of weights without running them."""

import json
import shutil
from pathlib import Path

from actors.doctor import inspection
from tests.support.models import build


def test_the_task_is_read_from_files_and_name(tmp_path: Path) -> None:
    tiny = build(tmp_path / "tiny", "qwen3")
    assert inspection.guess_task("/models/mine", tiny) == "embed"
    assert inspection.guess_task("Qwen/Qwen3-Reranker-0.6B", tiny) == "rerank"
    assert inspection.guess_task("/reranking/embedders/mine", tiny) == "embed"
    folder = Path(shutil.copytree(tiny, tmp_path / "mine"))
    chain = [{"type": f"sentence_transformers.models.{kind}", "path": ""} for kind in ("Transformer", "LogitScore")]
    (folder / "modules.json").write_text(json.dumps(chain))
    assert inspection.guess_task(str(folder), folder) == "rerank"
