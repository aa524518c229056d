"""Collections that are read, and each way in which one is wrong."""

import pytest

from pipelines.search.evaluation.beir import read_collection
from tests.support.commands import call
from tests.support.evaluating import write_beir

QUERY = '{"_id": "q0", "text": "alpha"}'
HEADER = "query-id\tcorpus-id\tscore\n"
WRONG = {
    "no folder": ({}, "there is no folder"),
    "no files": ({"x": ""}, "lacks queries.jsonl and qrels/test.tsv"),
    "no queries": ({"qrels/test.tsv": HEADER}, "lacks queries.jsonl; a folder in BEIR layout"),
    "other split": (
        {"queries.jsonl": QUERY, "qrels/dev.tsv": HEADER},
        "lacks qrels/test.tsv; a folder in BEIR layout has queries.jsonl and qrels/SPLIT.tsv. The splits there are: "
        "dev (--split).",
    ),
    "two fields": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\t1\nq0 d1 1\n"}, "test.tsv, line 3: "),
    "no number": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\tyes\n"}, "test.tsv, line 2: "),
    "no id": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\t\t1\n"}, "test.tsv, line 2: "),
    "two grades": (
        {"queries.jsonl": QUERY, "qrels/test.tsv": HEADER + "q0\td0\t1\nq0\td0\t2\n"},
        "line 3: document 'd0' has grade 2 for query 'q0', and an earlier line gives it 1",
    ),
    "nothing judged": ({"queries.jsonl": QUERY, "qrels/test.tsv": HEADER}, "holds no judgment"),
    "broken query": ({"queries.jsonl": QUERY + "\n{x", "qrels/test.tsv": "q0\td0\t1\n"}, "queries.jsonl, line 2: not"),
    "no text": ({"queries.jsonl": '{"_id": "q0"}', "qrels/test.tsv": "q0\td0\t1\n"}, "queries.jsonl, line 1: not"),
    "empty text": ({"queries.jsonl": '{"_id": "q0", "text": " "}', "qrels/test.tsv": "q0\td0\t1\n"}, "line 1: not"),
    "two texts": (
        {"queries.jsonl": QUERY + "\n" + QUERY.replace("alpha", "beta"), "qrels/test.tsv": "q0\td0\t1\n"},
        "line 2: query 'q0' is there twice",
    ),
    "other queries": (
        {"queries.jsonl": QUERY, "qrels/test.tsv": "q5\td0\t1\n"},
        "queries.jsonl has none of the 1 queries",
    ),
    "not UTF-8": ({"queries.jsonl": QUERY, "qrels/test.tsv": b"q0\t\xff\t1\n"}, "is not UTF-8 text"),
}


@pytest.mark.parametrize(("files", "words"), WRONG.values(), ids=WRONG)
def test_a_wrong_collection_is_refused_by_file_and_line(job_file, tmp_path, files, words):
    folder = tmp_path / "beir"
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = call("evaluate", job_file, "--beir", folder)
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert words in " ".join(done.stderr.split())


def test_a_collection_may_have_a_header_and_windows_lines(tmp_path):
    folder = write_beir(tmp_path / "beir", {"q1": {"d1": 1}})
    plain = read_collection(folder, "test")
    path = folder / "qrels" / "test.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert read_collection(folder, "test") == plain
    path.write_text("q1\td1\t1\n")
    assert read_collection(folder, "test") == plain
