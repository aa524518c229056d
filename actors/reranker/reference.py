"""The slow, plain way to the same scores: what `verify` measures the fast way against.

One pair at a time, whole, by transformers' own tokenizer, attention and head. As in embedder/reference.py it shares as
little as possible with the Reranker. Two kinds of pairs the model card's way reads otherwise than we do, on purpose
(see prompt.py): those with control tokens in them, and those with a huge query; their ids are ours.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from actors.checks.tokens import transformers_tokenizer
from actors.device.auto import resolve_device, resolve_dtype
from actors.device.refusal import setting_up
from actors.network.quiet import quiet_transformers
from actors.reranker.fake import FakeRerankModel
from actors.reranker.head import CONVERTED, read_config
from actors.reranker.prompt import DEFAULT_INSTRUCTION, PREFIX, SUFFIX, RerankEncoded
from actors.reranker.recipe import load_prompt
from actors.spec import ModelSpec
from actors.weights.locate import locate


class RerankReference:
    """The reference for a spec, on its device and in its dtype (float8: in bfloat16).

    Raises ModelError as `read_config` and RerankPrompt do, and for whatever else fails (`setting_up`).
    """

    def __init__(self, spec: ModelSpec) -> None:
        with setting_up(spec, on_device=True):
            self._prompt: Any = load_prompt(spec)
            self._device = resolve_device(spec)
            self._fake = FakeRerankModel(spec) if spec.is_fake else None
            if self._fake is None:
                self._load(spec)

    def logits(self, pairs: Sequence[tuple[str, str]], instruction: str | None = None) -> np.ndarray:
        """float32 [N] of (query, document) pairs, in their order."""
        return np.array([self._one(query, document, instruction) for query, document in pairs], dtype=np.float32)

    def _load(self, spec: ModelSpec) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        folder = locate(spec)
        converted = CONVERTED in (read_config(folder).get("architectures") or ())
        dtype = resolve_dtype(spec)
        self._tokenizer = transformers_tokenizer(folder)
        with quiet_transformers():
            model = (AutoModelForSequenceClassification if converted else AutoModelForCausalLM).from_pretrained(
                str(folder),
                dtype=torch.bfloat16 if dtype == "float8" else getattr(torch, dtype),
                attn_implementation="sdpa",
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        self._control = self._tokenizer.get_added_vocab()
        model = model.to(self._device).eval()
        self._body = model.model
        # The head in float32 whatever the dtype: in bfloat16 it would round the logit by up to 0.3.
        if converted:
            self._direction_H = model.score.weight[0].detach().float()
        else:
            yes_H, no_H = (model.lm_head.weight[i].detach().float() for i in (self._prompt.yes_id, self._prompt.no_id))
            self._direction_H = yes_H - no_H

    def _one(self, query: str, document: str, instruction: str | None) -> float:
        own = self._prompt.encode([query], [document], np.zeros(1, dtype=np.int64), instruction)
        if self._fake is not None:
            return self._fake.reference(_ids(own))[1]
        import torch

        ids = torch.tensor([self._read(query, document, instruction, own)], device=self._device)
        with torch.no_grad():
            state_H = self._body(input_ids=ids, use_cache=False).last_hidden_state[0, -1].float()
            return float(state_H @ self._direction_H)

    def _read(self, query: str, document: str, instruction: str | None, own: RerankEncoded) -> list[int]:
        """The pair's ids as the model card's code makes them, or ours where it would not make the same."""
        most, special = self._prompt.max_tokens, self._prompt.special_tokens
        judged_by = DEFAULT_INSTRUCTION if instruction is None else instruction
        body = f"<Instruct>: {judged_by}\n<Query>: {query}\n<Document>: {document}"
        if len(own.heads_ids) > most // 2 - special or any(token in body for token in self._control):
            return _ids(own).tolist()
        prefix, middle, suffix = (
            self._tokenizer.encode(part, add_special_tokens=False) for part in (PREFIX, body, SUFFIX)
        )
        return [*prefix, *middle[: most - len(prefix) - len(suffix)], *suffix]


def _ids(encoded: RerankEncoded) -> np.ndarray:
    """Of a single pair, whole."""
    return np.concatenate([encoded.heads_ids, encoded.tails_ids])
