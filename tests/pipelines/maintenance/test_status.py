"""status: what it says of a table, also while a run writes to it."""

import json
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pytest

from actors.embedder.fake import FakeEmbedModel
from pipelines.config import StorageConfig
from pipelines.engine.inline import InlineExecutor
from pipelines.errors import TableError
from pipelines.maintenance.status import status
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table.files import TableAddress
from tests.support.commands import call, write_job
from tests.support.jobs import (
    Said,
    address,
    between_commits,
    dataset,
    job,
    rows,
    run,
    text_of,
    write_jsonl,
    write_parquet,
)
from tests.support.verifying import files_of

ROOT = Path(__file__).parents[3]


def test_status_says_what_the_table_holds(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": f"x{n}", "text": text_of(n), "n": n} for n in range(30)])
    bad = [{"doc_id": f"e{n}", "text": "", "n": n} for n in range(5)] + [{"doc_id": None, "text": "t", "n": 1}]
    write_jsonl(tmp_path / "corpus" / "b.jsonl", bad)
    config = job(tmp_path)
    certificate = run(config)
    found = status(address(config), bad_rows_shown=3).to_dict()
    table = dataset(config)
    assert found["version"] == table.version == found["versions_kept"]
    assert found["rows"] == found["corpus_rows"] == found["records"] == table.count_rows() == 36
    assert found["units"] == found["units_total"] == certificate.units == 3
    assert found["tokens"] == sum(r["_tokens"] for r in rows(config)) == certificate.tokens
    assert (found["bad_rows"], found["reasons"]) == (6, {"empty_text": 5, "no_id": 1})
    assert [row["_detail"].split(":")[0] for row in found["first_bad_rows"]] == [f"b.jsonl row {n}" for n in range(3)]
    assert found["bytes"] == sum(path.stat().st_size for path in files_of(config) if path.parent.name == "data")
    assert found["fingerprint"] == certificate.fingerprint
    assert len(status(address(config), bad_rows_shown=99).to_dict()["first_bad_rows"]) == 6
    assert json.dumps(found)


def test_status_while_a_run_is_between_commits(tmp_path, monkeypatch):
    write_parquet(tmp_path / "corpus")
    config = job(tmp_path, run={"commit_every_rows": 1})
    seen = []
    between_commits(monkeypatch, lambda: seen.append(status(address(config)).to_dict()))
    run(config)
    assert [s["rows"] for s in seen] == [16, 32, 40, 56, 72, 80, 96, 112, 120]
    assert {s["corpus_rows"] for s in seen} == {120}
    assert {s["units_total"] for s in seen} == {9}
    assert all(s["last_run"] and s["last_commit"] for s in seen)


def test_status_needs_neither_ray_nor_torch(config):
    code = (
        "import sys; from pipelines.cli.app import app\n"
        f"try: app(args=['status', {config.table.location!r}, '--json'])\n"
        "except SystemExit as end: assert end.code in (0, None)\n"
        "print(sorted({'ray', 'torch', 'transformers', 'lancedb'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found, loaded = done.stdout.splitlines()
    assert json.loads(found)["rows"] == 120
    assert loaded == "[]"


def test_status_of_what_is_not_ours(tmp_path):
    lance.write_dataset(pa.table({"a": [1]}), f"{tmp_path}/foreign.lance")
    for name, words in [("foreign", "was not created by vectormill"), ("missing", "there is no table at")]:
        with pytest.raises(TableError, match=words):
            status(TableAddress(f"{tmp_path}/{name}.lance", StorageConfig()))


def test_what_replicas_compute_with_is_said_noted_and_shown(tmp_path, monkeypatch):
    """The degraded one once, however many parcels it works off; all of it with each commit and in the run record."""
    facts = {"device": "cuda (Tesla T4, compute capability 7.5)", "kernels": "torch", "slower": "no C compiler"}
    write_parquet(tmp_path / "corpus")
    config, said = job(tmp_path), Said()
    run(config)
    assert status(address(config)).computed_with is None, "the fake model has no device"
    write_parquet(tmp_path / "corpus", first=1000)
    monkeypatch.setattr(FakeEmbedModel, "facts", facts)
    executor = InlineExecutor()
    made = Run.open(prepare(config, executor), executor, said)
    made.work()
    noted = {name: [value] for name, value in facts.items()}
    assert status(address(config)).computed_with == noted
    assert made.record("complete", None)["metrics"]["replicas_compute_with"] == noted
    assert said.lines.count("slower than it could be: no C compiler") == 1
    shown = call("status", write_job(tmp_path / "job.yaml", config)).stdout
    assert "replicas: device" in shown
    assert "Tesla T4, compute capability 7.5" in shown
