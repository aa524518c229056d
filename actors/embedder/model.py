"""A network on its device: token ids in, vectors out, nothing padded.

Legend: n sequences, T tokens in all, D dimensions.
"""

import numpy as np
import torch

from actors.device import memory
from actors.device.auto import resolve_dtype
from actors.device.device import Pending, prepare, send_home, to_host, translated
from actors.network import flash, pooling
from actors.network.fast_paths import facts
from actors.network.network import Network, load_network
from actors.spec import ModelSpec
from actors.weights.recipe import Resolved

# Small on a CPU: 1-2k tokens stay in its caches; 16k were 1.9x slower for MiniLM.
TOKEN_BUDGET_CPU = 1536


class EmbedModel:
    """One copy of the weights on one device. Use `reference` (if at all), then `start`, then `encode`.

    network: one that is loaded already, on the spec's device and in its dtype; None = from the resolved folder.
    Raises ModelError when device, weights or torch are not what the spec needs.
    """

    def __init__(self, spec: ModelSpec, resolved: Resolved, network: Network | None = None) -> None:
        assert resolved.folder is not None
        self._device = prepare(spec)
        self._on_cuda = self._device.startswith("cuda")
        self.dtype = resolve_dtype(spec)
        self._resolved = resolved
        self.dimensions = resolved.dimensions
        self.normalised = resolved.recipe.normalise
        self.token_budget = TOKEN_BUDGET_CPU
        with translated(self._device, "a copy of the weights"):
            self._network = network or load_network(resolved.folder, resolved.recipe, self._device, self.dtype)
            self.facts = facts(self._device, self.dtype)

    @torch.inference_mode()
    def reference(self, ids_T: np.ndarray) -> np.ndarray:
        """The vector of one sequence, float32 [D], by transformers' own modules over the same weights; slow."""
        states = self._network.plain(ids_T)
        ends = torch.tensor([0, len(ids_T)], device=self._device)
        return self._finish(pooling.pool(states, ends, self._resolved.recipe.pooling))[0].cpu().numpy()

    @torch.inference_mode()
    def start(self, token_budget: int | None) -> None:
        """Gets ready to encode. token_budget None: measured on CUDA, a constant on a CPU."""
        self._network.start()
        if self._on_cuda:  # not before the reference was asked: SDPA, with which it computes, would take FA3 too
            flash.prefer_fa3(self._device)
        if token_budget is not None:
            self.token_budget = token_budget
        elif self._on_cuda:
            torch.cuda.empty_cache()
            free, _ = torch.cuda.mem_get_info(self._device)
            most = memory.most_tokens(self._network.operations)
            self.token_budget = memory.token_budget(self._peak_bytes, free, self._resolved.max_tokens, most)

    @torch.inference_mode()
    def encode(self, ids_T: np.ndarray, lengths_n: np.ndarray) -> Pending:
        """Queues one micro-batch; does not wait for it. ids_T int, lengths_n int64, none 0.

        Raises DeviceOutOfMemory when it does not fit, ReplicaBroken when the device cannot be used any more.
        """
        # On CUDA an index out of range would kill the process, and name nothing.
        recipe = self._resolved.recipe
        assert int(lengths_n.max()) <= recipe.max_positions, f"a text of {lengths_n.max()} tokens was not cut"
        assert int(ids_T.max()) < recipe.vocabulary, f"id {ids_T.max()} is not of this model"
        what = f"a micro-batch ({len(lengths_n)} texts, {len(ids_T)} tokens, the longest {lengths_n.max()})"
        with translated(self._device, what):
            return send_home(self._finish(self._network.pooled(ids_T, lengths_n)))

    def to_host(self, pending: Pending) -> np.ndarray:
        """The vectors, float32 [n, D]; waits for them. Raises ReplicaBroken as `encode`."""
        return to_host(pending, self._device)

    def _finish(self, pooled: torch.Tensor) -> torch.Tensor:
        return pooling.finish(pooled, self.dimensions, self.normalised)

    def _peak_bytes(self, tokens: int) -> int:
        longest = min(tokens, self._resolved.max_tokens)
        lengths_n = np.full(-(-tokens // longest), longest, dtype=np.int64)
        lengths_n[-1] -= lengths_n.sum() - tokens
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        # The ids differ, as those of texts do.
        ids_T = np.arange(int(lengths_n.sum()), dtype=np.int64) % self._resolved.recipe.vocabulary
        self.to_host(self.encode(ids_T, lengths_n))
        return torch.cuda.max_memory_allocated(self._device) - before
