"""One benchmark: a model, a mix of texts, our ways and the peers', in rounds."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from actors.device.auto import resolve_device, resolve_dtype
from actors.spec import ModelSpec
from actors.tokenizer.text import Encoded, TextTokenizer
from benchmarks import machine
from benchmarks.model import ceiling, measure, padded, peers, report, subjects, texts
from benchmarks.model.ceiling import Ceiling
from benchmarks.model.flops import Shape
from benchmarks.model.measure import Done, Way
from benchmarks.model.options import AGAINST, Options
from benchmarks.model.ours import Ours, part_of
from benchmarks.model.subjects import Subject, Wanted

WARM_UP_STEP = 4  # every so many-th text
FLOPS_NOTE = "every layer counted whole, also where ours computes the last one for the last token only"


@dataclass(frozen=True)
class Work:
    """The texts, tokenised and not."""

    texts: list[str]
    encoded: Encoded
    facts: dict[str, Any]
    tokenising: dict[str, Any]

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.encoded.offsets)


@dataclass(frozen=True)
class Peer:
    """Another way to the same vectors, and how it was set up."""

    way: Way
    settings: dict[str, Any]


def run(options: Options, ceilings: Sequence[Ceiling] | None = None) -> dict[str, Any]:
    """Measures; gives the report, ready for JSON. ceilings: measured before in the same run, or None.

    Raises ModelError for what cannot be loaded or run, and when our own vectors are wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _run(options, ceilings, Path(folder))


def _run(options: Options, ceilings: Sequence[Ceiling] | None, folder: Path) -> dict[str, Any]:
    subject, spec = _load(options, folder)
    device, dtype = resolve_device(spec), resolve_dtype(spec)
    facts = machine.facts(device)
    # Taken before ours starts, which may turn the weights into 8 bits.
    peer_model = subject.peer_model() if options.peers else None
    ours = Ours(subject, spec)
    work = _work(options, subject, ours.tokenizer)
    if ceilings is None:
        ceilings = [ceiling.measure(device, kind, options.ceiling_seconds) for kind in ceiling.kinds(dtype)]
    ways = [way for way in _our_ways(ours, work) if not options.ways or way.name in options.ways]
    others, failed = _peers(options, subject, peer_model, (work, ours), folder)
    runs = measure.rounds([*ways, *(peer.way for peer in others)], options.rounds, device)
    shape = Shape.of(subject.config)
    results = {name: report.result(found, work.lengths, shape, ceilings, options.price) for name, found in runs.items()}
    for peer in others:
        name = peer.way.name
        results[name] |= _compared(runs[AGAINST["embed"][name]], runs[name]) | {"settings": peer.settings}
    settings = asdict(options) | {"device": device, "dtype": dtype, **report.settings(ours.embedder.token_budget)}
    found = {
        "model": options.model,
        "weights": subject.weights,
        "work": work.facts,
        "ours": {way.name: results[way.name] for way in ways},
        "peers": {peer.way.name: results[peer.way.name] for peer in others},
        "failed": failed,
        "tokenising": work.tokenising,
        "ceilings": [report.ceiling(found) for found in ceilings],
        "flops": _flops(shape, work.lengths),
        "selfcheck": [asdict(found) for found in ours.embedder.comparisons],
    }
    return machine.result("model layer", settings, facts, **found)


def _load(options: Options, folder: Path) -> tuple[Subject, ModelSpec]:
    """The subject, and the spec that runs it: no prompt, cut to the mix's most or to what the model can take."""
    asked = ModelSpec(options.model, device=options.device, dtype=options.dtype, threads=options.threads)
    device, dtype = resolve_device(asked), resolve_dtype(asked)
    own = folder / "model"
    own.mkdir()
    wanted = Wanted(options.model, device, dtype, options.tokenizer, options.path, options.seed)
    subject = subjects.load(wanted, own)
    spec = ModelSpec(
        str(subject.folder),
        max_tokens=min(texts.MIXES[options.mix].most, subject.recipe.max_positions),
        dtype=dtype,
        prompt="",
        token_budget=options.token_budget,
        device=device,
        threads=options.threads,
    )
    return subject, spec


