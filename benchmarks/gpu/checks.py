"""Whether our vectors are right on this device: each check compares two ways to the same numbers, on random weights.

A step records the numbers and fails only where it cannot run; `right` says whether they are within what
actors/embedder/selfcheck.py asks of a replica. In a dry run the device is the CPU and the model tiny.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from actors.checks.layouts import LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS
from actors.embedder import selfcheck
from actors.embedder.model import EmbedModel
from actors.network.kernels import plain
from actors.network.network import Qwen3Network, TransformersNetwork
from actors.network.qwen3_weights import Geometry
from actors.reranker.batches import PairBatches
from actors.spec import ModelSpec
from actors.weights.recipe import resolve
from benchmarks.gpu.device import device
from benchmarks.gpu.models import ANY, SEED, SHORT, embed, loaded, one, random_ids, wanted, watched
from benchmarks.model import rerank, subjects, texts
from benchmarks.model.measure import cosines
from benchmarks.model.options import Options
from benchmarks.model.subjects import Subject

SEQUENCES = 48


def sequences(subject: Subject, dry: bool, most: int) -> list[np.ndarray]:
    """Random ids; lengths of the short mix, of which three are equal."""
    lengths = texts.lengths(SHORT, (6 if dry else SEQUENCES) * SHORT.mean, 1, SEED)
    return random_ids(subject, np.minimum([*lengths, 33, 33, 33], 40 if dry else most))


def compared(subject: Subject, spec: ModelSpec, dry: bool) -> tuple[EmbedModel, dict[str, Any], list[np.ndarray]]:
    """A model that was started, its layouts against the reference, and the sequences."""
    model = EmbedModel(spec, resolve(spec), subject.network)
    given = sequences(subject, dry, spec.max_tokens or 512)
    reference = np.stack([model.reference(ids) for ids in given])
    model.start(ANY)
    found = selfcheck.compare(given, reference, lambda rows: one(model, rows), unit_length=True)
    alone = np.concatenate([one(model, [ids]) for ids in given])
    facts: dict[str, Any] = {
        "layouts": {c.layout: {"reference": c.cosine, "alone": c.cosine_to_alone} for c in found},
        "least_cosine": min(c.cosine for c in found),
        "least_cosine_of_layouts": min(c.cosine_to_alone for c in found),
        "largest_difference": float(np.abs(alone - reference).max()),
    }
    facts["right"] = all(c.failure(spec.dtype) is None for c in found)
    least, layouts = facts["least_cosine"], facts["least_cosine_of_layouts"]
    allowed = LEAST_COSINE[spec.dtype], LEAST_COSINE_OF_LAYOUTS[spec.dtype]
    facts["said"] = (
        f"cosine to transformers {least:.7f} (>= {allowed[0]}), between layouts {layouts:.7f} (>= {allowed[1]}), "
        f"right: {facts['right']}"
    )
    return model, facts, given


def bfloat16(dry: bool) -> dict[str, Any]:
    """0.6B: fused, Triton, variable-length attention against transformers; against torch's kernels; twice the same."""
    with loaded(wanted(dry, "0.6B", "bfloat16"), 512) as (subject, spec):
        model, facts, given = compared(subject, spec, dry)
        together = one(model, given)
        again = one(model, given)
        in_two = np.concatenate([one(model, given[: len(given) // 2]), one(model, given[len(given) // 2 :])])
        assert isinstance(subject.network, Qwen3Network)
        subject.network._qwen3._kernels = plain
        facts["cosine_to_torch_kernels"] = cosines(together, one(model, given))[0]
        facts["same_bits_again"] = bool((together == again).all())
        facts["same_bits_in_other_company"] = float((together == in_two).all(axis=1).mean())
        facts["said"] += (
            f"; to torch's kernels {facts['cosine_to_torch_kernels']:.7f}; same bits again: "
            f"{facts['same_bits_again']}, in other company: {facts['same_bits_in_other_company']:.0%} of vectors"
        )
        return facts


def float32(dry: bool) -> dict[str, Any]:
    """0.6B in float32: within 1e-5 of transformers."""
    with loaded(wanted(dry, "0.6B", "float32"), 512) as (subject, spec):
        _, facts, _ = compared(subject, spec, dry)
        facts["right"] = facts["right"] and facts["largest_difference"] <= 1e-5
        facts["said"] = f"largest difference {facts['largest_difference']:.1e}; {facts['said']}"
        return facts


def encoder(dry: bool, model: str) -> dict[str, Any]:
    """An encoder by the path that a job takes against transformers' modules with SDPA, a text at a time."""
    with loaded(wanted(dry, model, "bfloat16"), 512) as (subject, spec):
        return compared(subject, spec, dry)[1]


def generic(dry: bool, model: str) -> dict[str, Any]:
    """transformers' modules with our packed attention against the same with SDPA, a text at a time."""
    with loaded(wanted(dry, model, "bfloat16", "generic"), 512) as (subject, spec):
        assert isinstance(subject.network, TransformersNetwork)
        return compared(subject, spec, dry)[1]


def float8(dry: bool) -> dict[str, Any]:
    """0.6B in 8 bits against transformers in bfloat16 on the weights before."""
    with loaded(wanted(dry, "0.6B", "float8"), 512) as (subject, spec):
        return compared(subject, spec, dry)[1]


def long_texts(dry: bool) -> dict[str, Any]:
    """0.6B: one text of 32,768 tokens among short ones, at the token budget that is found by measuring."""
    most = 300 if dry else 32768
    with loaded(wanted(dry, "0.6B", "bfloat16"), most) as (subject, spec):
        ours, seen = watched(subject, spec)
        short = np.random.default_rng(SEED).integers(1, 200, 20 if dry else 400)
        given = random_ids(subject, [most, *short])
        begin = time.perf_counter()
        vectors = embed(ours, given)
        seconds = time.perf_counter() - begin
        peer = subject.peer_model()
        with torch.inference_mode():
            ids = torch.from_numpy(given[0]).to(device(dry))[None]
            state = peer(input_ids=ids, use_cache=False).last_hidden_state[:, -1].float().cpu().numpy()
        found = cosines(vectors[:1], state)[0]
        others = cosines(vectors[1:], embed(ours, given[1:]))[0]
    said = f"cosine of the long one {found:.6f}, of the short ones with and without it {others:.6f}"
    facts = {"token_budget": ours.embedder.token_budget, "seconds": round(seconds, 2), "selfcheck": seen}
    return {"said": f"{said}, token budget {facts['token_budget']}", "right": min(found, others) > 0.995, **facts}


def memory(dry: bool) -> dict[str, Any]:
    """A token budget that does not fit: micro-batches are halved, and the vectors are the same."""
    with loaded(wanted(dry, "0.6B", "bfloat16"), 512) as (subject, spec):
        ours, seen = watched(subject, spec)
        budget = ours.embedder.token_budget
        given = random_ids(subject, [256] * max(1, min(budget, 32768) // 128))
        wide = embed(ours, given)
        if dry:
            return {"said": "not run on a CPU: it has no limit to set", "selfcheck": seen}
        torch.cuda.reset_peak_memory_stats()
        embed(ours, given)
        peak, held = torch.cuda.max_memory_allocated(), torch.cuda.memory_allocated()
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((held + 0.4 * (peak - held)) / total)
        try:
            narrow = embed(ours, given)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    least = cosines(wide, narrow)[0]
    halved = ours.embedder.token_budget
    facts = {"budget": budget, "budget_after": halved, "peak_gb": peak / 1e9, "held_gb": held / 1e9, "selfcheck": seen}
    right = halved < budget and least > 0.999
    return {"said": f"budget {budget} -> {halved}, cosine {least:.6f}, right: {right}", "right": right, **facts}


def reranker(dry: bool) -> dict[str, Any]:
    """0.6B: each query read once for all its documents, and every pair whole, against transformers a pair at a time."""
    model = "tiny" if dry else "0.6B"
    options = Options(model, tokens=2000 if dry else 12000, task="rerank", seed=SEED)
    encoded = rerank.made_up(options, subjects.RANDOM[model]["vocab_size"])
    geometry = Geometry.of(subjects.RANDOM[model])
    ours = rerank.RandomReranker(ModelSpec("random", device=device(dry), dtype="bfloat16"), geometry, SEED)
    pairs = PairBatches(encoded, reuse_prefix=False)
    rows = [np.array([i]) for i in range(len(encoded.query_of))]
    reference = np.array([ours.model.reference(pairs.batch(row).ids_T)[1] for row in rows])
    ours.start(None, int(rerank.pair_lengths(encoded).max()))
    logits = {name: ours.scored(encoded, name == "shared").vectors[:, 0] for name in ("shared", "whole")}
    errors = {name: float(np.abs(found - reference).max()) for name, found in logits.items()}
    between = float(np.abs(logits["shared"] - logits["whole"]).max())
    spread = float(reference.std())
    right = max(errors.values()) <= 0.35 * max(spread, 1.0)
    said = f"logits within {errors['shared']:.1e} shared, {errors['whole']:.1e} whole, of {spread:.2g}, right: {right}"
    return {"said": said, "right": right, "errors": errors, "between": between, "spread": spread, "pairs": len(rows)}
