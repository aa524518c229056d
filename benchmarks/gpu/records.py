"""The lines of gpu.jsonl: what each step gave, written at once, read by the worker that comes after one that died.

A line is {"step", "begins": true}, or {"step", "seconds", and "result" or "error" or both, "with", "where"}. A result
has `said`, for people, and `right`, absent where there is nothing to be right about.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "gpu.jsonl"


def begin(out: Path) -> None:
    """No records yet."""
    (out / FILE).write_text("")


def append(out: Path, record: dict[str, Any]) -> None:
    """One more line."""
    with (out / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, default=float) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    """All records; not a last line that is only half written."""
    return [json.loads(line) for line in (out / FILE).read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def finished(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records of steps that ended, well or not."""
    return [record for record in records if "seconds" in record]


def passed(record: dict[str, Any]) -> bool:
    """Whether a finished step ran to its end and found nothing wrong."""
    return "error" not in record and bool(record["result"].get("right", True))


def line(record: dict[str, Any]) -> str:
    """What a finished step found, for people."""
    failed = f"FAILED: {(record['error'].splitlines() or [''])[0]}; " if "error" in record else ""
    said = record.get("result", {}).get("said") or ("" if failed else "done")
    instead = record.get("with", {}).get("instead", [])
    noted = f"  [{'; '.join(instead)}]" if instead else ""
    return f"{record['step']:28} {record['seconds']:6.1f} s  {failed}{said}".rstrip("; ") + noted


def verdict(records: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """Which of the named steps were not run, and which did not pass."""
    done = finished(records)
    missing = [name for name in names if name not in {record["step"] for record in done}]
    wrong = [record["step"] for record in done if not passed(record)]
    said = [f"not run, because the time was up: {', '.join(missing)}" if missing else "every step was run"]
    return "\n".join([*said, *([f"failed or not right: {', '.join(wrong)}"] if wrong else [])])
