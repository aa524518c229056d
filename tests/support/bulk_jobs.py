"""Small jobs of pairs for the tests of bulk reranking and searching."""

from __future__ import annotations

import subprocess
import sys

import lance
import pyarrow as pa

from pipelines.job_file import parse_job
from tests.support.jobs import text_of
from tests.system.chaos.drivers import ROOT, environment

KILLED = (
    "import sys; from tests.system.chaos.seams import ACTIONS, arm; "
    "arm(sys.argv[1], int(sys.argv[2]), ACTIONS['kill']); "
    "from pipelines.cli.app import main; sys.argv = ['vectormill', *sys.argv[3:]]; main()"
)


def pairs(count=120):
    """Rows of pair_id, query (one for five rows), document, and n."""
    return [
        {"pair_id": f"p{n}", "query": text_of(n // 5), "document": text_of(n * 7 % count), "n": n} for n in range(count)
    ]


def rerank_job(tmp_path, **sections):
    """An inline job over tmp_path/corpus with the fake reranker; sections override."""
    data = {
        "task": "rerank",
        "corpus": {
            "uri": str(tmp_path / "corpus"),
            "id": "pair_id",
            "columns": ["n"],
            "query": "query",
            "document": "document",
        },
        "model": {"weights": "fake"},
        "table": {"uri": str(tmp_path / "db"), "name": "scores"},
        "run": {"engine": "inline", "rows_per_unit": 16, "commit_every_seconds": 1e-9, "max_bad_rows": 0.9},
    }
    for name, values in sections.items():
        if isinstance(values, dict):
            data.setdefault(name, {}).update(values)
        else:
            data[name] = values
    return parse_job(data)


def records_of(location):
    """A table's records in the order of the corpus."""
    found = lance.dataset(location).to_table().to_pylist()
    return sorted(found, key=lambda r: (r["_shard"], r["_row"], r["_chunk"]))


def vectormill_killed_at(seam, nth, folder, *arguments):
    """The command, in a process that kills itself there."""
    return subprocess.run(
        [sys.executable, "-c", KILLED, seam, str(nth), *map(str, arguments)],
        cwd=ROOT,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=120,
    )


def rewritten(location, change, with_digests=None):
    """Write a table anew with its records changed by `change(records)`; with_digests: makes digests that agree."""
    old = lance.dataset(location)
    records = old.to_table().to_pylist()
    change(records)
    changed = pa.Table.from_pylist(records, schema=old.schema)
    if with_digests is not None:
        changed = with_digests(changed.drop_columns(["_id_digest", "_digest"])).cast(old.schema)
    lance.write_dataset(changed, location, mode="overwrite")
