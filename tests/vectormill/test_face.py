"""What a program imports: complete, typed, and nothing before it is asked for."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vectormill
from tests.support.jobs import job, text_of, write_jsonl, write_parquet
from vectormill import Job

ROOT = Path(__file__).parents[2]


def test_each_name_is_what_it_says():
    for name in vectormill.__all__:
        found = getattr(vectormill, name)
        assert name == "__version__" or found.__name__ == name
    assert dir(vectormill) == vectormill.__all__
    with pytest.raises(AttributeError, match="no attribute 'job_file'; it has Certificate, Embedder"):
        vectormill.job_file  # noqa: B018


def test_importing_it_costs_nothing():
    code = (
        "import sys, vectormill; "
        "assert not {'pipelines', 'actors', 'torch', 'lance', 'ray', 'pyarrow'} & set(sys.modules); "
        "vectormill.Query; assert not {'torch', 'lance', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_type_checker_sees_what_it_hands_on(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("from vectormill import Job\nreveal_type(Job.from_file('x').embed().rows)\nJob.nothing\n")
    command = [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports", str(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert 'Revealed type is "int"' in done.stdout
    assert '"type[Job]" has no attribute "nothing"' in done.stdout


# ---------------------------------------------------------------------- a job


@pytest.fixture
def sections(tmp_path):
    write_parquet(tmp_path / "corpus")
    return job(tmp_path, table={"text_column": "text"}).model_dump(mode="json", exclude_none=True)


def test_from_nothing_to_hits(sections):
    """Every method, and each result as `--json` prints it."""
    mine = Job.from_dict(sections)
    forecast = mine.plan()
    assert (forecast.rows, forecast.rows_to_do) == (120, 120)
    seen, said = [], []
    certificate = mine.embed(on_progress=seen.append, on_message=said.append)
    assert certificate.adds_up
    assert [seen[0].rows_committed, seen[-1].rows_committed] == [0, 120]
    assert all(isinstance(now, vectormill.Snapshot) for now in seen)
    assert any("units to do" in line for line in said)
    status, verdict, optimized = mine.status(), mine.verify(sample=2, seed=1), mine.optimize(full_text="auto")
    assert (status.rows, verdict.ok, optimized.other_indexes["text"]) == (120, True, "built")
    hits = mine.search(text_of(7), limit=2, where="n < 50")
    assert (hits[0].id, len(hits)) == ("d7", 2)
    assert mine.searcher().search(text_of(7), vectormill.Query(limit=2, where="n < 50")) == hits
    words = mine.search("n7", limit=1, mode="text")
    assert words[0].id == "d7"
    for result in (forecast, certificate, status, verdict, optimized, hits[0]):
        json.dumps(result.to_dict(), default=str)


def test_a_run_that_is_stopped_is_gone_on_with(sections):
    """Whatever the listener raises stops the run; what is committed stays."""
    mine = Job.from_dict(sections)

    def stop(now):
        if now.rows_committed:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mine.embed(on_progress=stop)
    assert 0 < mine.status().rows < 120
    assert mine.embed().adds_up
    assert mine.status().rows == 120


def test_sections_take_the_place_of_the_files_fields(tmp_path, sections):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(sections))
    other = Job.from_file(path, table={"name": "other"}, run={"replicas": {"min": 1, "max": 2}}, chunking=None)
    assert (other.config.table.name, other.config.table.uri) == ("other", sections["table"]["uri"])
    assert (other.config.run.replicas.max, other.config.run.engine) == (2, "inline")
    assert Job.from_file(path).config == Job.from_dict(sections).config


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"table": {"nmae": "x"}}, "table.nmae: unknown key; did you mean 'name'?"),
        ({"tabel": {}}, "tabel: unknown key; did you mean 'table'?"),
        ({"run": 4}, "run: "),
    ],
)
def test_mistakes_are_one_message(tmp_path, sections, overrides, words):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(sections))
    with pytest.raises(vectormill.VectormillError, match="1 wrong field") as bad:
        Job.from_file(path, **overrides)
    assert words in str(bad.value)
    with pytest.raises(vectormill.VectormillError, match="cannot read the job file"):
        Job.from_file(tmp_path / "nowhere.yaml")
    with pytest.raises(vectormill.VectormillError, match="this job has task: embed"):
        Job.from_dict(sections).rerank()


# ---------------------------------------------------------------------- the page


def test_the_programs_in_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    records = [{"name": n, "module": n.split(".")[0], "text": f"{n} can compress a file"} for n in ("zlib.x", "bz2.y")]
    write_jsonl(tmp_path / "demo" / "corpus" / "a.jsonl", records)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text((ROOT / "configs" / "demo.yaml").read_text())
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(programs) == 3
    names = {}
    for program in programs:
        exec(program, names)
    assert "1 zlib.x" in capsys.readouterr().out
    assert names["certificate"].rows == 2
    assert (names["queries"] @ names["documents"].T).argmax() == 0
