"""The embed stage as a plain class: a table of token ids in, the same rows with vectors out.

Rows that already carry a reason pass through with a null vector. A vector that is not finite, or all zero, gets a
reason here: a search would answer with it, or never find it. But only a replica that still gives a usable vector for
a known text may blame the row: one that does not is broken, whatever it is given.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.embedder.embedder import Embedder
from actors.replica.columns import NON_FINITE, sequences, set_where
from actors.spec import ModelSpec, ReplicaBroken

KNOWN_TEXT = "Paris is the capital of France."  # it passed the self-check when the replica started


class EmbedActor:
    """One replica. load: makes the embedder.

    Raises ModelError when it cannot be set up or a text does not fit its device."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Embedder] = Embedder) -> None:
        # The model lives in one thread of its own. OpenMP keeps a team of workers for each thread that calls it, and
        # two teams on the same cores stop spinning: built in one thread and called from another (as engines do),
        # MiniLM kept 1.4 of 2 cores busy instead of 1.9 and took 1.35 times as long.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._embedder = self._thread.submit(load, spec).result()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Same rows, same order: `_ids` (list<int32>) goes, `vector` (fixed_size_list<float>[D]) comes last.

        `_ids` and `vector` are null where `_reason` is set. Rows whose vector cannot be used get `_reason`
        "non_finite" and a `_detail`. Raises ReplicaBroken when it is not for the rows' sake.
        """
        todo_N = pc.is_null(table["_reason"]).to_numpy(zero_copy_only=False)
        ids_T, offsets = sequences(table["_ids"], todo_N)
        found_MD = self._thread.submit(self._embedder.embed, ids_T, offsets).result()
        assert len(found_MD) == int(todo_N.sum())
        usable_M = _usable(found_MD)
        if not usable_M.all():
            self._blame_the_rows(int((~usable_M).sum()), len(usable_M))
        bad_N = np.zeros(len(table), dtype=np.bool_)
        bad_N[np.flatnonzero(todo_N)[~usable_M]] = True

        vectors_ND = np.zeros((len(table), self._embedder.dimensions), dtype=np.float32)
        vectors_ND[todo_N & ~bad_N] = found_MD[usable_M]
        out = table.drop_columns(["_ids"])
        if bad_N.any():
            out = set_where(out, "_reason", bad_N, NON_FINITE)
            out = set_where(out, "_detail", bad_N, "the model gave a vector that is not finite or all zero")
        vector = pa.FixedSizeListArray.from_arrays(
            pa.array(vectors_ND.ravel()), self._embedder.dimensions, mask=pa.array(~todo_N | bad_N)
        )
        out = out.append_column("vector", vector)
        assert len(out) == len(table), f"{len(table)} rows in, {len(out)} out"
        assert out["vector"].null_count == len(out) - out["_reason"].null_count
        return out

    def _blame_the_rows(self, unusable: int, rows: int) -> None:
        known_1D = self._thread.submit(self._embedder.embed_documents, [KNOWN_TEXT]).result()
        if not _usable(known_1D).all():
            raise ReplicaBroken(
                f"{unusable} of {rows} vectors are not finite or all zero, and so is that of a known text: this "
                "replica's device or memory is broken"
            )


def _usable(vectors_ND: np.ndarray) -> np.ndarray:
    return np.isfinite(vectors_ND).all(axis=1) & (vectors_ND != 0).any(axis=1)
