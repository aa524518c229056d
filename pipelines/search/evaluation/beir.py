"""Judged queries in BEIR layout: `queries.jsonl` and `qrels/SPLIT.tsv` in one folder (`corpus.jsonl` is not needed: the
corpus is in the table)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError

LAYOUT = "a folder in BEIR layout has queries.jsonl and qrels/SPLIT.tsv"


@dataclass(frozen=True)
class Collection:
    """Queries that have both a text and judgments.

    queries: text by query id, in the order of the judgments. judged: grade by document id, by query id; a grade above 0
    is relevant. without_text: ids of judged queries that queries.jsonl lacks; they are left out."""

    queries: dict[str, str]
    judged: dict[str, dict[str, int]]
    without_text: tuple[str, ...]

    @property
    def documents(self) -> set[str]:
        """Ids of all judged documents."""
        return {document for grades in self.judged.values() for document in grades}

    @property
    def judgments(self) -> int:
        return sum(map(len, self.judged.values()))


def read_collection(folder: Path, split: str) -> Collection:
    """Raises ConfigError: a file is missing, a line does not parse (which), nothing is judged."""
    if not folder.is_dir():
        raise ConfigError(f"--beir: there is no folder {folder}; {LAYOUT}")
    texts, judgments = folder / "queries.jsonl", folder / "qrels" / f"{split}.tsv"
    if missing := [str(path.relative_to(folder)) for path in (texts, judgments) if not path.is_file()]:
        others = sorted(path.stem for path in (folder / "qrels").glob("*.tsv"))
        hint = f" The splits there are: {', '.join(others)} (--split)." if others and not judgments.is_file() else ""
        raise ConfigError(f"--beir: {folder} lacks {' and '.join(missing)}; {LAYOUT}.{hint}")
    judged = _read_judgments(judgments)
    if not judged:
        raise ConfigError(f"{judgments} holds no judgment")
    known = _read_queries(texts)
    queries = {query: known[query] for query in judged if query in known}
    if not queries:
        raise ConfigError(f"{texts} has none of the {len(judged):,} queries that {judgments} judges")
    return Collection(
        queries,
        {query: grades for query, grades in judged.items() if query in known},
        tuple(query for query in judged if query not in known),
    )


def _read_judgments(path: Path) -> dict[str, dict[str, int]]:
    """Lines of `query-id <tab> corpus-id <tab> score`, the first of which may be these words."""
    judged: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        fields = line.split("\t")
        if number == 1 and len(fields) == 3 and not _is_integer(fields[2]):
            continue  # the header
        if len(fields) != 3 or not _is_integer(fields[2]) or not fields[0] or not fields[1]:
            raise ConfigError(
                f"{path}, line {number}: {line[:100]!r} is not `query-id <tab> corpus-id <tab> score` with an integer "
                "score"
            )
        query, document, grade = fields[0], fields[1], int(fields[2])
        if judged.setdefault(query, {}).setdefault(document, grade) != grade:
            raise ConfigError(
                f"{path}, line {number}: document {document!r} has grade {grade} for query {query!r}, and an earlier "
                f"line gives it {judged[query][document]}"
            )
    return judged


def _read_queries(path: Path) -> dict[str, str]:
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        try:
            record = json.loads(line)
            query, text = record["_id"], record["text"]
            if not (isinstance(query, str) and isinstance(text, str) and text.strip()):
                raise TypeError
        except (ValueError, RecursionError, TypeError, KeyError):
            raise ConfigError(
                f'{path}, line {number}: not an object such as {{"_id": "q1", "text": "what to look for"}} with two '
                "strings, the text not empty"
            ) from None
        if texts.setdefault(query, text) != text:
            raise ConfigError(f"{path}, line {number}: query {query!r} is there twice, with two texts")
    return texts


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line) of all lines that are not empty. Raises ConfigError if the file cannot be read as UTF-8."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as bad:
        raise ConfigError(f"{path} is not UTF-8 text: {bad}") from None
    except OSError as bad:
        raise ConfigError(f"cannot read {path}: {bad.strerror or bad}") from None


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
