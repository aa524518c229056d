"""The evaluation as one HTML file: no script, nothing loaded from anywhere, light or dark as the reader has it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from pipelines.search.evaluation import svg
from pipelines.search.evaluation.choices import LOSS_ALLOWED
from pipelines.search.evaluation.forms import FORMS
from pipelines.search.evaluation.measures import MEASURES, RESAMPLES

NAMES = [form.name for form in FORMS]

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646c; --line: #dfe3e8; --back: #fff; --mark: #fff6d9;
  --c0: #0063a6; --c1: #c2410c; --c2: #00795c; --c3: #a3327e; --c4: #8a6a00; --c5: #4b5563; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7e9ec; --soft: #a0a8b1; --line: #343a41; --back: #15181c;
  --mark: #3a3314; --c0: #5db4f0; --c1: #fb9a5b; --c2: #45c9a0; --c3: #e58ac6; --c4: #e6c34a; --c5: #b6bec8; } }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 62rem; color: var(--ink); background: var(--back);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; overflow-wrap: anywhere; } h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; }
p { margin: .4rem 0; max-width: 48rem; } .soft, caption, figcaption { color: var(--soft); font-size: .9rem; }
.wide { overflow-x: auto; } figure { margin: 1rem 0; } svg { width: 100%; height: auto; }
.side { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; } .side svg { flex: 1 1 250px; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; }
.legend svg { width: 14px; margin-right: .35rem; vertical-align: -2px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .25rem .5rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; } th:first-child, td:first-child, .left { text-align: left; }
td.left:last-child { white-space: normal; } tr.taken td { background: var(--mark); font-weight: 600; }
.advice { border-left: 4px solid var(--c2); padding: .2rem 0 .2rem 1rem; margin: 1rem 0; }
text { font-size: 12px; fill: var(--soft); paint-order: stroke; stroke: var(--back); stroke-width: 3px; }
text.title { font-size: 13px; font-weight: 600; fill: var(--ink); }
.grid { stroke: var(--line); } .floor { stroke: var(--soft); stroke-dasharray: 5 4; }
.joined { fill: none; stroke: var(--soft); stroke-width: 1; } .ring { fill: none; stroke: var(--ink); stroke-width: 2; }
.interval { stroke-width: 1.6; opacity: .75; } .faint { opacity: .38; }
""" + "".join(f".series-{n} {{ fill: var(--c{n}); stroke: var(--c{n}); }}\n" for n in range(len(FORMS)))


