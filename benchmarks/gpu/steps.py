"""The steps: what is run, in which order, and how long it should take. Imports nothing heavy.

Beside each stands how many seconds it should take on an H100 (estimated: none has run it yet), from the tokens it
computes at the rates of docs/models.md, and 5 to 8 s to make a model of random weights and check it. Together they fit
into MINUTES. A step is stopped after its `limit`, which is not much more, so that one that hangs costs others little:
what then no longer fits is what matters least, the last ones.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu.inputs import INPUTS

MINUTES, HALF_MINUTES = 8.0, 4.0
START_SECONDS = 15.0  # of the first process and of a worker, until a step begins
LAST_OF_THE_FIRST_HALF = "peers 0.6B"
CAUSAL, TWO_WAY = "causal", "two-way"  # kinds of attention: of Qwen3; of encoders


@dataclass(frozen=True)
class Asked:
    """What the command was asked for. minilm: the weights of all-MiniLM-L6-v2."""

    dry: bool = False
    faults: bool = False
    minilm: str = "bundled"


@dataclass(frozen=True)
class Step:
    """A measurement. seconds: how long it should take; run(asked) gives what goes into the record; needs: the kind of
    attention that it uses, whose check decides between the variable-length one and that of equal lengths.
    """

    name: str
    seconds: float
    run: Callable[[Asked], dict[str, Any]]
    needs: str = CAUSAL
    most: float | None = None

    @property
    def limit(self) -> float:
        """Seconds after which it is stopped: kernels may have to be compiled, and a slow disk read."""
        return 20.0 + 2 * self.seconds if self.most is None else self.most


def _call(place: str, *arguments: Any) -> Callable[[Asked], dict[str, Any]]:
    """A function of a module ("checks.bfloat16"), which is imported when the step begins."""
    module, name = place.split(".")

    def run(asked: Asked) -> dict[str, Any]:
        found: dict[str, Any] = getattr(importlib.import_module(f"benchmarks.gpu.{module}"), name)(
            asked.dry, *arguments
        )
        return found

    return run


def _published(asked: Asked) -> dict[str, Any]:
    return _call("replica.published", asked.minilm)(asked)


def _ours(model: str, mix: str, dtype: str, seconds: float, needs: str = CAUSAL) -> Step:
    return Step(f"ours {model} {mix} {dtype}", seconds, _call("speed.ours", model, mix, dtype), needs)


STEPS = [
    Step("machine", 8, _call("device.machine")),
    *(Step(f"kernel {name}", 3, _call("kernels.kernel", name)) for name in INPUTS),
    Step(f"attention {CAUSAL}", 4, _call("kernels.attention", CAUSAL)),
    Step(f"attention {TWO_WAY}", 2, _call("kernels.attention", TWO_WAY), TWO_WAY),
    Step("check bfloat16", 20, _call("checks.bfloat16")),
    _ours("0.6B", "short", "bfloat16", 12),
    Step("profile 0.6B", 10, _call("profile.profile", "0.6B")),
    Step("ceilings", 9, _call("speed.ceilings")),
    Step("products 0.6B", 2, _call("explain.products", "0.6B")),
    Step("products 8B", 3, _call("explain.products", "8B")),
    _ours("8B", "short", "bfloat16", 22),
    Step("profile 8B", 14, _call("profile.profile", "8B")),
    Step("check float8", 9, _call("checks.float8")),
    _ours("8B", "short", "float8", 20),
    Step("check reranker", 11, _call("checks.reranker")),
    Step("reranker 0.6B", 13, _call("speed.reranking")),
    Step("peers 0.6B", 36, _call("speed.peers", "0.6B")),
    # What is above fits into HALF_MINUTES.
    Step("peers 4B", 24, _call("speed.peers", "4B")),
    Step("attention by length", 4, _call("explain.attention_by_length")),
    Step("queueing 0.6B", 6, _call("explain.queueing", "0.6B")),
    Step("queueing minilm", 4, _call("explain.queueing", "minilm"), TWO_WAY),
    Step("replica minilm", 8, _call("replica.replica", "minilm"), TWO_WAY),
    Step("published MiniLM", 10, _published, TWO_WAY),
    Step("margins 8B", 12, _call("margins.margins", "8B")),
    Step("check minilm", 5, _call("checks.encoder", "minilm"), TWO_WAY),
    _ours("minilm", "short", "bfloat16", 7, TWO_WAY),
    Step("check generic minilm", 4, _call("checks.generic", "minilm"), TWO_WAY),
    Step("ours minilm generic path", 7, _call("speed.generic", "minilm"), TWO_WAY),
    _ours("bert-base", "short", "bfloat16", 8, TWO_WAY),
    Step("replica 0.6B", 27, _call("replica.replica", "0.6B")),
    Step("check long texts", 10, _call("checks.long_texts")),
    Step("check memory", 8, _call("checks.memory")),
    Step("check float32", 6, _call("checks.float32")),
    _ours("0.6B", "mid", "bfloat16", 9),
    _ours("0.6B", "long", "bfloat16", 12),
    Step("products 4B", 2, _call("explain.products", "4B")),
    _ours("4B", "short", "float8", 14),
    Step("ours 0.6B generic path", 7, _call("speed.generic", "0.6B")),
    Step("peers 8B", 28, _call("speed.peers", "8B")),
    Step("larger budget 0.6B", 7, _call("speed.larger_budget")),
]
