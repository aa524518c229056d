"""What people see of each command's result."""

import lance

from tests.support.commands import call, write_job
from tests.support.jobs import job, text_of, write_jsonl


def test_what_people_see(tmp_path):
    records = [{"doc_id": f"d{n}", "text": text_of(n), "n": n} for n in range(20)]
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [*records, {"doc_id": None, "text": "x", "n": 1}, b"{broken\n"])
    folder = tmp_path / ("a-folder-with-a-long-name-" * 4)
    job_file = write_job(tmp_path / "job.yaml", job(tmp_path, table={"uri": str(folder), "text_column": "text"}))
    shown = call("plan", job_file).stdout
    assert "22 in 1 shard(s)" in shown
    assert "time                  unknown for this model" in shown
    shown = call("embed", job_file).stdout
    assert "certificate: the sums add up" in shown
    assert "2 (no_id 1, undecodable 1)" in shown
    assert f"{folder}/t.lance, version" in shown, "not wrapped: somebody will copy it"
    shown = call("status", job_file, "--bad-rows", "1").stdout
    assert "22 of 22" in shown
    assert "UTC (" in shown
    assert "ago), run 20" in shown
    assert "no_id: a.jsonl row 20" in shown
    assert "... 1 more (--bad-rows N)" in shown
    assert "undecodable:" not in shown
    shown = call("verify", job_file).stdout
    assert "DOUBT" not in shown
    assert shown.endswith("verified\n")
    shown = call("search", job_file, text_of(3), "-k", "1").stdout
    assert "d3" in shown
    assert f"text: {text_of(3)}" in shown
    assert call("search", job_file, "x", "--where", "n > 99").stdout.endswith("nothing found\n")
    shown = call("optimize", job_file).stdout
    assert "vector index   none: fewer than 100,000 vectors" in shown
    assert all(s == s.rstrip() for s in shown.splitlines())
    lance.dataset(f"{folder}/t.lance").delete("n = 7")
    result = call("verify", job_file)
    assert result.exit_code == 1
    assert "DOUBT  every row accounted for" in result.stdout
    assert result.stdout.endswith("NOT VERIFIED: see the lines marked DOUBT\n")