def render(found: dict[str, Any]) -> str:
    """What `pipelines.search.evaluation.evaluate.evaluate` returns, as a page."""
    model = found["model"]
    body = [
        f"<h1>{escape(found['table'])}</h1>",
        f'<p class="soft">{found["queries"]:,} queries and {found["judgments"]:,} judgments of '
        f"{escape(found['collection'])} ({escape(found['split'])}); {found['vectors']:,} vectors of "
        f"{model['dimensions']:,} dimensions in {escape(model['vector_dtype'])} by {escape(model['name'])}; "
        f"table version {found['version']:,}, fingerprint {escape(found['fingerprint'])}.</p>",
        *(f"<p>Note: {escape(note)}.</p>" for note in found["notes"]),
        "<h2>How good is what is found?</h2>",
        _stages(found),
        "<h2>What would smaller vectors lose?</h2>",
        _choices(found),
        f'<p class="soft">vectormill {escape(found["vectormill"])}. Intervals: 95 %, bootstrap over the queries, '
        f"{RESAMPLES:,} resamples.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>evaluation of {escape(found['table'])}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _stages(found: dict[str, Any]) -> str:
    stages = found["stages"]
    index = found["index"]
    plots = [
        svg.intervals(name, [(s["stage"], *(s[name][key] for key in ("mean", "low", "high"))) for s in stages])
        for name in MEASURES
    ]
    rows = [
        [s["stage"], *(_estimate(s[name]) for name in MEASURES), f"{s['recall@10_of_exact']:.4f}", _ms(s)]
        for s in stages
    ]
    said = (
        f"Index: {index['type']}, {index['rows']:,} of the table's {found['records']:,} records in it."
        if index
        else "The table has no vector index: every search is exact."
    )
    reranker = f" Reranker: {found['reranker']}." if found["reranker"] else ""
    head = ["search", *MEASURES, "first 10 as exact", "ms a query"]
    return (
        f'<figure><div class="side">{"".join(plots)}</div></figure>'
        + _table(head, rows, [""] * len(rows))
        + f'<p class="soft">{escape(said + reranker)} Milliseconds: the median on the machine that evaluated, one '
        "query at a time.</p>"
    )


def _choices(found: dict[str, Any]) -> str:
    choices = found["choices"]
    floor = choices[0]["nDCG@10"]["mean"] - LOSS_ALLOWED
    plots = [
        svg.scatter(_points(choices, key), label, unit, (floor, f"loss of {LOSS_ALLOWED:g}"))
        for key, label, unit in (
            ("bytes_per_million_rows", "bytes of a million vectors", _size),
            ("milliseconds", f"ms of an exact search of {found['timed_over']:,} vectors by numpy", lambda x: f"{x:g}"),
        )
    ]
    head = ["dimensions", "form", "a million rows", "nDCG@10", "recall@100", "change of nDCG@10", "ms", "efficient"]
    rows = [
        [
            f"{c['dimensions']:,}",
            c["form"],
            _size(c["bytes_per_million_rows"]),
            _estimate(c["nDCG@10"]),
            f"{c['recall@100']['mean']:.4f}",
            _estimate(c["nDCG@10_change"], "+"),
            _ms(c),
            "yes" if c["efficient"] else "",
        ]
        for c in choices
    ]
    stores = {c["form"]: c["searched_by_store"] for c in choices}
    return (
        f'<div class="advice"><p>{escape(found["advice"])}</p><p class="soft">Rule: {escape(found["rule"])}.</p></div>'
        f"<p>{escape(found['cutting'])}</p>"
        f'<figure><div class="legend">{svg.legend(NAMES)}</div>{plots[0]}<figcaption>Joined: the efficient '
        "choices (nothing with as few bytes is better), with their number of dimensions. Ringed: the recommended one, "
        f"with its interval. Dashed: the table as it is, less {LOSS_ALLOWED:g}.</figcaption></figure>"
        f"<figure>{plots[1]}<figcaption>The same choices against time; joined: nothing as fast is better. numpy has "
        "no products of float16 and int8: decoding them is in the time.</figcaption></figure>"
        + _table(head, rows, ["taken" if c["recommended"] else "" for c in choices], left=(1,))
        + "<p>Is it searched by the store?</p>"
        + _table(["form", "searched"], [[name, said] for name, said in stores.items()], [""] * len(stores), left=(1,))
    )


def _points(choices: Sequence[dict[str, Any]], key: str) -> list[svg.Point]:
    best, joined = -1.0, []
    for choice in sorted(choices, key=lambda c: (c[key], -c["nDCG@10"]["mean"])):
        if choice["nDCG@10"]["mean"] > best:
            joined.append(choice)
            best = choice["nDCG@10"]["mean"]
    return [
        svg.Point(
            x=choice[key],
            y=choice["nDCG@10"]["mean"],
            low=choice["nDCG@10"]["low"],
            high=choice["nDCG@10"]["high"],
            series=NAMES.index(choice["form"]),
            label=str(choice["dimensions"]) if choice in joined or choice["recommended"] else "",
            note=f"{choice['form']}, {choice['dimensions']} dimensions: nDCG@10 {_estimate(choice['nDCG@10'])}",
            joined=choice in joined,
            ringed=choice["recommended"],
        )
        for choice in choices
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kinds: Sequence[str], left: tuple[int, ...] = ()) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        classes = [' class="left"' if at in left else "" for at in range(len(row))]
        return "".join(f"<{tag}{c}>{escape(cell)}</{tag}>" for cell, c in zip(row, classes, strict=True))

    body = "".join(
        f'<tr class="{kind}">{cells(row, "td")}</tr>' if kind else f"<tr>{cells(row, 'td')}</tr>"
        for row, kind in zip(rows, kinds, strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{cells(head, "th")}</tr></thead><tbody>{body}</tbody></table></div>'


def _estimate(e: dict[str, float], sign: str = "") -> str:
    return f"{e['mean']:{sign}.4f} ({e['low']:{sign}.3f} to {e['high']:{sign}.3f})"


def _ms(row: dict[str, Any]) -> str:
    return f"{row['milliseconds']:.3g}"


def _size(count: float) -> str:
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.3g} {unit}"
    return f"{count / 1000:.3g} TB"
