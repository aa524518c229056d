"""A Qwen3 reranker on its device: token ids of pairs in, one logit a pair out.

The score of a pair is what the model says next after the suffix: "yes" against "no". So of its head only two rows are
needed, subtracted in fp32: logit = state . (w_yes - w_no). bfloat16 instead would leave 779 different scores of
20,000, and a third of them exactly 1.

Legend: m pairs, T tokens of a micro-batch, H hidden size, V vocabulary.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from actors.device import memory
from actors.device.auto import resolve_dtype
from actors.device.device import Pending, prepare, send_home, to_host, translated
from actors.network import attention, flash
from actors.network.attention import to_device
from actors.network.fast_paths import facts, variable_lengths
from actors.network.qwen3 import Qwen3
from actors.network.qwen3_weights import Geometry, Weights
from actors.reranker.batches import KEYS_PER_TOKEN, PairBatch, PairBatches
from actors.reranker.prompt import RerankEncoded
from actors.spec import ModelSpec

# Twice that of embedding, because every micro-batch computes its queries' heads again; larger ones leave the caches.
TOKEN_BUDGET_CPU = 3072


class RerankModel:
    """One copy of the weights on one device. Use `reference` (if at all), then `start`, then `encode`.

    Raises ModelError when device, weights or torch are not what the spec needs.
    """

    def __init__(self, spec: ModelSpec, folder: Path, geometry: Geometry, direction_H: torch.Tensor) -> None:
        """direction_H: w_yes - w_no, float32."""
        self.device, self.dtype = prepare(spec), resolve_dtype(spec)
        self.token_budget = TOKEN_BUDGET_CPU
        self._varlen = variable_lengths(self.device, self.dtype)
        self.geometry = geometry
        with translated(self.device, "a copy of the weights"):
            self._weights = Weights(geometry, self.device, self.dtype)
            self._weights.load(folder)
            self._direction_H = direction_H.to(self.device)
            self._qwen3 = Qwen3(self._weights)
            self.facts = facts(self.device, self.dtype)
        self._reference: Any = None

    @torch.inference_mode()
    def reference(self, ids_T: np.ndarray) -> tuple[np.ndarray, float]:
        """The last state, float32 [H], and the logit of one pair, by transformers' own modules over the same weights.

        Slow, and only before `start`.
        """
        self._reference = self._reference or self._weights.reference()
        ids = to_device(ids_T.astype(np.int64), self.device)
        state_H = self._reference(input_ids=ids[None], use_cache=False).last_hidden_state[0, -1].float()
        return state_H.cpu().numpy(), float(self._logits(state_H))

    @torch.inference_mode()
    def start(self, token_budget: int | None, longest: int) -> None:
        """Gets ready to encode. token_budget None: measured on CUDA, where a pair has `longest` tokens at most; a
        constant on a CPU.
        """
        self._reference = None
        if self.device.startswith("cuda"):  # not before the reference was asked, as in embedder/model.py
            flash.prefer_fa3(self.device)
        if self.dtype == "float8":
            self._weights.to_8_bits()
            self._qwen3 = Qwen3(self._weights)
        if token_budget is not None:
            self.token_budget = token_budget
        elif self.device.startswith("cuda"):
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(self.device)
            self.token_budget = memory.token_budget(self._peak_bytes, free, longest)

    @torch.inference_mode()
    def encode(self, batch: PairBatch) -> Pending:
        """Queues one micro-batch: its logits, float32 [m]; does not wait for them.

        Raises DeviceOutOfMemory when it does not fit, ReplicaBroken when the device cannot be used any more.
        """
        with translated(self.device, _named(batch)):
            return send_home(self._logits(self._states(batch)))

    def to_host(self, pending: Pending) -> np.ndarray:
        """The logits, float32 [m]; waits for them. Raises ReplicaBroken as `encode`."""
        return to_host(pending, self.device)

    @torch.inference_mode()
    def states_and_logits(self, batch: PairBatch) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, at once, with the last states, float32 [m, H]."""
        with translated(self.device, _named(batch)):
            states_mH = self._states(batch)
            return states_mH.cpu().numpy(), self._logits(states_mH).cpu().numpy()

    def _states(self, batch: PairBatch) -> torch.Tensor:
        """The last state of every pair, float32 [m, H], on the device."""
        # On CUDA an index out of range would kill the process, and name nothing.
        assert int(batch.keys_n.max()) <= self.geometry.positions, f"a pair of {batch.keys_n.max()} tokens"
        assert int(batch.ids_T.max()) < self.geometry.vocabulary, f"id {batch.ids_T.max()} is not of this model"
        packing = attention.pack_queries(batch.queries_n, batch.keys_n, batch.key_rows_K, self.device, self._varlen)
        pairs_n = batch.keys_n[-batch.pairs :]
        rows = None if batch.key_rows_K is None else batch.key_rows_K[-int(pairs_n.sum()) :]
        last = attention.pack_queries(np.ones_like(pairs_n), pairs_n, rows, self.device, self._varlen)
        last_m = np.cumsum(batch.queries_n)[-batch.pairs :] - 1
        ids, positions, ends = (to_device(numbers, self.device) for numbers in (batch.ids_T, batch.positions_T, last_m))
        return self._qwen3.last_states(ids, positions, packing, last, ends).float()

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        return states @ self._direction_H

    def _peak_bytes(self, tokens: int) -> int:
        batch = _widest(tokens, self.geometry.vocabulary)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.to_host(self.encode(batch))
        return torch.cuda.max_memory_allocated(self.device) - before


def _named(batch: PairBatch) -> str:
    return f"a micro-batch ({batch.pairs} pairs, {len(batch.ids_T)} tokens, the longest {batch.keys_n.max()})"


def _widest(tokens: int, vocabulary: int) -> PairBatch:
    """About so many tokens, as the micro-batch that takes most memory: one query, KEYS_PER_TOKEN keys a token."""
    own = 64
    head = (KEYS_PER_TOKEN - 1) * own
    pairs = max(2, (tokens - head) // own)
    # The ids differ, as those of texts do.
    ids = np.arange(head + pairs * own, dtype=np.int64) % vocabulary
    encoded = RerankEncoded(
        heads_ids=ids[:head],
        heads_offsets=np.array([0, head], dtype=np.int64),
        tails_ids=ids[head:],
        tails_offsets=np.arange(pairs + 1, dtype=np.int64) * own,
        query_of=np.zeros(pairs, dtype=np.int64),
        truncated=np.zeros(pairs, dtype=np.bool_),
    )
    return PairBatches(encoded, reuse_prefix=True).batch(np.arange(pairs))
