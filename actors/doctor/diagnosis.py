"""What an examination found, and how it reads on a terminal."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from actors.checks.check import Check
from actors.checks.goldens import Result
from actors.checks.layouts import LEAST_COSINE, LEAST_COSINE_OF_LAYOUTS, LOGIT_TOLERANCE, Comparison

MARKS = {True: "ok", False: "FAIL", None: "-"}
LAYOUT_WIDTH = 26  # of the longest name
PAIR_WIDTH = 22  # characters shown of each text of a pair


@dataclass(frozen=True)
class LayoutCheck:
    """Least cosines of one layout's vectors (or last states): to the reference, and to the same texts alone; and the
    least allowed. Of a reranker also the largest error of a logit, and the most allowed.
    """

    dtype: str
    layout: str
    cosine: float
    least: float
    cosine_to_alone: float
    least_to_alone: float
    ok: bool
    logit_error: float | None = None
    most_logit_error: float | None = None

    @staticmethod
    def of(found: Comparison, dtype: str) -> "LayoutCheck":
        """A comparison of a self-check, judged as there."""
        errors = [error for error in (found.logit_error, found.logit_error_to_alone) if error is not None]
        return LayoutCheck(
            dtype=dtype,
            layout=found.layout,
            cosine=found.cosine,
            least=LEAST_COSINE[dtype],
            cosine_to_alone=found.cosine_to_alone,
            least_to_alone=LEAST_COSINE_OF_LAYOUTS[dtype],
            ok=found.failure(dtype) is None,
            logit_error=max(errors, default=None),
            most_logit_error=LOGIT_TOLERANCE[dtype] if errors else None,
        )


@dataclass
class Diagnosis:
    """All that was found; filled by `examine`.

    published_as: the hub id whose published numbers the goldens are; None if there are none for these weights.
    """

    weights: str
    task: str
    environment: dict[str, Any]
    model: dict[str, Any]
    published_as: str | None = None
    checks: list[Check] = field(default_factory=list)
    layouts: list[LayoutCheck] = field(default_factory=list)
    goldens: list[Result] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """How many checks did not pass."""
        verdicts = [c.ok for c in self.checks] + [c.ok for c in self.layouts]
        return verdicts.count(False) + [result.ok for result in self.goldens].count(False)

    @property
    def ok(self) -> bool:
        """Whether all passed."""
        return self.failed == 0

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, which knows no NaN: such a number is null."""
        found: dict[str, Any] = _plain({"ok": self.ok, "failed": self.failed, **asdict(self)})
        return found

    def lines(self) -> list[tuple[bool | None, str]]:
        """The report, line by line, each with its verdict (None: nothing to judge). Titles begin at the margin."""
        found = [(None, f"doctor: {self.weights}, to {self.task}"), *_fields(self.model)]
        found += [(None, "environment"), *_fields(self.environment)]
        found += [(None, "checks"), *((c.ok, f"  {_mark(c.ok)}  {c.name}: {c.found}") for c in self.checks)]
        if self.layouts:
            found.append((None, "layouts: least cosine to the slow reference, and to the same texts alone"))
            found += [(layout.ok, _layout(layout)) for layout in self.layouts]
        if self.goldens:
            sources = list(dict.fromkeys(result.golden.source for result in self.goldens))
            found.append((None, f"goldens: published for {self.published_as}, of a query and a document"))
            head = f"{'published':>10}  {'got':>10}  {'off by':>8}  {'allowed':>8}  {'vLLM':>7}  source"
            found.append((None, f"  {'':<4}  {'dtype':<8}  {'':<6}  {'pair':<{2 * PAIR_WIDTH + 3}}  {head}"))
            found += [(r.ok, _golden(r, sources.index(r.golden.source) + 1)) for r in self.goldens]
            found += [(None, f"  source {number}: {source}") for number, source in enumerate(sources, start=1)]
        found += [(None, f"note: {note}") for note in self.notes]
        said = "all checks passed" if self.ok else f"NOT WELL: {self.failed} failed, see the lines marked FAIL"
        return [*found, (self.ok, said)]


def _fields(values: dict[str, Any]) -> list[tuple[bool | None, str]]:
    return [(None, f"  {_label(name):<22}  {_shown(name, value)}") for name, value in values.items()]


def _label(name: str) -> str:
    return name.removesuffix("_bytes").replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if name.endswith("_bytes"):
        return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.1f} MB"
    if isinstance(value, int):
        return f"{value:,}"
    return repr(value) if name.endswith("prompt") else str(value)


def _mark(ok: bool | None) -> str:
    return f"{MARKS[ok]:<4}"


def _layout(one: LayoutCheck) -> str:
    places = 8 if one.dtype == "float32" else 5
    near, alone = f"{one.cosine:.{places}f}", f"{one.cosine_to_alone:.{places}f}"
    logit = "" if one.logit_error is None else f"  logit off by {one.logit_error:.1e} (<= {one.most_logit_error})"
    return (
        f"  {_mark(one.ok)}  {one.dtype:<8}  {one.layout:<{LAYOUT_WIDTH}}  {near} (>= {one.least})  "
        f"{alone} (>= {one.least_to_alone}){logit}"
    )


def _golden(result: Result, source: int) -> str:
    golden = result.golden
    pair = f"{_short(golden.query)} | {_short(golden.document)}"
    allowed = "not known" if result.tolerance is None else f"{result.tolerance:.4f}"
    vllm = "" if golden.vllm is None else f"{golden.vllm:.4f}"
    return (
        f"  {_mark(result.ok)}  {result.dtype:<8}  {golden.kind:<6}  {pair:<{2 * PAIR_WIDTH + 3}}  "
        f"{golden.expected:>10.4f}  {result.got:>10.4f}  {result.difference:>8.1e}  {allowed:>8}  {vllm:>7}  {source}"
    )


def _short(text: str) -> str:
    return text if len(text) <= PAIR_WIDTH else text[: PAIR_WIDTH - 1] + "…"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
