"""Every nasty of the corpus of nasties comes out as it is said to: rows, reasons, or one clear error."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from pipelines.errors import CorpusError
from tests.support.buckets import Bucket
from tests.support.commands import call, write_job
from tests.support.corpora import corpus, read
from tests.support.jobs import rows
from tests.support.nasties import files as nasty_files
from tests.support.nasties import folders as nasty_folders
from tests.support.nasties import tables as nasty_tables
from tests.support.nasties import types as nasty_types
from tests.support.nasties.nasty import Nasty, outcome

GROUPS = {
    "lines": nasty_files.LINES, "json": nasty_files.JSON, "csv": nasty_files.CSV, "packed": nasty_folders.PACKED,
    "folders": nasty_folders.FOLDERS, "ids": nasty_types.IDS, "carried": nasty_types.CARRIED,
    "shapes": nasty_tables.SHAPES, "drift": nasty_tables.DRIFT, "damage": nasty_tables.DAMAGE,
}  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_outcomes(tmp_path: Path, group: str) -> None:
    wrong = []
    for number, nasty in enumerate(GROUPS[group]):
        (tmp_path / str(number)).mkdir()
        found = outcome(nasty.job(tmp_path / str(number)))
        if not nasty.is_met_by(found):
            wrong.append(f"{nasty.name}: {found}; wanted {nasty.outcome}")
    assert not wrong, "\n".join(wrong)


def _named(name: str) -> Nasty:
    (found,) = [
        nasty
        for nasty in (*nasty_files.ALL, *nasty_folders.ALL, *nasty_types.ALL, *nasty_tables.ALL)
        if nasty.name == name
    ]
    return found


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("awkward names", 0, '"embedded_rows": 20'),
        ("invalid UTF-8", 0, '"undecodable": 2'),
        ("drift: string to int", 0, '"bad_column": 1'),
        ("Parquet with a flipped byte in a page", 1, "corpus/a.parquet is damaged"),
        ("folders that link to one another", 2, "5 links to folders lie one below the other"),
        ("gzip cut short", 1, "a.jsonl.gz is damaged or not of its format"),
        ("UTF-16 CSV", 2, "text must be UTF-8"),
    ],
)
def test_exit_codes(tmp_path: Path, name: str, code: int, words: str) -> None:
    result = call("embed", write_job(tmp_path / "job.yaml", _named(name).job(tmp_path)), "--json")
    assert result.exit_code == code, result.output
    assert words in result.output
    if code == 2:
        assert result.stderr.count("vectormill:") == 1


def test_a_damaged_page_costs_its_unit_only(tmp_path: Path) -> None:
    """Four row groups of a hundred rows, one byte flipped in the second: the other three are embedded."""
    config = _named("Parquet with a flipped byte in a page").job(tmp_path)
    found = outcome(config)
    assert re.match(r"failed: /\S+/corpus/a\.parquet is damaged[^;]*; replace it[^;]*$", found)
    assert len(rows(config)) == 300


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    """As another user than root, who may read everything."""
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x"}')
    (tmp_path / "a.jsonl").chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root may read every file")
    with pytest.raises(Exception, match="Permission denied; check the path, its permissions"):
        read(corpus(tmp_path))


AWKWARD = [
    "a b.jsonl", "a#b.jsonl", "a%20b.jsonl", "a%2Fb.jsonl", "a?b.jsonl", "a&b=c.jsonl", "a+b.jsonl", "a:b.jsonl",
    "日本語.jsonl",
    "e\u0301.jsonl", "\u00e9.jsonl", "'\"<>.jsonl", "a*b.jsonl", "[a].jsonl", "{a}.jsonl", "sub dir/a.jsonl",
    "a\\b.jsonl", "~/a.jsonl",
]  # fmt: skip


def test_awkward_keys(s3_endpoint: str) -> None:
    bucket = Bucket(s3_endpoint)
    for number, name in enumerate(AWKWARD):
        bucket.put(f"in/{name}", json.dumps({"id": f"{number}", "text": f"text {number}", "n": number}).encode())
    found = {row["id"]: row["text"] for row in read(bucket.corpus("in"))}
    assert found == {f"{number}": f"text {number}" for number in range(len(AWKWARD))}


@pytest.mark.parametrize("name", ["a//b.jsonl", "/b.jsonl", "a/../b.jsonl", "a/./b.jsonl", "..jsonl", "b.jsonl/"])
def test_keys_that_are_no_paths(s3_endpoint: str, name: str) -> None:
    """Read as what they are, or refused by name; never taken for another object, never left out without a word but for
    what begins with a dot."""
    bucket = Bucket(s3_endpoint)
    bucket.put("in/ok.jsonl", b'{"id": "1", "text": "one", "n": 1}')
    bucket.put(f"in/{name}", b'{"id": "2", "text": "two", "n": 2}')
    try:
        found = [row["id"] for row in read(bucket.corpus("in"))]
    except CorpusError as bad:
        found = str(bad)
    if isinstance(found, str):
        assert repr(name) in found
        return
    hidden = any(part.startswith(".") for part in name.split("/")) or name.endswith("/")
    assert sorted(found) == (["1"] if hidden else ["1", "2"])