def _work(options: Options, subject: Subject, tokenizer: TextTokenizer) -> Work:
    """The texts of the mix, tokenised; and how fast that went, per core by its CPU time."""
    mix = texts.MIXES[options.mix]
    around = tokenizer.special_tokens
    lengths_N = texts.lengths(mix, options.tokens, max(1, around), options.seed)
    content_N = np.minimum(lengths_N, tokenizer.max_tokens) - around
    if subject.made_up_words:
        found = texts.made_up(content_N, subject.recipe.vocabulary, options.seed)
    else:
        found = texts.real(content_N, tokenizer, options.seed)
    tokenizer.encode(found[:64])
    begin, cpu = time.perf_counter(), time.process_time()
    encoded = tokenizer.encode(found)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    tokens = len(encoded.ids)
    words = "made-up words, one token each" if subject.made_up_words else "words of Python's documentation"
    tokenising = {
        "tokens_per_second": round(tokens / seconds, 1),
        "tokens_per_second_and_core": round(tokens / max(cpu_seconds, 1e-9), 1),
        "what": "the made-up tokenizer, not the model's" if subject.made_up_words else "the model's tokenizer",
    }
    facts = texts.summary(np.diff(encoded.offsets)) | {"mix": options.mix, "words": words}
    return Work(found, encoded, facts, tokenising)


def _our_ways(ours: Ours, work: Work) -> list[Way]:
    some = part_of(work.encoded, WARM_UP_STEP)
    return [
        Way("from_ids", lambda: ours.from_ids(work.encoded), lambda: ours.from_ids(some)),
        Way("from_texts", lambda: ours.from_texts(work.texts), lambda: ours.from_texts(work.texts[::WARM_UP_STEP])),
    ]


def _peers(
    options: Options, subject: Subject, model: Any, mine: tuple[Work, Ours], folder: Path
) -> tuple[list[Peer], dict[str, str]]:
    """The others, and the errors of those that do not run here: these must not cost our own numbers."""
    found, failed = [], {}
    for name in options.peers:
        own = folder / name
        own.mkdir()
        try:
            found.append(_peer(name, options.tried_texts, subject, model, mine, own))
        except Exception as error:  # noqa: BLE001 - another project's, of whatever kind
            failed[name] = f"{type(error).__name__}: {error}"[:500]
    return found, failed


def _peer(name: str, tried_texts: int, subject: Subject, model: Any, mine: tuple[Work, Ours], own: Path) -> Peer:
    """Another way, tried on two texts. own: a folder for what it needs."""
    work, ours = mine
    few, some_texts = part_of(work.encoded, max(1, len(work.texts) // 2)), work.texts[::WARM_UP_STEP]
    if name == "transformers":
        budget = ours.embedder.token_budget
        plain = padded.Sorted(subject, model, budget)
        plain.run(few)
        some = part_of(work.encoded, WARM_UP_STEP)
        way = Way(name, lambda: plain.run(work.encoded), lambda: plain.run(some))
        return Peer(way, {"sorted by": "tokens", "token_budget": budget, "attention": "sdpa, padded"})
    other = peers.SentenceTransformers(subject, model, ours.tokenizer.max_tokens, own)
    other.run(work.texts[:2])
    if name == "st":
        way = Way(name, lambda: other.run(work.texts), lambda: other.run(some_texts))
    else:
        best = other.choose_best(work.texts[:: max(1, len(work.texts) // tried_texts)])
        way = Way(name, lambda: best(work.texts), lambda: None)
    return Peer(way, other.settings)


def _compared(ours: Sequence[Done], other: Sequence[Done]) -> dict[str, Any]:
    least, mean = measure.cosines(ours[-1].vectors, other[-1].vectors)
    return {
        "ours_is": round(measure.ratio(ours, other), 3),
        "ours_is_in_cpu_time": round(measure.cpu_ratio(ours, other), 3),
        "agrees": f"cosine {least:.6f}",
        "least_cosine": round(least, 8),
        "mean_cosine": round(mean, 8),
    }


def _flops(shape: Shape | None, lengths_N: np.ndarray) -> dict[str, Any]:
    if shape is None:
        return {"formula": None, "note": "not counted for this architecture"}
    useful = shape.useful(lengths_N)
    saved = shape.saved_by_last_token(lengths_N) / useful if shape.causal else 0.0
    return {
        "formula": shape.formula,
        "note": FLOPS_NOTE,
        "linear_per_token": shape.linear,
        "useful": useful,
        "share_that_ours_leaves_out": round(saved, 4),
    }
