"""How results look on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pipelines.checkpoint import Certificate

SNIPPET = 200


def fields(console: Console, title: str, values: dict[str, Any]) -> None:
    """A title and aligned `name value` lines; nested values on one line each."""
    console.print(title, style="bold", markup=False)
    grid = Table.grid(padding=(0, 2))
    for name, value in values.items():
        grid.add_row(Text(f"  {name.replace('_', ' ')}", style="dim"), Text(_shown(value)))
    console.print(grid)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(v) for v in value) or "-"
    return str(value)


def certificate(console: Console, c: Certificate) -> None:
    """The account of a run: does it add up?"""
    lines: dict[str, Any] = {
        "rows in the corpus": c.rows,
        "= embedded": c.embedded_rows,
        "+ with a reason": f"{c.bad_rows:,}" + (f" ({_shown(c.reasons)})" if c.reasons else ""),
    }
    if c.deleted_rows:
        lines["+ deleted since"] = c.deleted_rows
    if c.missing_rows:
        lines["+ MISSING"] = c.missing_rows
    lines |= {
        "vectors": c.records - sum(c.reasons.values()),
        "tokens": c.tokens,
        "texts truncated": c.truncated,
        "shards, units": f"{c.shards:,}, {c.units:,}",
        "table": f"{c.table}, version {c.version}",
        "fingerprint": c.fingerprint,
    }
    if c.stale_rows:
        lines["stale rows"] = (
            f"{c.stale_rows:,} of shards no longer in the corpus (run.stale_rows: delete removes them)"
        )
    fields(console, "certificate: the sums add up" if c.adds_up else "certificate: THE SUMS DO NOT ADD UP", lines)
    for failure in c.failures:
        console.print(f"  failed: {failure}", markup=False, soft_wrap=True)
    if not c.adds_up:
        console.print("  The same command tries again what is missing; nothing is embedded twice.")


def status(console: Console, s: dict[str, Any]) -> None:
    done = f"{s['rows']:,}" + (f" of {s['corpus_rows']:,}" if s["corpus_rows"] is not None else "")
    units = f"{s['units']:,}" + (f" of {s['units_total']:,}" if s["units_total"] is not None else "")
    model = s["model"]
    fields(
        console,
        s["table"],
        {
            "rows": done,
            "units": f"{units} ({s['rows_per_unit']:,} rows each)",
            "vectors": s["records"] - sum(s["reasons"].values()),
            "tokens": s["tokens"],
            "truncated": s["truncated"],
            "bad rows": f"{s['bad_rows']:,}" + (f" ({_shown(s['reasons'])})" if s["reasons"] else ""),
            "size": f"{s['bytes'] / 1e6:,.1f} MB in {s['fragments']:,} fragment(s)",
            "version": f"{s['version']:,} ({s['versions_kept']:,} kept)",
            "last commit": f"{s['last_commit'] or 'unknown'} by run {s['last_run'] or 'unknown'}",
            "model": f"{model['weights_name']}, {model['dimensions']} dimensions, {model['dtype']}",
            "fingerprint": s["fingerprint"],
            "indices": s["indices"],
        },
    )
    for row in s["first_bad_rows"]:
        console.print(f"  {row['_reason']}: {row['_detail']}", markup=False, soft_wrap=True)
    if s["bad_rows"] > len(s["first_bad_rows"]):
        console.print(f"  ... {s['bad_rows'] - len(s['first_bad_rows']):,} more (--bad-rows N)", markup=False)


def verdict(console: Console, v: Any) -> None:
    for check in v.checks:
        mark = Text("ok   " if check.ok else "DOUBT", style="green" if check.ok else "bold red")
        console.print(Text("  ") + mark + Text(f"  {check.name}: {check.found}"), soft_wrap=True)
    certificate(console, v.certificate)
    console.print("verified" if v.ok else "NOT VERIFIED: see the lines marked DOUBT", style="bold")


def hits(console: Console, query: str, found: list[Any]) -> None:
    console.print(f"{query}", style="bold", markup=False)
    if not found:
        console.print("  nothing found")
    for hit in found:
        console.print(Text(f"  {hit.score:.3f}  ", style="cyan") + Text(hit.id, style="bold"), soft_wrap=True)
        for name, value in hit.columns.items():
            if name in ("_chunk", "_start", "_end") or value is None:
                continue
            text = " ".join(str(value).split())
            shown = text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"
            console.print(Padding(Text(f"{name}: {shown}", style="dim"), (0, 0, 0, 9)))
