"""What a loaded model gives for the published numbers (published.py), and whether that is near enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from actors.checks.layouts import cosine
from actors.checks.published import PUBLISHED, Golden, Published
from actors.spec import ModelError, ModelSpec
from actors.tokenizer.qwen_ids import END_OF_TEXT, TOKEN_COUNTS, TOKEN_IDS
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import MODELSCOPE

BUNDLED_ID = "sentence-transformers/all-MiniLM-L6-v2"
# A replica refuses to work beyond this: four times what half precision does to a cosine, a fifth of what a lost closing
# token does; twice what it does to a logit, a third of what a lost prompt does.
REFUSED_BEYOND = {"cosine": 0.02, "logit": 1.0, "score": 0.02}
FEWEST_TOKENS = {"embed": 64, "rerank": 256}  # twice what the longest published text, or pair with its prompt, has


class EmbedsTexts(Protocol):
    """What of an Embedder is needed here."""

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray: ...

    def embed_documents(self, texts: Sequence[str]) -> np.ndarray: ...


class ScoresPairs(Protocol):
    """What of a Reranker is needed here."""

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> Any: ...


@dataclass(frozen=True)
class Result:
    """A golden and what we got in dtype. tolerance and ok are None where nobody knows what dtype gives."""

    golden: Golden
    dtype: str
    got: float
    difference: float
    tolerance: float | None
    ok: bool | None


def hub_id(spec: ModelSpec, task: str = "embed") -> str | None:
    """The id of a published model whose numbers this spec must give; None if it may give others."""
    found = next((p for p in PUBLISHED if p.task == task and is_named(spec, p)), None)
    if found is None or spec.dtype == "float8":
        return None
    cut = spec.max_tokens is not None and spec.max_tokens < FEWEST_TOKENS[task]
    prompted = bool(spec.prompt) or spec.query_prompt is not None
    other_vectors = task == "embed" and (spec.dimensions not in (None, found.shape[0]) or prompted)
    return None if cut or other_vectors else found.model_id


def is_named(spec: ModelSpec, published: Published) -> bool:
    """Whether the spec asks for these very weights, by their id on a hub (or as "bundled"), in whatever revision."""
    name = BUNDLED_ID if spec.weights == "bundled" else spec.weights.removeprefix(MODELSCOPE)
    return name == published.model_id and not Path(spec.weights).is_dir()


def identify(name: str, config: dict[str, Any], task: str) -> Published | None:
    """The published model that these weights are, or are made from: by shape and, for shapes of many, by name too.

    name: a hub id or the path of a folder; config: its config.json.
    """
    keys = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    shape = tuple(config.get(key) for key in keys)
    for published in PUBLISHED:
        if published.task == task and published.shape == shape and published.architecture == config.get("model_type"):
            short = published.model_id.rpartition("/")[2]
            if not published.by_name or name == "bundled" or Path(name).name == short:
                return published
    return None


def cosines(embedder: EmbedsTexts, goldens: Sequence[Golden]) -> list[float]:
    """The cosine of each golden's query and document."""
    queries_ND = embedder.embed_queries([golden.query for golden in goldens])
    documents_ND = embedder.embed_documents([golden.document for golden in goldens])
    return [float(value) for value in cosine(queries_ND, documents_ND)]


def logits_or_scores(reranker: ScoresPairs, goldens: Sequence[Golden]) -> list[float]:
    """The logit of each golden's pair, or its score where that was published."""
    found = reranker.score_pairs([(golden.query, golden.document) for golden in goldens])
    return [float((found.logits if g.kind == "logit" else found.scores)[i]) for i, g in enumerate(goldens)]


def judge(goldens: Sequence[Golden], got: Sequence[float], dtype: str) -> list[Result]:
    """Each golden beside what we got for it, computed in dtype. A value that is not finite is not near enough."""
    results = []
    for golden, value in zip(goldens, got, strict=True):
        difference, tolerance = abs(value - golden.expected), golden.tolerance(dtype)
        ok = None if tolerance is None else bool(difference <= tolerance)
        results.append(Result(golden, dtype, value, difference, tolerance, ok))
    return results


def check_embedder(embedder: EmbedsTexts, model_id: str, dtype: str) -> None:
    """Raises ModelError when an embedder of these weights gives other cosines than were published for them."""
    goldens = _goldens_of(model_id)
    _refuse(judge(goldens, cosines(embedder, goldens), dtype), model_id)


def check_reranker(reranker: ScoresPairs, model_id: str, dtype: str) -> None:
    """Raises ModelError when a reranker of these weights gives other logits or scores than were published for them."""
    goldens = _goldens_of(model_id)
    _refuse(judge(goldens, logits_or_scores(reranker, goldens), dtype), model_id)


def _goldens_of(model_id: str) -> tuple[Golden, ...]:
    return next(published.goldens for published in PUBLISHED if published.model_id == model_id)


def _refuse(results: Sequence[Result], model_id: str) -> None:
    for result in results:
        golden, most = result.golden, REFUSED_BEYOND[result.golden.kind]
        if not result.difference <= most:
            raise ModelError(
                f"{model_id} must give the {golden.kind} {golden.expected:.4f} for {golden.query!r} and "
                f"{golden.document!r} ({golden.source}), but gives {result.got:.4f} here in {result.dtype}; {most} off "
                "is allowed. The weights are not the published ones, or they are used wrongly here, so nothing is done "
                "with them. `vectormill doctor` shows every number; weights of your own belong into a folder"
            )


def has_qwen_ids(tokenizer: TextTokenizer) -> bool:
    """Whether this is Qwen3's own tokenizer, of which ids were published: its closing token has the id they have."""
    return tokenizer.encode([""]).ids.tolist() == [END_OF_TEXT]


def wrong_ids(tokenizer: TextTokenizer) -> str | None:
    """Which text gets other ids than published for Qwen3's tokenizer; None if none. tokenizer: one without a prompt."""
    for text, wanted in TOKEN_IDS.items():
        found = tokenizer.encode([text]).ids.tolist()
        if found != list(wanted):
            return f"{text!r} gives {found}, not {list(wanted)}"
    for text, count in TOKEN_COUNTS.items():
        found = len(tokenizer.encode([text]).ids)
        if found != count:
            return f"{text!r} gives {found} tokens, not {count}"
    return None
