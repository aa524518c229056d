"""A transformers model that embeds packed micro-batches: token ids in, vectors out, nothing padded.

Loaded from safetensors only, never running a repository's own code, and refused when a tensor is missing (transformers
would fill it with random numbers and log a line).

Legend: N sequences, T tokens in all, D dimensions.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from actors import attention, batching, pooling
from actors.quiet import quiet_transformers
from actors.recipe import ROBERTA_FAMILY, Resolved
from actors.spec import DeviceOutOfMemory, ModelError, ModelSpec

# Small on a CPU: 1-2k tokens stay in its caches; 16k were 1.9x slower for MiniLM.
TOKEN_BUDGET_CPU = 1536
TOKEN_BUDGET_CUDA = 16384
WITH_POOLING_LAYER = ("bert", "roberta", "xlm-roberta")
DECODERS = ("qwen3",)


class PackedModel:
    """One copy of the weights on one device."""

    def __init__(self, spec: ModelSpec, resolved: Resolved) -> None:
        assert resolved.folder is not None
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        self._device = spec.resolve_device()
        on_cuda = self._device.startswith("cuda")
        if on_cuda and not torch.cuda.is_available():
            raise ModelError(f"device {self._device!r} asked, but torch sees no CUDA device here")
        dtype = spec.resolve_dtype()
        # The variable-length kernel knows half precision only.
        self._varlen = on_cuda and dtype == "bfloat16"
        if self._varlen:
            attention.varlen_function()
        self._recipe = resolved.recipe
        self.dimensions = resolved.dimensions
        self.normalised = resolved.recipe.normalise
        self.tolerance = 1e-4 if dtype == "float32" else None
        self.token_budget = TOKEN_BUDGET_CUDA if on_cuda else TOKEN_BUDGET_CPU
        self._model = _load(resolved.folder, resolved.recipe.architecture, getattr(torch, dtype)).to(self._device)
        self._pad_id = getattr(self._model.config, "pad_token_id", None)

    @torch.inference_mode()
    def encode(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> torch.Tensor:
        """Vectors of one micro-batch, fp32 [N, D] on the device; does not wait for it.

        Raises DeviceOutOfMemory when it does not fit.
        """
        try:
            return self._forward(ids_T, lengths_N)
        except torch.OutOfMemoryError as error:
            shape = f"{len(lengths_N)} texts, {len(ids_T)} tokens, the longest {lengths_N.max()}"
            raise DeviceOutOfMemory(
                f"a micro-batch ({shape}) does not fit the memory of {self._device}: lower max_tokens, or use a device "
                "with more memory"
            ) from error.with_traceback(None)  # its frames hold the very tensors that fill the memory

    def to_host(self, parts: list[torch.Tensor]) -> np.ndarray:
        """The vectors of several micro-batches, one behind the other, float32 [N, D]; waits for the device."""
        return torch.cat(parts).cpu().numpy()

    def _forward(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> torch.Tensor:
        # On CUDA an index out of range would kill the process, and name nothing.
        assert int(lengths_N.max()) <= self._recipe.max_positions, f"a text of {lengths_N.max()} tokens was not cut"
        assert int(ids_T.max()) < self._recipe.vocabulary, f"id {ids_T.max()} is not of this model"
        packing = attention.pack(lengths_N, self._device, self._varlen)
        ids = torch.from_numpy(ids_T.astype(np.int64)).to(self._device)
        positions = torch.from_numpy(self._positions(ids_T, lengths_N)).to(self._device)
        # A decoder's cache would keep all keys and values; packing goes to the attention function as it is.
        extra = {"use_cache": False} if self._recipe.architecture in DECODERS else {}
        states = self._model(
            input_ids=ids[None], position_ids=positions[None], attention_mask=None, packing=packing, **extra
        ).last_hidden_state[0]
        pooled = pooling.pool(states, packing.cu_seqlens, self._recipe.pooling)
        return pooling.finish(pooled, self.dimensions, self._recipe.normalise)

    def _positions(self, ids_T: np.ndarray, lengths_N: np.ndarray) -> np.ndarray:
        """Position of every token in its own sequence, int64 [T]."""
        if self._recipe.architecture not in ROBERTA_FAMILY:
            return batching.ranges(np.zeros_like(lengths_N), lengths_N)
        # transformers counts from pad_token_id + 1 and leaves out tokens that are the pad token, even inside a text.
        counted_T = ids_T != self._pad_id
        running_T = np.cumsum(counted_T, dtype=np.int64)
        starts_N = np.cumsum(lengths_N) - lengths_N
        before_N = running_T[starts_N] - counted_T[starts_N]
        return (running_T - np.repeat(before_N, lengths_N)) * counted_T + self._pad_id


def _load(folder: Path, architecture: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModel

    extra = {"add_pooling_layer": False} if architecture in WITH_POOLING_LAYER else {}
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                str(folder),
                dtype=dtype,
                attn_implementation=attention.register(),
                trust_remote_code=False,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                **extra,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"the weights in {folder} could not be loaded: {error}. Fetch them again") from error
    wrong = sorted(str(name) for kind in ("missing_keys", "mismatched_keys") for name in report[kind])
    if wrong:
        some = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ModelError(
            f"the weights in {folder} do not fill the model, {some} missing or of another shape: fetch them again"
        )
    return model.eval()
