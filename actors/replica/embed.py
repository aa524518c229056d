"""The embed stage as a plain class: a table of token ids in, the same rows with vectors out.

Rows that already carry a reason pass through with a null vector. A vector that is not finite, or all zero, gets a
reason here: a search would answer with it, or never find it. But only a replica that still gives a usable vector for
a known text may blame the row: one that does not is broken, whatever it is given.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.embedder.embedder import Embedder
from actors.replica.columns import NON_FINITE, sequences, set_where
from actors.replica.model_thread import ModelThread, Turn
from actors.spec import ModelSpec, ReplicaBroken

KNOWN_TEXT = "Paris is the capital of France."  # it passed the self-check when the replica started


class EmbedActor:
    """One replica, for several threads at a time. load: makes the embedder.

    Raises ModelError when it cannot be set up or a text does not fit its device."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Embedder] = Embedder) -> None:
        self._thread = ModelThread(lambda: load(spec))
        self._embedder = self._thread.model
        self.facts = self._embedder.facts

    def __call__(self, table: pa.Table, turns: list[Turn] | None = None) -> pa.Table:
        """Same rows, same order: `_ids` (list<int32>) goes, `vector` (fixed_size_list<float>[D]) comes last.

        `_ids` and `vector` are null where `_reason` is set. Rows whose vector cannot be used get `_reason`
        "non_finite" and a `_detail`. turns: gets this call's turns with the model.
        Raises ReplicaBroken when it is not for the rows' sake.
        """
        todo_N = pc.is_null(table["_reason"]).to_numpy(zero_copy_only=False)
        ids_T, offsets = sequences(table["_ids"], todo_N)
        found_MD = self._thread.call(self._embedder.request(ids_T, offsets), turns)
        assert len(found_MD) == int(todo_N.sum())
        usable_M = _usable(found_MD)
        if not usable_M.all():
            self._blame_the_rows(int((~usable_M).sum()), len(usable_M), turns)
        bad_N = np.zeros(len(table), dtype=np.bool_)
        bad_N[np.flatnonzero(todo_N)[~usable_M]] = True

        vectors_ND = found_MD
        if len(found_MD) < len(table) or bad_N.any():
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

    def _blame_the_rows(self, unusable: int, rows: int, turns: list[Turn] | None) -> None:
        known = self._embedder.encode_documents([KNOWN_TEXT])
        known_1D = self._thread.call(self._embedder.request(known.ids, known.offsets), turns)
        if not _usable(known_1D).all():
            raise ReplicaBroken(
                f"{unusable} of {rows} vectors are not finite or all zero, and so is that of a known text: this "
                "replica's device or memory is broken"
            )


def _usable(vectors_ND: np.ndarray) -> np.ndarray:
    return np.isfinite(vectors_ND).all(axis=1) & (vectors_ND != 0).any(axis=1)
