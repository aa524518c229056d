"""sentence-transformers on the same weights, as it is called by default and at its best.

sentence-transformers is imported only when it is asked for. Versions 6.0 and 6.2 were read and run.

Legend: T tokens, H query heads, G key heads, D head size.
"""

import importlib.util
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from actors.network import attention
from actors.network.quiet import quiet_transformers
from benchmarks.model.measure import Done
from benchmarks.model.padded import Counted
from benchmarks.model.subjects import Subject, copy_tokenizer, write_modules

DEFAULT_BATCH = 32  # sentence-transformers' own
BATCHES = (32, 128, 256)  # tried for its best
WARM_UP_TEXTS = 64
PADDED = "sdpa, padded"
FLAT_NAME = "vectormill_flat"


class SentenceTransformers:
    """A SentenceTransformer with the subject's weights in place of those it was loaded with."""

    def __init__(self, subject: Subject, model: Any, max_tokens: int, folder: Path) -> None:
        from sentence_transformers import SentenceTransformer

        model.set_attn_implementation("sdpa")
        _write_folder(subject, folder)
        with quiet_transformers():
            self._st = SentenceTransformer(str(folder), device=str(model.device), local_files_only=True)
        self._st.max_seq_length = max_tokens
        self._module = self._st[0]
        # Whether keys and values are kept for a next token is sentence-transformers' choice, not transformers'.
        model.config.use_cache = getattr(self._module.model.config, "use_cache", False)
        self._module.model = model
        self._module.unpad_inputs = False
        self._counted = Counted(model)
        self._tokenising = 0.0
        self._watch_tokenising()
        self.settings: dict[str, Any] = {"batch": DEFAULT_BATCH, "attention": PADDED}

    def run(self, texts: Sequence[str], batch: int = DEFAULT_BATCH) -> Done:
        """encode() of all texts."""
        self._counted.tokens, self._tokenising = 0, 0.0
        vectors = self._st.encode(
            list(texts), batch_size=batch, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
        )
        return Done(np.asarray(vectors, dtype=np.float32), self._counted.tokens, {"tokenise": self._tokenising})

    def choose_best(self, texts: Sequence[str]) -> Callable[[Sequence[str]], Done]:
        """Tries its modes on some texts; gives the fastest one, and notes in `settings` which, and texts/s of each."""
        model = self._module.model
        names = [PADDED, *([name] if (name := padding_free(model.device, model.dtype)) else [])]
        rates = {mode: self._rate(mode, texts) for mode in itertools.product(names, BATCHES)}
        best = max(rates, key=lambda mode: rates[mode])
        tried = {f"{name}, {batch}": round(rate, 1) for (name, batch), rate in rates.items()}
        self.settings = {"batch": best[1], "attention": best[0], "texts_per_second_tried": tried}
        return lambda all_texts: self._run_mode(best, all_texts)

    def _rate(self, mode: tuple[str, int], texts: Sequence[str]) -> float:
        try:
            self._run_mode(mode, texts[:WARM_UP_TEXTS])
            begin = time.perf_counter()
            self._run_mode(mode, texts)
        except (RuntimeError, TypeError, AssertionError):  # too little memory, or a kernel that this GPU has not
            return 0.0
        return len(texts) / (time.perf_counter() - begin)

    def _run_mode(self, mode: tuple[str, int], texts: Sequence[str]) -> Done:
        name, batch = mode
        if name == PADDED:
            return self.run(texts, batch)
        with self.unpadded(installed=name.endswith("flash-attn")):
            return self.run(texts, batch)

    @contextmanager
    def unpadded(self, installed: bool) -> Iterator[None]:
        """Its own padding-free way; without flash-attn on torch's variable-length kernel, which is the same one."""
        model = self._module.model
        if installed:
            model.set_attn_implementation("flash_attention_2")
            self._module.unpad_inputs = None
        else:
            _register_flat()
            place = "transformers.modeling_flash_attention_utils.lazy_import_flash_attention"
            stand_in = mock.patch(place, return_value=((None, attend_flat, None, None, None), None))
            with stand_in, mock.patch.object(self._module, "_is_flash_attention_requested", return_value=True):
                model.set_attn_implementation(FLAT_NAME)
                self._module.unpad_inputs = None
        assert self._module.can_flatten_inputs, "sentence-transformers refuses to leave the padding out"
        try:
            yield
        finally:
            model.set_attn_implementation("sdpa")
            self._module.unpad_inputs = False

    def _watch_tokenising(self) -> None:
        preprocess = self._module.preprocess

        def watched(*args: Any, **kwargs: Any) -> Any:  # the interface is sentence-transformers'
            begin = time.perf_counter()
            features = preprocess(*args, **kwargs)
            self._tokenising += time.perf_counter() - begin
            return features

        self._module.preprocess = watched


def padding_free(device: torch.device, dtype: torch.dtype) -> str | None:
    """What sentence-transformers can leave the padding out with here; None where it cannot."""
    if device.type != "cuda" or dtype == torch.float32:
        return None
    if importlib.util.find_spec("flash_attn") is not None:
        return "padding-free, flash-attn"
    return "padding-free, torch's varlen_attn as flash-attn"


def _register_flat() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(FLAT_NAME, attend_flat)


def attend_flat(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **inputs: Any,  # the interface is transformers'
) -> tuple[torch.Tensor, None]:
    """query [1, H, T, D], key and value [1, G, T, D] of sequences one behind the other -> [1, T, H, D].

    What transformers does with flash-attn, on torch's kernel; on a CPU, for tests, by our equal-length way.
    """
    assert attention_mask is None
    ends = inputs["cu_seq_lens_q"].to(torch.int32)
    if query.is_cuda:
        longest = int(inputs["max_length_q"])
        packing = attention.Packing(ends, ends, longest, longest, None, (), varlen=True)
    else:
        packing = attention.pack(np.diff(ends.numpy()).astype(np.int64), "cpu", varlen=False)
    return attention.attend(module, query, key, value, None, packing=packing, **inputs)


def _write_folder(subject: Subject, folder: Path) -> None:
    """What SentenceTransformer loads before it gets the weights: the same recipe and tokenizer, one tiny layer."""
    from transformers import AutoConfig, AutoModel

    config = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
    tiny = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "intermediate_size": 16,
    }
    config |= {name: value for name, value in tiny.items() if name in config}
    config.pop("layer_types", None)
    (folder / "config.json").write_text(json.dumps(config))
    with quiet_transformers():
        AutoModel.from_config(AutoConfig.from_pretrained(str(folder))).save_pretrained(str(folder))
    copy_tokenizer(subject.folder, folder)
    for name in ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"):
        if (subject.folder / name).exists():
            shutil.copyfile(subject.folder / name, folder / name)
    write_modules(folder, {"last": "lasttoken"}.get(subject.recipe.pooling, subject.recipe.pooling), normalise=False)
    own = {"max_seq_length": subject.recipe.max_tokens, "do_lower_case": subject.recipe.lower_case}
    (folder / "sentence_bert_config.json").write_text(json.dumps(own))
