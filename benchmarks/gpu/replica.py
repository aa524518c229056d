"""A replica, not the model alone: what Arrow and the hand-over cost beside `embed`; and real weights, by the doctor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from actors import packed
from actors.doctor.examine import examine
from actors.replica.embed import EmbedActor
from actors.spec import ModelError, ModelSpec
from actors.weights.locate import locate
from benchmarks.gpu.device import device
from benchmarks.gpu.models import SEED, SHORT, embed, loaded, wanted, watched
from benchmarks.model import texts

TABLES = 4
ROWS, ROWS_DRY = 16384, 6


def replica(dry: bool, model: str) -> dict[str, Any]:
    """An EmbedActor on Arrow tables, a call at a time and two, beside `embed` alone on as many tokens:
    the share of the replica's time in which the model works."""
    rows = ROWS_DRY if dry else ROWS
    with loaded(wanted(dry, model, "bfloat16"), SHORT.most) as (subject, spec):
        ours, _ = watched(subject, spec)
        given = [_ids(subject.recipe.vocabulary, rows, seed) for seed in range(TABLES)]
        tables = [_table(*ids) for ids in given]
        actor = EmbedActor(spec, lambda _: ours.embedder)
        embed(ours, np.split(given[0][0], given[0][1][1:-1])[: rows // 4])
        # A table of 0.6B takes 3 s: one does for `embed` alone. What a second call brings is seen with small models.
        large = model == "0.6B"
        first = given[:1] if large else given
        seconds, _ = _taken(lambda ids: ours.embedder.embed(*ids), first, 1)
        alone = _tokens(first) / seconds
        rates, done = {}, []
        for calls in (1,) if large else (1, 2):
            seconds, vectors = _taken(actor, tables, calls)
            rates[f"{calls} at a time"] = _tokens(given) / seconds
            done += vectors
    right = all(table["vector"].null_count == 0 and len(table) == rows for table in done)
    shares = {name: round(rate / alone, 4) for name, rate in rates.items()}
    said = [f"{name} {rates[name]:,.0f} ({share:.1%})" for name, share in shares.items()]
    found = {"embed_tokens_per_second": round(alone, 1), "rates": rates, "shares": shares}
    return {"said": f"embed alone {alone:,.0f} tokens/s; calls {', '.join(said)}", "right": right, **found}


def _taken(work: Callable[[Any], Any], given: Sequence[Any], calls: int) -> tuple[float, list[Any]]:
    """Seconds of all, so many at a time, and what they gave."""
    begin = time.perf_counter()
    with ThreadPoolExecutor(calls) as pool:
        done = list(pool.map(work, given))
    return time.perf_counter() - begin, done


def _tokens(given: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    return sum(len(ids) for ids, _ in given)


def _ids(vocabulary: int, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 of so many texts of the short mix, and where each begins."""
    lengths = texts.lengths(SHORT, rows * SHORT.mean, 1, seed)
    rng = np.random.default_rng(SEED + seed)
    return rng.integers(3, vocabulary, int(lengths.sum()), dtype=np.int32), packed.offsets_of(lengths)


def _table(ids: np.ndarray, offsets: np.ndarray) -> pa.Table:
    """As the stage that tokenises gives it."""
    rows = len(offsets) - 1
    nothing = pa.nulls(rows, pa.string())
    column = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(ids))
    names = pa.array([f"row {i}" for i in range(rows)])
    return pa.table({"id": names, "_ids": column, "_reason": nothing, "_detail": nothing})


def published(dry: bool, weights: str) -> dict[str, Any]:
    """all-MiniLM-L6-v2, its real weights: what `doctor` says, with the numbers that others have published."""
    try:
        locate(ModelSpec(weights))
    except ModelError as error:
        return {"said": f"not run, the weights are not here: {error}", "ran": False}
    diagnosis = examine(ModelSpec(weights, device=device(dry), dtype="float32" if dry else "auto"))
    judged = [result for result in diagnosis.goldens if result.ok is not None]
    layouts = [f"{layout.dtype} {layout.cosine:.6f} (>= {layout.least})" for layout in diagnosis.layouts]
    furthest = max((abs(result.difference) for result in judged), default=float("nan"))
    said = f"{len(judged)} published numbers, {sum(bool(r.ok) for r in judged)} met, the furthest {furthest:.4f} off"
    failed = [check.found for check in diagnosis.checks if not check.ok]
    return {
        "said": "; ".join([said, f"layouts {', '.join(layouts)}", *failed]),
        "right": diagnosis.ok and bool(judged),
        "ran": True,
        "diagnosis": "\n".join(line for _, line in diagnosis.lines()),
    }
