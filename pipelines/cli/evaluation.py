"""The evaluation on a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from pipelines.search.evaluation.measures import MEASURES


def show(console: Console, found: dict[str, Any]) -> None:
    """The stages, the efficient choices and the advice."""
    model = found["model"]
    _say(console, found["table"], "bold")
    _say(
        console,
        f"  {found['queries']:,} queries, {found['judgments']:,} judgments; {found['vectors']:,} vectors of "
        f"{model['dimensions']:,} dimensions in {model['vector_dtype']}",
    )
    for note in found["notes"]:
        _say(console, f"  note: {note}")
    console.print(_stages(found["stages"]))
    _say(console, "  below each number its 95 % interval; as exact: the share of the exact first ten that is found")
    if found["index"] is None:
        _say(console, "  no vector index: every search is exact")
    _say(console, "what would smaller vectors lose?", "bold")
    console.print(_choices(found["choices"]))
    _say(
        console,
        f"  of {len(found['choices'])} those that nothing as small beats, the table as it is (now) and the recommended "
        f"one (take); MB of a million vectors; ms of an exact search of {found['timed_over']:,} by numpy, on this "
        "machine",
    )
    _say(console, f"  {found['cutting']}")
    _say(console, f"recommended: {found['advice']}", "bold")
    _say(console, f"  rule: {found['rule']}")


def _stages(stages: list[dict[str, Any]]) -> Table:
    table = _table("search", *MEASURES, "as exact", "ms")
    for s in stages:
        measured = [f"{s[name]['mean']:.4f}\n{_interval(s[name])}" for name in MEASURES]
        table.add_row(s["stage"], *measured, f"{s['recall@10_of_exact']:.4f}", f"{s['milliseconds']:.3g}")
    return table


def _choices(choices: list[dict[str, Any]]) -> Table:
    table = _table("form", "dim.", "MB", "nDCG@10", "change", "95 %", "ms", "")
    for at, c in enumerate(choices):
        if not (c["efficient"] or c["recommended"] or at == 0):
            continue
        change = c["nDCG@10_change"]
        table.add_row(
            c["form"],
            str(c["dimensions"]),
            f"{c['bytes_per_million_rows'] / 1e6:,.4g}",
            f"{c['nDCG@10']['mean']:.4f}",
            f"{change['mean']:+.4f}",
            _interval(change, "+.3f"),
            f"{c['milliseconds']:.3g}",
            "take" if c["recommended"] else "now" if at == 0 else "",
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)  # fits 80 columns
    for name in names:
        table.add_column(name, no_wrap=True, justify="left" if name == names[0] else "right")
    return table


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(words, style=style, markup=False, soft_wrap=True)


def _interval(e: dict[str, float], form: str = ".3f") -> str:
    return f"{e['low']:{form}} {e['high']:{form}}"
