"""How a command ends: one JSON object on stdout, nothing where it is quiet, an exit code that is the truth."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.commands import call, object_of, refused, write_job
from tests.support.jobs import job, text_of, write_parquet


def test_json_of_every_command(tmp_path, job_file, capfd):
    code, found = object_of("plan", job_file)
    assert (code, found["rows_to_embed"]) == (0, 120)
    code, found = object_of("embed", job_file)
    assert (code, found["adds_up"], found["embedded_rows"]) == (0, True, 120)
    code, found = object_of("status", job_file)
    assert (code, found["rows"]) == (0, 120)
    code, found = object_of("verify", job_file)
    assert (code, found["ok"]) == (0, True)
    assert found["certificate"]["adds_up"]
    code, found = object_of("search", f"{tmp_path}/db/t", text_of(5), "-k", "2")
    assert code == 0
    assert found["hits"][0]["id"] == "d5"
    assert found["hits"][0]["columns"]["n"] == 5
    code, found = object_of("optimize", f"{tmp_path}/db/t.lance")
    assert (code, found["fragments_after"]) == (0, 1)
    progress = capfd.readouterr()
    assert progress.out == ""
    assert "120 of 120 rows in the table (100%)" in progress.err


def test_json_has_no_nan(tmp_path):
    write_parquet(tmp_path / "corpus", shards=1, rows=2)
    table = pa.table({"doc_id": ["a", "b"], "text": ["x", "y"], "n": [float("nan"), float("inf")], "score": ["u", "v"]})
    pq.write_table(table, tmp_path / "corpus" / "part-0.parquet")
    job_file = write_job(tmp_path / "job.yaml", job(tmp_path, corpus={"columns": ["n", "score"]}))
    assert call("embed", job_file).exit_code == 0
    _, found = object_of("search", job_file, "x")
    assert {hit["id"]: hit["columns"]["n"] for hit in found["hits"]} == {"a": "NaN", "b": "Infinity"}
    assert found["hits"][0]["columns"]["score"] == "u", "a carried column hides nothing"
    assert found["hits"][0]["score"] > 0.9


def test_quiet_says_nothing(job_file, capfd):
    assert call("embed", job_file, "--quiet").exit_code == 0
    assert capfd.readouterr().err == ""


def test_exit_code_of_an_account_that_does_not_add_up(job_file, monkeypatch):
    from pipelines.tasks.embed import Tokenise

    real = Tokenise.__call__

    def tokenise(self, table):
        if "d17" in table["id"].to_pylist():
            raise RuntimeError("tokenizer trouble")
        return real(self, table)

    monkeypatch.setattr(Tokenise, "__call__", tokenise)
    code, found = object_of("embed", job_file)
    assert (code, found["adds_up"], found["missing_rows"]) == (1, False, 16)
    assert "tokenizer trouble" in found["failures"][0]
    monkeypatch.undo()
    code, found = object_of("verify", job_file)
    assert (code, found["ok"]) == (1, False)


def test_verify_against_another_certificate(tmp_path, job_file):
    """What one command printed the other takes; exit 1 names what differs, exit 2 a file that is no certificate."""
    code, mine = object_of("embed", job_file)
    (tmp_path / "mine.json").write_text(json.dumps(mine))
    code, found = object_of("verify", job_file, "--against", f"{tmp_path}/mine.json")
    assert (code, found["ok"], found["certificate"]) == (0, True, mine)
    assert call("verify", job_file, "--against", f"{tmp_path}/db/t.vectormill/certificate.json").exit_code == 0
    (tmp_path / "other.json").write_text(json.dumps({**found, "certificate": {**mine, "rows": 121, "tokens": 1}}))
    result = call("verify", job_file, "--against", f"{tmp_path}/other.json")
    assert result.exit_code == 1
    named = [line.partition("other.json: ")[2] for line in result.stdout.splitlines() if "DOUBT  as certified" in line]
    assert named == ["rows in the corpus: 120 here, 121 there", f"tokens: {mine['tokens']} here, 1 there"]
    (tmp_path / "bits.json").write_text(json.dumps({**mine, "pair_digest": "0" * 16}))
    assert call("verify", job_file, "--against", f"{tmp_path}/bits.json").exit_code == 1
    assert call("verify", job_file, "--against", f"{tmp_path}/bits.json", "--vectors", "rounded").exit_code == 0
    refused(2, "there is no such file", "verify", job_file, "--against", f"{tmp_path}/nope.json")
    refused(2, "this is not JSON, so no certificate", "verify", job_file, "--against", f"{tmp_path}/job.yaml")
