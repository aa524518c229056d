"""How well and how fast are a million vectors searched through the index that `optimize` fits, beside lancedb's own?

    python -m benchmarks.search [--rows 1000000] [--dimensions 256] [--queries 200] [--rerank 50] [--index auto]

Writes a table as a run would: unit vectors around 1,000 random centres (32 random directions of spread shared by all,
and a little in every direction), each with a short text in the words of its centre. Copies it, and lets each side make
its own indexes, one side after the other, each step in a fresh process:

    ours               `optimize --full-text text`: kind, probes and refine factor chosen to reach recall@10 0.95
    lancedb            `create_index()` and `create_fts_index()` and searches, all as they are without arguments
    lancedb_refined    the same index, searched with refine_factor(10)
    exact              no index

Queries are fresh draws, no rows of the table; exact neighbours come from numpy. Per side: seconds to build and the
building process's peak memory (`optimize` also compacts, measures, and indexes ids), bytes of the vector index, recall
over the queries (`recall_noted` is what `optimize` measured with its own), p50 and p95 milliseconds of a search for ids
after a warm-up over the same queries, what the searching process holds, and p50 and p95 of hybrid search (vector and
full text, fused by reciprocal rank). `rerank_p50_ms`: a random reranker of 6 layers and hidden size 512 over --rerank
texts, which comes on top. Prints one JSON line.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import machine
from pipelines.cli.display import Display
from pipelines.config import StorageConfig
from pipelines.content import text_digests
from pipelines.table.files import TableAddress, write_rows
from pipelines.table.index.records import tuning_of, vector_indexes
from pipelines.table.schema import TableMetadata, with_text
from pipelines.table.table import LanceTable
from pipelines.tasks.embed import vectors_schema

ROWS_PER_UNIT = 50_000
CENTRES, DIRECTIONS = 1000, 32
SPREAD, NOISE = 0.7, 0.2
TOP = 10
RRF_K = 60  # lancedb's
WORDS = tuple(f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "i", "o", "ua") for c in "lmnrst")


class Clusters:
    """Vectors and texts by unit; the same for the same arguments."""

    def __init__(self, dimensions: int):
        chance = np.random.default_rng(0)
        self.centres_CD = _unit(chance.standard_normal((CENTRES, dimensions), np.float32))
        self.directions_KD = _unit(chance.standard_normal((DIRECTIONS, dimensions), np.float32))

    def draw(self, unit: int, count: int) -> tuple[np.ndarray, list[str]]:
        """(unit vectors [count, D] float32, texts)."""
        chance = np.random.default_rng((1, unit))
        centre = chance.integers(CENTRES, size=count)
        spread = chance.standard_normal((count, DIRECTIONS), np.float32) * np.float32(SPREAD / DIRECTIONS**0.5)
        dimensions = self.centres_CD.shape[1]
        noise = chance.standard_normal((count, dimensions), np.float32) * np.float32(NOISE / dimensions**0.5)
        vectors = _unit(self.centres_CD[centre] + spread @ self.directions_KD + noise)
        words = chance.integers(len(WORDS), size=(count, 10))
        own = (centre[:, None] * 3 + np.arange(3)) % len(WORDS)
        texts = [" ".join(WORDS[w] for w in (*a, *b)) for a, b in zip(own.tolist(), words.tolist(), strict=True)]
        return vectors, texts


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def address_of(folder: str) -> TableAddress:
    return TableAddress(f"{folder}/t.lance", StorageConfig())


def write(folder: str, rows: int, dimensions: int) -> dict[str, Any]:
    """The table, by the write path of a run."""
    identity = {"weights": "random", "dimensions": dimensions, "dtype": "float32"}
    metadata = TableMetadata(identity, {"weights": "random"}, ROWS_PER_UNIT)
    schema = vectors_schema(with_text([], "text"), dimensions, "float32", metadata)
    address, clusters = address_of(folder), Clusters(dimensions)
    table = LanceTable.open_or_create(address, schema)
    fence = table.take_fence("benchmark", {})
    began = time.perf_counter()
    for unit, first in enumerate(range(0, rows, ROWS_PER_UNIT)):
        vectors, texts = clusters.draw(unit, min(ROWS_PER_UNIT, rows - first))
        fence.commit(write_rows(address, _records(vectors, texts, unit, schema)), {})
    return {"write_seconds": round(time.perf_counter() - began, 1)}


def _records(vectors: np.ndarray, texts: list[str], unit: int, schema: pa.Schema) -> pa.Table:
    count = len(texts)
    zeros = pa.array(np.zeros(count, np.int64))
    columns: dict[str, Any] = dict.fromkeys(schema.names, zeros)
    columns |= {
        "id": pa.array([f"{unit}-{n}" for n in range(count)]),
        "text": pa.array(texts),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "_unit": pa.array(np.full(count, unit)),
        "_row": pa.array(np.arange(count)),
        "_truncated": pa.array(np.zeros(count, bool)),
        "_rows": pa.array(np.full(count, count)),
        "_passages": pa.array(np.ones(count, np.int32)),
        **{name: pa.nulls(count, pa.string()) for name in ("_mark", "_reason")},
        **dict.fromkeys(("_text", "_carried", "_passage"), text_digests(pa.array(texts))),
        "_detail": pa.nulls(count, pa.string()),
    }
    return pa.table(columns).cast(schema.remove_metadata())


def queries_of(given: Any) -> tuple[np.ndarray, list[str]]:
    """Fresh draws; of each text the three words of its centre."""
    vectors, texts = Clusters(given.dimensions).draw(10**6, given.queries)
    return vectors, [" ".join(text.split()[:3]) for text in texts]


def exact_neighbours(folder: str, queries_QD: np.ndarray) -> list[set[str]]:
    """Ids of the TOP nearest rows of each query, by numpy."""
    best_QK = np.full((len(queries_QD), TOP), -np.inf, np.float32)
    ids_QK = np.full((len(queries_QD), TOP), "", object)
    for batch in address_of(folder).open().scanner(columns=["id", "vector"], batch_size=8192).to_batches():
        vectors_BD = batch["vector"].flatten().to_numpy().reshape(batch.num_rows, -1)
        cosines_QB = queries_QD @ vectors_BD.T
        ids_B = np.array(batch["id"].to_pylist(), object)
        for query in np.flatnonzero((cosines_QB > best_QK.min(axis=1, keepdims=True)).any(axis=1)):
            cosines = np.concatenate([best_QK[query], cosines_QB[query]])
            first = np.argpartition(cosines, -TOP)[-TOP:]
            best_QK[query], ids_QK[query] = cosines[first], np.concatenate([ids_QK[query], ids_B])[first]
    return [set(ids) for ids in ids_QK]


# ---------------------------------------------------------------------- the sides


def build_ours(folder: str, given: Any) -> dict[str, Any]:
    from pipelines.maintenance.optimize import optimize
    from pipelines.table.index.vector import IndexWanted

    began = time.perf_counter()
    found = optimize(
        address_of(folder), Display(quiet=True), IndexWanted(given.index, full_text="text")
    ).index.to_dict()
    names = ("type", "partitions", "nprobes", "refine_factor", "bytes", "why")
    noted = {"recall_noted": found["recall"], "margin_noted": found["recall_margin"], "queries_noted": found["queries"]}
    seconds = {"build_seconds": round(time.perf_counter() - began, 1)}
    return seconds | {name: found[name] for name in names} | noted


def build_lancedb(folder: str, given: Any) -> dict[str, Any]:
    table = _lancedb(folder)
    began = time.perf_counter()
    table.create_index()
    vector_seconds = time.perf_counter() - began
    table.create_fts_index("text")
    (index,) = vector_indexes(address_of(folder).open())
    seconds = {"build_seconds": time.perf_counter() - began, "of_it_vector_seconds": vector_seconds}
    return {name: round(value, 1) for name, value in seconds.items()} | {
        "type": index.index_type,
        "bytes": index.total_size_bytes,
    }


def _lancedb(folder: str) -> Any:
    import lancedb

    return lancedb.connect(folder).open_table("t")


Search = Callable[[np.ndarray], list[str]]
Hybrid = Callable[[np.ndarray, str], list[str]]


def ways(side: str, folder: str) -> tuple[Search, Hybrid]:
    """(nearest ids to a vector, ids by vector and text) as the side searches."""
    if side.startswith("lancedb"):
        table = _lancedb(folder)

        def theirs(vector: np.ndarray) -> list[str]:
            query = table.search(vector).select(["id"]).limit(TOP)
            return (query.refine_factor(10) if side == "lancedb_refined" else query).to_arrow()["id"].to_pylist()

        def their_hybrid(vector: np.ndarray, text: str) -> list[str]:
            query = table.search(query_type="hybrid").vector(vector).text(text).limit(TOP)
            return (query.refine_factor(10) if side == "lancedb_refined" else query).to_arrow()["id"].to_pylist()

        return theirs, their_hybrid
    import lance

    dataset = lance.dataset(address_of(folder).uri)
    tuning = None if side == "exact" else tuning_of(dataset)
    how: dict[str, Any] = {"use_index": False}
    if tuning is not None:
        how = {"minimum_nprobes": tuning.nprobes, "refine_factor": tuning.refine_factor}

    def ours(vector: np.ndarray) -> list[str]:
        nearest = {"column": "vector", "q": vector, "k": TOP, "metric": "cosine", **how}
        return dataset.to_table(columns=["id", "_distance"], nearest=nearest)["id"].to_pylist()

    def our_hybrid(vector: np.ndarray, text: str) -> list[str]:
        words = {"query": text, "columns": ["text"]}
        lists = ours(vector), dataset.to_table(columns=["id", "_score"], full_text_query=words, limit=TOP)["id"]
        scores: dict[str, float] = {}
        for found in (lists[0], lists[1].to_pylist()):
            for rank, name in enumerate(found):
                scores[name] = scores.get(name, 0.0) + 1 / (RRF_K + rank)
        return sorted(scores, key=lambda name: -scores[name])[:TOP]

    return ours, our_hybrid


def search(side: str, folder: str, given: Any, exact: list[set[str]]) -> dict[str, Any]:
    """Recall, latencies and memory of one side."""
    vectors, texts = queries_of(given)
    nearest, hybrid = ways(side, folder)
    if side == "exact":  # each reads the whole table
        vectors, texts, exact = vectors[:20], texts[:20], exact[:20]
    found = [nearest(vector) for vector in vectors]
    shown: dict[str, Any] = {
        "recall": round(float(np.mean([len(set(f) & e) / TOP for f, e in zip(found, exact, strict=True)])), 4),
        **_milliseconds("", [functools.partial(nearest, vector) for vector in vectors]),
    }
    if side != "exact":
        pairs = list(zip(vectors, texts, strict=True))
        for vector, text in pairs:
            hybrid(vector, text)
        shown |= _milliseconds("hybrid_", [functools.partial(hybrid, vector, text) for vector, text in pairs])
    return shown | {"search_mb": machine.memory_mb("VmRSS")}


def _milliseconds(name: str, calls: Sequence[Callable[[], Any]]) -> dict[str, float]:
    spent = []
    for call in calls:
        began = time.perf_counter()
        call()
        spent.append(1000 * (time.perf_counter() - began))
    p95 = statistics.quantiles(spent, n=20)[18] if len(spent) > 1 else spent[0]
    return {f"{name}p50_ms": round(statistics.median(spent), 2), f"{name}p95_ms": round(p95, 2)}


def rerank(folder: str, given: Any) -> dict[str, Any]:
    """Milliseconds to order a query's first texts by a small random reranker; {} without Qwen's vocabulary."""
    if not given.rerank or importlib.util.find_spec("dashscope") is None:
        return {}
    from actors.reranker.reranker import Reranker
    from actors.spec import ModelSpec
    from benchmarks.rerank import geometry
    from tests.support import qwen_tokenizer
    from tests.support.rerank_peers import build

    texts = address_of(folder).open().to_table(columns=["text"], limit=given.rerank)["text"].to_pylist()
    with tempfile.TemporaryDirectory() as base:
        tokenizer = qwen_tokenizer.write(Path(base) / "tokenizer", "reranker")
        model = build(Path(base) / "model", tokenizer, std=0.02, **geometry(6, 512))
        reranker = Reranker(ModelSpec(str(model), device="cpu", dtype="float32"))
    _, queries = queries_of(given)

    def score(query: str) -> object:
        return reranker.score_pairs([(query, text) for text in texts])

    calls = [functools.partial(score, query) for query in queries[:6]]
    calls[0]()
    return {"rerank_texts": len(texts), **_milliseconds("rerank_", calls[1:])}


def step(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """In a fresh process; with the most memory that it held."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (function, *arguments))


