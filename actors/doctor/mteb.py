"""Our embedder and reranker as mteb wants models: `mteb.evaluate(MtebEmbedder(ModelSpec("bundled")), tasks)` runs MTEB
on the very tokens, layouts and dtype of the pipeline.

mteb (extra `mteb`, version 2.26 or newer) hands over batches of texts and says whether they are queries or documents.
Documents get the document prompt. Queries get the task's instruction, if the model takes one: ours by the task's name,
else the one mteb has for it, else the recipe's. Texts that are neither (pairs to compare, texts to classify) go as
queries to a model that takes instructions, as Qwen's own evaluation has it, and as documents to any other.

Importing this costs nothing; mteb is imported only for the model's name card.

Legend: N texts or pairs, D dimensions.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from actors.device.auto import resolve_dtype
from actors.embedder.embedder import Embedder
from actors.embedder.recipe import identity
from actors.reranker.reranker import Reranker
from actors.spec import ModelSpec
from actors.tokenizer.text import INSTRUCTED_PROMPT
from actors.weights.locate import digest, locate
from actors.weights.recipe import resolve

DOCUMENT = "document"
QUERY = "query"
LAST = np.float32(-1e30)  # where the reranker gave no number

Batches = Iterable[Mapping[str, Any]]  # mteb's DataLoader: each batch has a list of texts under "text"


class MtebEmbedder:
    """mteb's EncoderProtocol.

    instructions: by the name of a task, in place of mteb's own; actors/doctor/mteb.py's head says when they are used.
    Raises ModelError as Embedder does.
    """

    def __init__(self, spec: ModelSpec, instructions: Mapping[str, str] | None = None) -> None:
        self._spec, self._instructions = spec, dict(instructions or {})
        self._embedder = Embedder(spec)
        self._instructed = INSTRUCTED_PROMPT.match(resolve(spec).query_prompt) is not None

    def encode(
        self, inputs: Batches, *, task_metadata: Any, prompt_type: str | None = None, **of_mteb: Any
    ) -> np.ndarray:
        """Vectors float32 [N, D] of unit length. of_mteb: split, subset and batch size, which change nothing here."""
        texts = _texts(inputs)
        if prompt_type == DOCUMENT or (prompt_type is None and not self._instructed):
            return self._embedder.embed_documents(texts)
        instruction = _instruction(task_metadata, self._instructions) if self._instructed else None
        return self._embedder.embed_queries(texts, instruction)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines, a torch tensor [N1, N2]."""
        first, second = _unit(embeddings1), _unit(embeddings2)
        return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosines, a torch tensor [N]."""
        return (_unit(embeddings1) * _unit(embeddings2)).sum(dim=-1)

    @property
    def mteb_model_meta(self) -> Any:
        space = {**identity(self._spec), "instructions": self._instructions}
        if self._spec.query_prompt is not None:
            space["query_prompt"] = self._spec.query_prompt
        return _card(self._spec, space, "dense", self._instructed)


class MtebReranker:
    """mteb's CrossEncoderProtocol.

    instructions: as MtebEmbedder's. Raises ModelError as Reranker does.
    """

    def __init__(self, spec: ModelSpec, instructions: Mapping[str, str] | None = None) -> None:
        self._spec, self._instructions = spec, dict(instructions or {})
        self._reranker = Reranker(spec)

    def predict(self, inputs1: Batches, inputs2: Batches, *, task_metadata: Any, **of_mteb: Any) -> np.ndarray:
        """Logits float32 [N] of (query, document) pairs: they rank as the scores do, which are equal near 1."""
        pairs = list(zip(_texts(inputs1), _texts(inputs2), strict=True))
        found = self._reranker.score_pairs(pairs, _instruction(task_metadata, self._instructions))
        return np.where(found.finite, found.logits, LAST)

    @property
    def mteb_model_meta(self) -> Any:
        space = {
            "weights": digest(locate(self._spec)),
            "dtype": resolve_dtype(self._spec),
            "instructions": self._instructions,
        }
        return _card(self._spec, space, "cross-encoder", True)


def _texts(batches: Batches) -> list[str]:
    return [text for batch in batches for text in batch["text"]]


def _instruction(task: Any, ours: Mapping[str, str]) -> str | None:
    """What a query of the task looks for; None = the recipe's own."""
    asked = ours.get(task.name) or task.prompt
    if isinstance(asked, Mapping):
        asked = asked.get(QUERY)
    return asked or None


def _unit(vectors: Any) -> Any:
    import torch

    found = torch.as_tensor(vectors, dtype=torch.float32)
    return torch.nn.functional.normalize(found, dim=-1)


def _card(spec: ModelSpec, space: Mapping[str, Any], kind: str, instructed: bool) -> Any:
    """What mteb files results under: a name, and as revision the hash of all that changes a result. mteb takes results
    of the same two from its cache, so vectors of other dimensions must not share them."""
    from mteb.models import ModelMeta

    revision = hashlib.sha256(json.dumps(space, sort_keys=True).encode()).hexdigest()[:16]
    name = spec.weights.rstrip("/").rpartition("/")[2]
    fields = {"name": f"vectormill/{name}", "revision": revision, "model_type": [kind], "use_instructions": instructed}
    return ModelMeta.create_empty(overwrites=fields)
