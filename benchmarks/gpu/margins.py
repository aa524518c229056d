"""How far a replica's self-check is from refusing to work, on this device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from actors.checks.layouts import LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS
from actors.embedder import selfcheck
from actors.embedder.model import EmbedModel
from actors.spec import ModelSpec
from actors.weights.recipe import resolve
from benchmarks.gpu.models import ANY, loaded, one, random_ids, wanted
from benchmarks.model.subjects import Subject

TOKENS = (8, 2, 8, 22, 5, 12)  # of the self-check's texts under Qwen3's tokenizer


def margins(dry: bool, model: str) -> dict[str, Any]:
    """The self-check's least cosines, with sums of products rounded to bfloat16 on the way, as cuBLAS does by default
    where rows are few, and with whole ones."""
    matmul = torch.backends.cuda.matmul
    before, found = matmul.allow_bf16_reduced_precision_reduction, {}
    with loaded(wanted(dry, model, "bfloat16"), 512) as (subject, spec):
        try:
            for way, rounded in (("rounded", True), ("whole", False)):
                found[way] = _layouts(subject, spec, rounded)
        finally:
            matmul.allow_bf16_reduced_precision_reduction = before
    allowed = {"reference": LEAST_COSINE[spec.dtype], "alone": LEAST_COSINE_OF_LAYOUTS[spec.dtype]}
    least = {way: {kind: min(c[kind] for c in of.values()) for kind in allowed} for way, of in found.items()}
    said = "; ".join(
        f"sums {way}: {of['reference']:.6f} to the reference, {of['alone']:.6f} between layouts"
        for way, of in least.items()
    )
    said += f"; allowed {allowed['reference']}, {allowed['alone']}"
    right = all(of[kind] >= allowed[kind] for of in least.values() for kind in allowed)
    return {"said": said, "right": right, "allowed": allowed, "least": least, "layouts": found}


def _layouts(subject: Subject, spec: ModelSpec, rounded: bool) -> dict[str, dict[str, float]]:
    """Least cosine of each layout to the reference, and to the same sequences alone."""
    model = EmbedModel(spec, resolve(spec), subject.network)
    # After that: a replica may set it for itself.
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = rounded
    given = selfcheck.sequences_of(random_ids(subject, TOKENS))
    reference = np.stack([model.reference(ids) for ids in given])
    model.start(ANY)
    compared = selfcheck.compare(given, reference, lambda rows: one(model, rows), unit_length=True)
    return {c.layout: {"reference": c.cosine, "alone": c.cosine_to_alone} for c in compared}