def _with_peak(function: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    found = function(*arguments)
    return {**found, "peak_mb": machine.memory_mb()}


def measure(base: str, given: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """(side, what was measured of it), one side after the other."""
    ours, theirs = f"{base}/ours", f"{base}/lancedb"
    yield "table", step(write, ours, given.rows, given.dimensions)
    shutil.copytree(ours, theirs)
    exact = exact_neighbours(ours, queries_of(given)[0])
    builds = {"ours": (build_ours, ours), "lancedb": (build_lancedb, theirs)}
    yield "exact", step(search, "exact", ours, given, exact)
    for side, (build, folder) in builds.items():
        built = step(build, folder, given)
        built["build_peak_mb"] = built.pop("peak_mb")
        yield side, built | step(search, side, folder, given, exact)
    yield "lancedb_refined", step(search, "lancedb_refined", theirs, given, exact)
    yield "rerank", step(rerank, ours, given)


def main() -> None:
    parser = machine.parser(__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=256, help="a multiple of 16")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rerank", type=int, default=50, help="texts of a query; 0: leave it out")
    parser.add_argument("--index", choices=("auto", "ivf_flat", "ivf_sq", "ivf_rq"), default="auto")
    given = parser.parse_args()
    facts = machine.facts()
    sides = {}
    with tempfile.TemporaryDirectory() as base:
        for side, measured in measure(base, given):
            sides[side] = measured
            print(side, measured, flush=True)
    facts["load_after"] = machine.facts()["load_before"]
    print(json.dumps(machine.result("search", vars(given), facts, sides=sides)))


if __name__ == "__main__":
    main()
