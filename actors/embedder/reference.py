"""The slow, plain way to the same vectors: what `verify` measures the fast way against.

One text at a time, transformers' own tokenizer and attention, no packing. It shares only the folder and the recipe
with the Embedder, on purpose: a witness that shares the code shares its faults.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors import fake
from actors.checks.tokens import transformers_tokenizer
from actors.device.auto import resolve_device, resolve_dtype
from actors.device.refusal import setting_up
from actors.embedder.fake import FakeEmbedModel
from actors.network.quiet import quiet_transformers
from actors.spec import ModelSpec
from actors.weights.recipe import Resolved, resolve


class EmbedReference:
    """The reference for a spec, on its device and in its dtype (give a spec with dtype "float32" for the exact one).

    Raises ModelError as `resolve` does, and for whatever else fails (`setting_up`).
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._tokenizer: Any = None
        self._model: Any = None
        with setting_up(spec, on_device=True):
            self._resolved = resolve(spec)
            self._device = resolve_device(spec)
            if self._resolved.folder is not None:
                self._load(self._resolved, resolve_dtype(spec))

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of documents, float32 [N, D], in their order."""
        if self._model is None:
            vectors = [self._embed_fake(text) for text in texts]
        else:
            vectors = [self._embed_one(text) for text in texts]
        return np.array(vectors, dtype=np.float32).reshape(len(texts), self._resolved.dimensions)

    def _load(self, resolved: Resolved, dtype: str) -> None:
        import torch
        from transformers import AutoModel

        assert resolved.folder is not None
        folder = str(resolved.folder)
        self._tokenizer = transformers_tokenizer(resolved.folder)
        with quiet_transformers():
            model = AutoModel.from_pretrained(
                folder,
                dtype=torch.bfloat16 if dtype == "float8" else getattr(torch, dtype),
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        self._model = model.to(self._device).eval()

    def _embed_one(self, text: str) -> np.ndarray:
        import torch

        recipe = self._resolved.recipe
        whole = self._resolved.document_prompt + text
        inputs = self._tokenizer(whole, truncation=True, max_length=self._resolved.max_tokens, return_tensors="pt")
        with torch.no_grad():
            states = self._model(**inputs.to(self._device)).last_hidden_state[0]
        states = states.to(torch.float64).cpu().numpy()
        vector = {"mean": states.mean(axis=0), "cls": states[0], "last": states[-1]}[recipe.pooling]
        vector = vector[: self._resolved.dimensions]
        return vector / np.linalg.norm(vector) if recipe.normalise else vector

    def _embed_fake(self, text: str) -> np.ndarray:
        words = fake.HashedWords()
        content, _ = words.content([self._resolved.document_prompt + text])
        ids = np.concatenate([content[: self._resolved.max_tokens - len(words.suffix)], words.suffix])
        return FakeEmbedModel(self._resolved.dimensions).vectors(ids, np.array([len(ids)]))[0]
