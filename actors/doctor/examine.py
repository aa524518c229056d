"""Examines weights on this machine by hand: `vectormill doctor`, or `python -m actors.doctor` on a bare GPU box.

    environment   versions, device, which fast paths it has
    model         folder, digest, size, recipe as read from its files
    checks        the tokenizer's contract, its ids beside those of transformers and, for Qwen3's, beside the published
                  ones; whether the model runs
    layouts       cosines of every layout to the slow reference on the same weights
    goldens       the numbers others have published for these weights, beside ours

The weights are loaded once a dtype, one after the other: in the job's, then in float32, in which most numbers were
published, if the memory is there.
"""

import argparse
import gc
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from actors.checks import goldens, tokens
from actors.checks.check import Check
from actors.checks.layouts import SelfChecked
from actors.checks.published import Published
from actors.device.auto import resolve_device, resolve_dtype
from actors.device.refusal import setting_up
from actors.doctor import inspection
from actors.doctor.diagnosis import Diagnosis, LayoutCheck
from actors.embedder import selfcheck
from actors.embedder.embedder import Embedder, load_model
from actors.reranker.head import read_config
from actors.reranker.prompt import DEFAULT_INSTRUCTION, RerankPrompt
from actors.reranker.reranker import Reranker
from actors.reranker.tokens import check_pairs
from actors.spec import DTYPES, ModelError, ModelSpec
from actors.tokenizer.text import TextTokenizer
from actors.weights.locate import locate
from actors.weights.modules import read_json
from actors.weights.recipe import resolve

TASKS = ("embed", "rerank")
Loaded = TypeVar("Loaded", bound=SelfChecked)
FLOAT32_BUDGET = 4096  # tokens of a micro-batch of the extra run in float32: enough for every text here


def examine(spec: ModelSpec, task: str | None = None, with_goldens: bool = True) -> Diagnosis:
    """Examines the weights of a spec, at full dimensions and with their own prompt and length, on the spec's device.

    task: "embed" or "rerank"; None = guessed from the folder. The spec's dtype "auto": what a job would take, then
    float32 if the memory is there. Raises ModelError when there are no such weights; what is wrong with them is in
    the result.
    """
    if spec.is_fake:
        raise ModelError('the fake model has no weights to examine: give a folder, a hub id or "bundled"')
    place = locate(spec)
    task = task or inspection.guess_task(spec.weights, place)
    # By its folder, so that the checks a replica of known weights makes at start do not end the examination.
    local = replace(spec, weights=str(place), revision=None, s3=(), dimensions=None, max_tokens=None, prompt=None)
    device = resolve_device(spec)
    diagnosis = Diagnosis(spec.weights, task, inspection.environment(device), inspection.folder(spec, place))
    diagnosis.checks += inspection.device_checks(spec)
    published = _published(diagnosis, spec, place) if with_goldens else None
    if not with_goldens:
        diagnosis.notes.append("goldens left out, as asked")
    understood, run = (_reads_pairs, _run_reranker) if task == "rerank" else (_reads_texts, _run_embedder)
    if understood(diagnosis, local):
        for each in _to_run(diagnosis, local):
            run(diagnosis, each, published)
            if not _free():
                break
    _explain_goldens(diagnosis, spec, published)
    return diagnosis


def _published(diagnosis: Diagnosis, spec: ModelSpec, place: Path) -> Published | None:
    found = goldens.identify(spec.weights, read_json(place / "config.json"), diagnosis.task)
    if found is None:
        diagnosis.notes.append("no published numbers for this model")
    elif inspection.is_untrained(place):
        diagnosis.notes.append("no published numbers for this model: its weights are random, it was never trained")
        found = None
    diagnosis.published_as = found.model_id if found else None
    return found


def _reads_texts(diagnosis: Diagnosis, spec: ModelSpec) -> bool:
    """Whether recipe and tokenizer of an embedder are understood, and its ids those of transformers; and the
    tokenizer's published ids."""
    try:
        diagnosis.model |= inspection.embedding_recipe(Path(spec.weights))
        tokenizer = TextTokenizer(replace(spec, prompt=""))
    except ModelError as error:
        diagnosis.checks.append(Check("recipe and tokenizer", False, str(error)))
        return False
    ids = tokenizer.encode(["test"]).ids.tolist()
    diagnosis.checks.append(Check("recipe and tokenizer", True, f"understood; 'test' gives {ids}"))
    if not _same_ids(diagnosis, lambda: tokens.check_texts(tokenizer, resolve(spec, with_weights=False))):
        return False
    if goldens.has_qwen_ids(tokenizer):
        wrong = goldens.wrong_ids(tokenizer)
        diagnosis.checks.append(Check("token ids", wrong is None, wrong or "as published for Qwen3's tokenizer"))
    return True


def _reads_pairs(diagnosis: Diagnosis, spec: ModelSpec) -> bool:
    """The same for a reranker, whose prompt refuses ids other than the published ones by itself."""
    try:
        read_config(Path(spec.weights))
        prompt = RerankPrompt(spec)
    except ModelError as error:
        diagnosis.checks.append(Check("recipe and tokenizer", False, str(error)))
        return False
    diagnosis.model |= {"instruction": DEFAULT_INSTRUCTION, "max_tokens": prompt.max_tokens}
    found = f"understood; yes is {prompt.yes_id}, no is {prompt.no_id}"
    diagnosis.checks.append(Check("recipe and tokenizer", True, found))
    return _same_ids(diagnosis, lambda: check_pairs(prompt, Path(spec.weights)))


