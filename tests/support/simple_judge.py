"""A corpus of short rows and its judge: for tests in which neither format nor bad rows are the point.

The judge reads a table with lance alone and compares with what an undisturbed computation gives, bit for bit. Random
corpora, with bad rows and passages, and a judge that knows them are in tests/system/chaos/.
"""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.embedder.embedder import Embedder
from actors.spec import ModelSpec

SHARDS = 10
WORDS = "amber birch cedar delta ember fjord grove heath islet juniper kelp larch moss north oak pine".split()  # noqa: SIM905


def text_of(number: int) -> str:
    return " ".join(WORDS[(number // len(WORDS) ** k) % len(WORDS)] for k in range(6)) + f" {number}"


def write_corpus(folder: Path, rows: int) -> None:
    """`rows` short rows in sharded Parquet: doc_id, text."""
    folder.mkdir()
    for shard in range(SHARDS):
        numbers = range(shard * rows // SHARDS, (shard + 1) * rows // SHARDS)
        table = pa.table({"doc_id": [f"d{n}" for n in numbers], "text": [text_of(n) for n in numbers]})
        pq.write_table(table, folder / f"part-{shard:02d}.parquet")


def expected_vectors(rows: int) -> dict[str, np.ndarray]:
    """What an undisturbed run gives, from the model layer alone."""
    vectors = Embedder(ModelSpec("fake")).embed_documents([text_of(n) for n in range(rows)])
    return {f"d{n}": vector for n, vector in enumerate(vectors)}


def judge(table: str, expected: dict[str, np.ndarray], storage_options: dict[str, str] | None = None) -> dict[str, int]:
    """Reads the table with lance alone. lost: ids that are not there. doubled: records beyond the first of their id.
    unknown: ids that are not in the corpus. wrong: records whose vector is null or differs in any bit."""
    found = lance.dataset(table, storage_options=storage_options).to_table(columns=["id", "vector"])
    ids = found["id"].to_pylist()
    distinct = set(ids)
    vectors = found["vector"].combine_chunks()
    present = vectors.is_valid().to_numpy(zero_copy_only=False)
    flat = vectors.values.to_numpy(zero_copy_only=False).reshape(len(ids), -1)
    right = (name not in expected or np.array_equal(v, expected[name]) for name, v in zip(ids, flat, strict=True))
    wrong = len(ids) - int(np.sum(present & np.fromiter(right, bool, len(ids))))
    return {
        "rows": len(ids),
        "lost": len(expected.keys() - distinct),
        "doubled": len(ids) - len(distinct),
        "unknown": len(distinct - expected.keys()),
        "wrong": wrong,
    }
