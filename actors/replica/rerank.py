"""The rerank stage as a plain class: a table of tokenised pairs in, the same rows with scores out.

Rows that already carry a reason pass through with null scores. As in embed.py a replica may blame a row for a
logit that is not finite only while it still gives a finite one for a known pair.

Legend: N rows, M rows to score.
"""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from actors.replica.columns import NON_FINITE, set_where
from actors.replica.model_thread import ModelThread, Turn
from actors.replica.pairs import IDS, encoded_of
from actors.reranker.recipe import scores_of
from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec, ReplicaBroken

KNOWN_PAIR = ("What is the capital of China?", "The capital of China is Beijing.")  # it passed the check at the start


class RerankActor:
    """One replica, for several threads at a time. load: makes the reranker. Raises ModelError when it cannot be set
    up."""

    def __init__(self, spec: ModelSpec, load: Callable[[ModelSpec], Reranker] = Reranker) -> None:
        self._thread = ModelThread(lambda: load(spec))
        self._reranker = self._thread.model
        self.facts = self._reranker.facts

    def __call__(self, table: pa.Table, turns: list[Turn] | None = None) -> pa.Table:
        """Same rows, same order: the columns of pairs.py go, `score` and `logit` (float) come last.

        Both are null where `_reason` is set. Rows whose logit is not finite get `_reason` "non_finite" and a
        `_detail`. turns: gets this call's turns with the model.
        Raises ReplicaBroken when it is not for the rows' sake, or a pair does not fit the device.
        """
        todo_N = pc.is_null(table["_reason"]).to_numpy(zero_copy_only=False)
        encoded = encoded_of(table, todo_N)
        logits_M = self._thread.call(self._reranker.request(encoded), turns)
        assert len(logits_M) == int(todo_N.sum())
        finite_M = np.isfinite(logits_M)
        if not finite_M.all():
            self._blame_the_rows(int((~finite_M).sum()), len(finite_M), turns)
        bad_N = np.zeros(len(table), dtype=np.bool_)
        bad_N[np.flatnonzero(todo_N)[~finite_M]] = True
        logits_N = np.zeros(len(table), dtype=np.float32)
        logits_N[todo_N & ~bad_N] = logits_M[finite_M]
        out = table.drop_columns(list(IDS))
        if bad_N.any():
            out = set_where(out, "_reason", bad_N, NON_FINITE)
            out = set_where(out, "_detail", bad_N, "the model gave a logit that is not finite")
        for name, values_N in (("score", scores_of(logits_N)), ("logit", logits_N)):
            out = out.append_column(name, pa.array(values_N, mask=~todo_N | bad_N))
        assert len(out) == len(table), f"{len(table)} rows in, {len(out)} out"
        return out

    def _blame_the_rows(self, unusable: int, rows: int, turns: list[Turn] | None) -> None:
        known = self._reranker.encode_pairs([KNOWN_PAIR])
        if not np.isfinite(self._thread.call(self._reranker.request(known), turns)).all():
            raise ReplicaBroken(
                f"{unusable} of {rows} logits are not finite, and neither is that of a known pair: this replica's "
                "device or memory is broken"
            )