def _same_ids(diagnosis: Diagnosis, compare: Callable[[], tokens.Proof]) -> bool:
    try:
        found, ok = str(compare()), True
    except ModelError as error:
        found, ok = str(error), False
    diagnosis.checks.append(Check("ids beside transformers", ok, found))
    return ok


def _to_run(diagnosis: Diagnosis, spec: ModelSpec) -> list[ModelSpec]:
    """The spec in each dtype to examine."""
    own = replace(spec, dtype=resolve_dtype(spec))
    if spec.dtype != "auto" or own.dtype == "float32":
        return [own]
    needed = 4 * diagnosis.model["parameters"] * 1.2 + 1e9
    free = inspection.free_memory(resolve_device(spec))
    if free is not None and free < needed:
        diagnosis.notes.append(
            f"not run in float32, which needs {needed / 1e9:.1f} GB ({free / 1e9:.1f} GB are free): {own.dtype} alone, "
            "with its wider tolerances"
        )
        return [own]
    return [own, replace(spec, dtype="float32", token_budget=FLOAT32_BUDGET)]


def _run_embedder(diagnosis: Diagnosis, spec: ModelSpec, published: Published | None) -> None:
    """Loads the model in one dtype; its layouts, then the goldens."""
    embedder = _loaded(Embedder, diagnosis, spec)
    if embedder is None:
        if _free():
            _show_layouts_of_a_refused_model(diagnosis, spec)
        return
    if published is not None:
        got = goldens.cosines(embedder, published.goldens)
        diagnosis.goldens += goldens.judge(published.goldens, got, spec.dtype)


def _run_reranker(diagnosis: Diagnosis, spec: ModelSpec, published: Published | None) -> None:
    """The same for a reranker."""
    reranker = _loaded(Reranker, diagnosis, spec)
    if reranker is None:
        return
    if published is not None:
        got = goldens.logits_or_scores(reranker, published.goldens)
        diagnosis.goldens += goldens.judge(published.goldens, got, spec.dtype)


def _loaded(kind: Callable[[ModelSpec], Loaded], diagnosis: Diagnosis, spec: ModelSpec) -> Loaded | None:
    """The model in one dtype, and its layouts; None if it refuses to work."""
    name = f"runs in {spec.dtype}"
    try:
        loaded = kind(spec)
    except ModelError as error:
        diagnosis.checks.append(Check(name, False, str(error)))
        return None
    diagnosis.checks.append(Check(name, True, f"token budget {loaded.token_budget:,}"))
    diagnosis.layouts += [LayoutCheck.of(found, spec.dtype) for found in loaded.comparisons]
    return loaded


def _show_layouts_of_a_refused_model(diagnosis: Diagnosis, spec: ModelSpec) -> None:
    """An Embedder names the first layout that differs, a diagnosis shows all, if the model runs at all."""
    with suppress(ModelError), setting_up(spec):  # said already
        model = load_model(spec, resolve(spec))
        encoded = TextTokenizer(spec).encode(selfcheck.TEXTS)
        sequences = selfcheck.sequences_of(np.split(encoded.ids, encoded.offsets[1:-1]))
        reference_ND = np.stack([model.reference(ids_T) for ids_T in sequences])
        model.start(spec.token_budget)

        def encode(some: Sequence[np.ndarray]) -> np.ndarray:
            lengths_n = np.array([len(ids_T) for ids_T in some], dtype=np.int64)
            return model.to_host(model.encode(np.concatenate(list(some)), lengths_n))

        found = selfcheck.compare(sequences, reference_ND, encode, model.normalised)
        diagnosis.layouts += [LayoutCheck.of(one, spec.dtype) for one in found]


def _explain_goldens(diagnosis: Diagnosis, spec: ModelSpec, published: Published | None) -> None:
    if published is None:
        return
    name = published.model_id
    if not diagnosis.goldens:
        diagnosis.notes.append(f"the numbers published for {name} were not compared: the model does not run")
    elif all(result.ok is None for result in diagnosis.goldens):
        diagnosis.notes.append("nobody has published what this dtype may be off: the numbers are shown, not judged")
    elif any(result.ok is False for result in diagnosis.goldens):
        diagnosis.notes.append(
            f"these should be the weights of {name}: fetch them again, and compare versions and device"
            if goldens.is_named(spec, published)
            else f"the weights have the shape of {name}. Fine-tuned weights, and the base model, are expected to give "
            f"other numbers than the published ones; --no-goldens leaves them out. If these are meant to be {name}, "
            "they are damaged or used wrongly"
        )


def _free() -> bool:
    """Gives the memory of what was examined back. False: the device has failed, and this process can use it no more."""
    gc.collect()
    try:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives the exit code: 0 only if all checks passed."""
    parser = argparse.ArgumentParser(prog="python -m actors.doctor", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--weights", default="bundled", help="folder, hub id, modelscope:ID, s3:// folder or bundled")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--task", choices=TASKS, help="absent: rerank if the folder says so or has it in its name")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; absent: CUDA if there is one")
    parser.add_argument("--dtype", choices=DTYPES, default="auto", help="auto: the job's, then float32 if it fits")
    parser.add_argument("--no-goldens", action="store_true", help="leave the published numbers out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    asked = parser.parse_args(arguments)
    try:
        spec = ModelSpec(asked.weights, revision=asked.revision, device=asked.device, dtype=asked.dtype)
        diagnosis = examine(spec, asked.task, with_goldens=not asked.no_goldens)
    except ModelError as error:
        print(f"doctor: {error}", file=sys.stderr)
        return 1
    print(json.dumps(diagnosis.to_dict()) if asked.json else "\n".join(line for _, line in diagnosis.lines()))
    return 0 if diagnosis.ok else 1
