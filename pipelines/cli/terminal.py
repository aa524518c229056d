"""How results look on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from pipelines.cli.display import duration

if TYPE_CHECKING:  # these import Lance, numpy and more; `vectormill --help` needs none of it
    from pipelines.corpus.broken import BrokenFile
    from pipelines.maintenance.optimize import Optimized
    from pipelines.maintenance.status import Status
    from pipelines.maintenance.verify import Verdict
    from pipelines.run.certificate import Certificate
    from pipelines.run.forecast import Forecast
    from pipelines.search.bulk import BulkSearched
    from pipelines.search.query import Hit
    from pipelines.table.index.records import IndexState
    from pipelines.tasks.task import Words

SNIPPET = 200


def fields(console: Console, title: str, values: dict[str, Any]) -> None:
    """A title and aligned `name  value` lines, which the terminal may wrap but a pipe gets whole."""
    console.print(title, style="bold", markup=False, soft_wrap=True)
    names = [name.replace("_", " ") for name in values]
    width = max(map(len, names), default=0)
    for name, value in zip(names, values.values(), strict=True):
        console.print(Text(f"  {name:<{width}}  ", style="dim") + Text(_shown(value)), soft_wrap=True)


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


def _words(task: str) -> Words:
    """Of a task, also of the one that no job file asks for. Imported here: what needs words has imported tasks."""
    from pipelines.search.task import SearchTask
    from pipelines.tasks.registry import TASKS

    return TASKS[task].words if task in TASKS else SearchTask.words


def certificate(console: Console, c: Certificate, task: str = "embed") -> None:
    """The account of a run: does it add up?"""
    words = _words(task)
    lines: dict[str, Any] = {
        "rows in the corpus": c.rows,
        f"= {words.done}": c.embedded_rows,
        "+ with a reason": f"{c.bad_rows:,}" + (f" ({_shown(c.reasons)})" if c.reasons else ""),
    }
    exceptions = {
        "+ deleted since": max(0, c.deleted_rows),
        "+ MISSING": max(0, c.missing_rows),
        "+ UNKNOWN, in files": sum(file.rows is None for file in c.broken_files),
        "- TOO MANY": -min(c.missing_rows, 0) - min(c.deleted_rows, 0),
        "in two units": c.overlapping_rows,
        "LACK PASSAGES": c.incomplete_rows,
        "ids of several rows": c.duplicate_ids,
    }
    lines |= {name: count for name, count in exceptions.items() if count}
    lines |= {
        words.results: c.records - sum(c.reasons.values()),
        "tokens": c.tokens,
        "texts truncated": c.truncated,
        "shards, units": f"{c.shards:,}, {c.units:,}",
        "table": f"{c.table}, version {c.table_version}",
        "fingerprint": c.fingerprint,
        "ids, pairs": f"{c.id_digest}, {c.pair_digest}",
    }
    if c.stale_rows:
        lines["stale rows"] = (
            f"{c.stale_rows:,} of shards no longer in the corpus (run.stale_rows: delete removes them)"
        )
    fields(console, "certificate: the sums add up" if c.adds_up else "certificate: THE SUMS DO NOT ADD UP", lines)
    for failure in c.failures:
        console.print(f"  failed: {failure}", markup=False, soft_wrap=True)
    _broken(console, c.broken_files)
    if c.missing_rows < 0 or c.overlapping_rows:
        console.print("  Another program wrote to the table: see docs/operations.md, or use a new table.name.")
    elif c.incomplete_rows:
        console.print("  Records of these rows were deleted from the table: `vectormill verify` says how many.")
    elif not c.adds_up:
        console.print(f"  The same command tries again what is missing; nothing is {words.done} twice.")


def _broken(console: Console, files: Sequence[BrokenFile]) -> None:
    """Each by its full path, and what is known of its rows."""
    for file in files:
        rows = "rows unknown" if file.rows is None else f"{file.rows:,} rows"
        console.print(f"  cannot be read ({rows}): {file}", markup=False, soft_wrap=True)


def searched(console: Console, found: BulkSearched) -> None:
    """What `bulk-search` did."""
    c = found.certificate
    lines = {
        "queries": c.rows,
        "= searched": c.embedded_rows,
        "+ with a reason": f"{c.bad_rows:,}" + (f" ({_shown(c.reasons)})" if c.reasons else ""),
        "MISSING": c.missing_rows,
        "hits": found.hits,
        "searched": f"{found.searched}, version {found.searched_version}",
        "table": f"{found.table}, version {c.table_version}",
        "ids, hits": f"{c.id_digest}, {c.pair_digest}",
    }
    if not c.missing_rows:
        lines.pop("MISSING")
    fields(console, f"every query is accounted for: {found.out}" if c.adds_up else "QUERIES ARE MISSING", lines)
    for failure in c.failures:
        console.print(f"  failed: {failure}", markup=False, soft_wrap=True)
    _broken(console, c.broken_files)


def status(console: Console, s: Status) -> None:
    """What `vectormill status` found."""
    done = f"{s.rows:,}" + (f" of {s.corpus_rows:,}" if s.corpus_rows is not None else "")
    units = f"{s.units:,}" + (f" of {s.units_total:,}" if s.units_total is not None else "")
    dimensions = [f"{s.model['dimensions']} dimensions"] if "dimensions" in s.model else []
    committed = when(s.last_commit) if s.last_commit else "not in the versions that are kept"
    fields(
        console,
        s.table,
        {
            "rows": done,
            "units": f"{units} (up to {s.rows_per_unit:,} rows each)",
            _words(s.task).results: s.records - sum(s.reasons.values()),
            "tokens": s.tokens,
            "texts truncated": s.truncated,
            "bad rows": f"{s.bad_rows:,}" + (f" ({_shown(s.reasons)})" if s.reasons else ""),
            "size": f"{size(s.bytes)} in {s.fragments:,} fragment(s)",
            "version": f"{s.version:,} ({s.versions_kept:,} kept)",
            "last commit": committed + (f", run {s.last_run}" if s.last_run else ""),
            "model": ", ".join([s.model["weights_name"], *dimensions, s.model["dtype"]]),
            **{f"replicas: {name}": ", ".join(values) for name, values in (s.computed_with or {}).items()},
            "fingerprint": s.fingerprint,
            "vector index": vector_index(s.vector_index) if s.vector_index else "none: searches are exact",
            "indices": s.indices or "none",
        },
    )
    if s.broken_files:
        console.print(f"  When last looked at, {len(s.broken_files):,} file(s) of the corpus could not be read:")
        _broken(console, s.broken_files)
    for row in s.first_bad_rows:
        console.print(f"  {row['_reason']}: {row['_detail']}", markup=False, soft_wrap=True)
    if s.first_bad_rows and s.bad_rows > len(s.first_bad_rows):
        console.print(f"  ... {s.bad_rows - len(s.first_bad_rows):,} more (--bad-rows N)", markup=False)


def when(stamp: str) -> str:
    """`2026-11-23T15:48:36.088+00:00` as `2026-11-23 15:48:36 UTC (2 min 05 s ago)`."""
    then = datetime.fromisoformat(stamp)
    return f"{then:%Y-%m-%d %H:%M:%S} UTC ({duration((datetime.now(UTC) - then).total_seconds())} ago)"


def size(count: float) -> str:
    """`1234567` bytes as `1.2 MB`."""
    if count < 1000:
        return f"{count:,.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:,.1f} {unit}"
    return f"{count / 1000:,.1f} TB"


def forecast(console: Console, f: Forecast) -> None:
    """What `vectormill plan` found."""
    words = f.words
    lines = {
        "corpus": f.corpus,
        "rows": f"{f.rows:,} in {f.shards:,} shard(s)",
        "already in the table": f.rows - f.rows_to_do,
        "to embed": f"{f.rows_to_do:,} rows in {f.units_to_do:,} unit(s) of up to {f.rows_per_unit:,}",
        "tokens": f"about {f.tokens:,} ({f.tokens_per_row:,} a row)",
        words.results: f"about {f.records:,} ({size(f.record_bytes)})",
        "time": "unknown for this model"
        if f.replica_hours is None
        else f"about {duration(f.replica_hours * 3600)} of one replica",
        "table": f.table,
        "fingerprint": f.fingerprint,
    }
    if f.stale_rows:
        lines["stale rows"] = f"{f.stale_rows:,} of shards no longer in the corpus"
    if f.broken_files:
        lines["files that cannot be read"] = f"{len(f.broken_files):,}; their rows are in none of these numbers"
    if f.exchange:
        lines["same rows again"] = str(f.exchange)
    fields(console, f"forecast; no {words.result} was made", lines)
    _broken(console, f.broken_files)


def optimized(console: Console, o: Optimized) -> None:
    """What `vectormill optimize` did."""
    index = o.index
    lines: dict[str, Any] = {
        "fragments": f"{o.fragments_before:,} before, {o.fragments_after:,} now",
        "vector index": f"{index.action}: " + (vector_index(index.index) if index.index else str(index.why)),
    }
    if index.index and index.why:
        lines["why"] = index.why
    lines |= {
        "other indexes": o.other_indexes or "nothing to do",
        "removed": f"{o.versions_removed:,} old version(s), {size(o.bytes_removed)}",
        "version": o.version,
    }
    fields(console, f"optimized {o.table}", lines)


def vector_index(index: IndexState) -> str:
    """A vector index in a line: `IVF_SQ, 262.1 MB, recall@10 0.981 ± 0.006 over 128 queries, ...`."""
    parts = [index.type, size(index.bytes), f"{index.unindexed_rows:,} rows outside it"]
    if index.recall is None:
        return ", ".join([*parts, "recall not measured (`vectormill optimize`)"])
    parts.append(f"recall@10 {index.recall:.3f} ± {index.recall_margin:.3f} over {index.queries} queries")
    parts.append(f"{index.nprobes:,} of {index.partitions:,} partitions probed")
    return ", ".join(parts + ([f"refine {index.refine_factor}"] if index.refine_factor else []))


def verdict(console: Console, v: Verdict, task: str) -> None:
    """What `vectormill verify` found."""
    for check in v.checks:
        mark = Text("ok   " if check.ok else "DOUBT", style="green" if check.ok else "bold red")
        console.print(Text("  ") + mark + Text(f"  {check.name}: {check.found}"), soft_wrap=True)
    certificate(console, v.certificate, task)
    console.print("verified" if v.ok else "NOT VERIFIED: see the lines marked DOUBT", style="bold")


def diagnosis(console: Console, lines: list[tuple[bool | None, str]]) -> None:
    """What `vectormill doctor` found: lines with their verdicts; a line at the margin is a title."""
    for ok, line in lines:
        title = "" if line.startswith(" ") else "bold"
        style = {True: "green", False: "bold red", None: title}[ok]
        console.print(line, style=style, markup=False, soft_wrap=True)


def hits(console: Console, query: str, found: list[Hit]) -> None:
    """What a search found: the score that orders the list, the id, where it comes from, the text and the columns."""
    console.print(f"{query}", style="bold", markup=False)
    if not found:
        console.print("  nothing found")
    cut = any(hit.chunk for hit in found)
    for hit in found:
        line = Text(f"  {hit.score:.3f}  ", style="cyan") + Text(hit.id, style="bold")
        console.print(line + Text(_origin(hit, cut), style="dim"), soft_wrap=True)
        shown = {"text": hit.text, **hit.columns} if hit.text else hit.columns
        for name, value in shown.items():
            if value is None or (name != "text" and hit.text and _repeats(value, hit.text)):
                continue
            text = " ".join(str(value).split())
            snippet = text if len(text) <= SNIPPET else text[: SNIPPET - 1] + "…"
            console.print(Padding(Text(f"{name}: {snippet}", style="dim"), (0, 0, 0, 9), expand=False))


def _origin(hit: Hit, cut: bool) -> str:
    """`   similarity 0.412, 7th before reranking; passage 2, characters 1,204 to 2,311`, as far as it says anything."""
    said = [f"similarity {hit.similarity:.3f}"] if hit.similarity not in (None, hit.score) else []
    if hit.relevance is not None:
        said.append(f"was number {hit.first_rank}")
    if cut:
        said.append(f"passage {hit.chunk}, characters {hit.start:,} to {hit.end:,}")
    return "   " + ", ".join(said) if said else ""


def _repeats(value: Any, text: str) -> bool:
    """Whether a carried column is long and says the passage again: its beginning is in it, or it holds all of it."""
    start = SNIPPET // 4
    return isinstance(value, str) and len(value) > start and (value[:start] in text or text in value)
