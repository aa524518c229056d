"""Small corpora and jobs for the tests, runs that are stopped, and a table read back in comparable form."""

from __future__ import annotations

import io
import json

import lance
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.cli.display import Display
from pipelines.engine.inline import InlineExecutor
from pipelines.job_file import parse_job
from pipelines.run.prepare import prepare
from pipelines.run.run import Run
from pipelines.table.fence import Fence
from pipelines.table.files import TableAddress

WORDS = tuple("alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho".split())  # noqa: SIM905


def text_of(number):
    return " ".join(WORDS[(number * k + k) % len(WORDS)] for k in range(1, 3 + number % 9)) + f" n{number}"


def write_parquet(folder, shards=3, rows=40, first=0):
    """`shards` files of `rows` rows each: doc_id, text, n."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(shards):
        numbers = list(range(first + shard * rows, first + (shard + 1) * rows))
        table = pa.table({"doc_id": [f"d{n}" for n in numbers], "text": [text_of(n) for n in numbers], "n": numbers})
        pq.write_table(table, folder / f"part-{first + shard}.parquet", row_group_size=16)
    return folder


def write_jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records))
    return path


def job(tmp_path, **sections):
    """An inline job over tmp_path/corpus with the fake model; sections override."""
    data = {
        "corpus": {"uri": str(tmp_path / "corpus"), "id": "doc_id", "columns": ["n"]},
        "model": {"weights": "fake"},
        "table": {"uri": str(tmp_path / "db"), "name": "t"},
        "run": {"engine": "inline", "rows_per_unit": 16, "commit_every_seconds": 1e-9, "max_bad_rows": 0.9},
    }
    for name, values in sections.items():
        if values is None:
            data.pop(name, None)
        else:
            data.setdefault(name, {}).update(values)
    return parse_job(data)


class Said(Display):
    """A display that remembers."""

    def __init__(self):
        super().__init__(seconds_between_lines=60)
        self.lines = []
        self._console = Console(file=io.StringIO())

    def say(self, message):
        self.lines.append(message)

    @property
    def text(self):
        return "\n".join(self.lines)


def run(config, executor=None, display=None):
    """Prepare and run a job in this process; returns the certificate."""
    executor = executor or InlineExecutor()
    return Run.open(prepare(config, executor), executor, display or Said()).work()


def rows(config):
    """The table's records in corpus order; vectors rounded to 1e-5, so without `_digest`, which tells every bit."""
    dataset = lance.dataset(config.table.location)
    found = dataset.to_table().to_pylist()
    for row in found:
        del row["_digest"]
        row["vector"] = None if row["vector"] is None else tuple(round(float(x), 5) + 0.0 for x in row["vector"])
    return sorted(found, key=lambda r: (r["_shard"], r["_row"], r["_chunk"]))


def ids(config):
    return sorted(row["id"] for row in rows(config))


def address(config):
    return TableAddress(config.table.location, config.storage)


def dataset(config):
    return lance.dataset(config.table.location)


def version(config):
    return lance.dataset(config.table.location).version


def between_commits(monkeypatch, action):
    """Do something after each commit of a run, while it is still the committer."""
    real = Fence.commit

    def commit(self, fragments, properties):
        real(self, fragments, properties)
        action()

    monkeypatch.setattr(Fence, "commit", commit)


def stop_after(monkeypatch, commits):
    """Ctrl-C right after the n-th commit."""
    seen = []

    def stop():
        seen.append(1)
        if len(seen) == commits:
            raise KeyboardInterrupt

    between_commits(monkeypatch, stop)
