"""Rows without a vector: each stays with its reason, and too many fail the run."""

import numpy as np
import pytest

from pipelines.errors import Incomplete
from tests.support.jobs import job, rows, run, write_jsonl
from tests.support.spoilt import spoil

NASTY = [
    {"doc_id": "good", "text": "some text", "n": 1},
    {"doc_id": None, "text": "no id", "n": 2},
    {"doc_id": "good", "text": "twice", "n": 3},
    b'{"doc_id": "broken", "text": \n',
    b'{"doc_id": "latin", "text": "\xff\xfe", "n": 5}\n',
    {"doc_id": "null", "text": None, "n": 6},
    {"doc_id": "number", "text": 7, "n": 7},
    {"doc_id": "empty", "text": "", "n": 8},
    {"doc_id": "blank", "text": " \t", "n": 9},
    {"doc_id": "column", "text": "fits not", "n": "ten"},
    {"doc_id": "last", "text": "more text", "n": 11},
]
REASONS_OF_NASTY = [
    *(None, "no_id", None, "undecodable", "undecodable", "no_text", "not_a_string", "empty_text"),
    *("empty_text", "bad_column", None),
]


def test_each_kind_of_bad_row_stays_with_its_reason(tmp_path):
    write_jsonl(tmp_path / "corpus" / "a.jsonl", [{"doc_id": f"x{n}", "text": "t", "n": n} for n in range(3)])
    write_jsonl(tmp_path / "corpus" / "nasty.jsonl", NASTY)
    config = job(tmp_path)
    certificate = run(config)
    assert certificate.adds_up
    assert (certificate.rows, certificate.embedded_rows, certificate.bad_rows) == (14, 6, 8)
    found = [r for r in rows(config) if not r["id"].startswith("x")]
    assert [r["_reason"] for r in found] == REASONS_OF_NASTY
    for row in found:
        assert (row["vector"] is None) == (row["_reason"] is not None)
        assert (row["_detail"] or "").startswith("nasty.jsonl row " if row["_reason"] else "")
    assert "twice" not in str([r["_detail"] for r in found]), "text is never in a message"


def test_non_finite_vector_is_recorded(tmp_path, corpus, monkeypatch):
    from actors.embedder.embedder import Embedder

    def hand(vectors):
        if len(vectors) > 5:  # not the self-check
            vectors[0] = np.nan

    spoil(monkeypatch, Embedder, hand)
    certificate = run(job(tmp_path))
    assert certificate.adds_up
    assert certificate.reasons == {"non_finite": 9}, "one in each of nine units"


def test_too_many_bad_rows_fail_the_run(tmp_path):
    write_jsonl(tmp_path / "corpus" / "nasty.jsonl", NASTY)
    with pytest.raises(Incomplete, match=r"\d rows have no vector, more than run.max_bad_rows \(0.5\)"):
        run(job(tmp_path, run={"max_bad_rows": 0.5}))
    assert run(job(tmp_path, run={"max_bad_rows": 9})).adds_up


def test_too_many_bad_rows_fail_the_next_run_too(tmp_path):
    write_jsonl(tmp_path / "corpus" / "nasty.jsonl", NASTY)
    run(job(tmp_path))
    with pytest.raises(Incomplete, match=r"7 rows have no vector"):
        run(job(tmp_path, run={"max_bad_rows": 6}))
