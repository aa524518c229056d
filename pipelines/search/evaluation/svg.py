"""Two plots as SVG text, to stand in a page: no library, no script, no network. Colours come from the page's classes
(`series-0`, `axis`, ...), so that they follow its light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",  # circle
    "M-4,-4h8v8h-8z",  # square
    "M0,-5L5,4H-5z",  # triangle
    "M0,-5.5L5.5,0L0,5.5L-5.5,0z",  # diamond
    "M0,5L5,-4H-5z",  # triangle on its head
    "M-5,-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z",  # plus
)
WIDTH, HEIGHT = 860, 430
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 16, 50
Line = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A measured choice. series: which shape and colour. note: shown on pointing. joined: on the line of those that
    nothing beats. ringed: marked as the one to take, with its interval."""

    x: float
    y: float
    low: float
    high: float
    series: int
    label: str
    note: str
    joined: bool
    ringed: bool


def scatter(points: Sequence[Point], x_label: str, unit: Callable[[float], str], floor: tuple[float, str]) -> str:
    """Points over a logarithmic x. floor: a y to mark, and its name."""
    shown = [value for p in points for value in ((p.low, p.high) if p.ringed else (p.y,))]
    ticks = steps(min(*shown, floor[0]), max(shown))
    xs = [math.log10(p.x) for p in points]
    first, last = min(xs) - 0.08, max(xs) + 0.08

    def across(x: float) -> float:
        return LEFT + (math.log10(x) - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - (y - ticks[0]) / (ticks[-1] - ticks[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [_line((LEFT, up(y), WIDTH - RIGHT, up(y)), "grid") for y in ticks]
    parts += [_text(LEFT - 8, up(y) + 4, f"{y:.2f}", "end") for y in ticks]
    for x in decades(10**first, 10**last):
        parts += [_line((across(x), TOP, across(x), HEIGHT - BOTTOM), "grid")]
        parts += [_text(across(x), HEIGHT - BOTTOM + 18, unit(x), "middle")]
    parts += [
        _line((LEFT, up(floor[0]), WIDTH - RIGHT, up(floor[0])), "floor"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"),
        f'<text transform="translate(14,{(HEIGHT - BOTTOM + TOP) / 2:.0f}) rotate(-90)" text-anchor="middle">nDCG@10'
        "</text>",
    ]
    joined = sorted((p for p in points if p.joined), key=lambda p: p.x)
    path = " ".join(f"{across(p.x):.1f},{up(p.y):.1f}" for p in joined)
    parts.append(f'<polyline points="{path}" class="joined"/>')
    written: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: (p.ringed, p.joined)):
        x, y = across(p.x), up(p.y)
        if p.ringed:
            parts.append(_line((x, up(p.low), x, up(p.high)), f"interval series-{p.series}"))
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" class="ring"/>')
        faint = "" if p.joined or p.ringed else " faint"
        parts.append(
            f'<path d="{SHAPES[p.series]}" transform="translate({x:.1f},{y:.1f})" class="series-{p.series}{faint}">'
            f"<title>{escape(p.note)}</title></path>"
        )
        if p.label and all(abs(x - other) > 26 or abs(y - height) > 12 for other, height in written):
            parts.append(_text(x, y - 15, p.label, "middle"))
            written.append((x, y))
    parts.append(_text(LEFT + 6, up(floor[0]) + 14, floor[1], "start"))
    return _svg(WIDTH, HEIGHT, parts, f"nDCG@10 against {x_label}, {len(points)} points")


def legend(names: Sequence[str]) -> str:
    """Shape, colour and name of each series."""
    return "".join(
        f'<span><svg viewBox="-7 -7 14 14" width="14" height="14" aria-hidden="true"><path d="{SHAPES[at]}" '
        f'class="series-{at}"/></svg>{escape(name)}</span>'
        for at, name in enumerate(names)
    )


def intervals(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """Of each (name, mean, low, high) a line from low to high with a dot at the mean."""
    width, left, step = 330, 104, 30
    height = 34 + step * len(rows) + 26
    ticks = steps(min(low for _, _, low, _ in rows), max(high for *_, high in rows), most=3)

    def across(x: float) -> float:
        return left + (x - ticks[0]) / (ticks[-1] - ticks[0]) * (width - left - 24)

    parts = [f'<text x="{left}" y="16" class="title">{escape(title)}</text>']
    for x in ticks:
        parts.append(_line((across(x), 28, across(x), height - 24), "grid"))
        parts.append(_text(across(x), height - 8, f"{x:.2f}", "middle"))
    for at, (name, mean, low, high) in enumerate(rows):
        y = 34 + step * (at + 0.5)
        parts.append(_text(left - 10, y + 4, name, "end"))
        parts.append(_line((across(low), y, across(high), y), "interval series-0"))
        parts.append(f'<circle cx="{across(mean):.1f}" cy="{y}" r="4.5" class="series-0"/>')
    return _svg(width, height, parts, f"{title}: " + ", ".join(f"{name} {mean:.4f}" for name, mean, *_ in rows))


def steps(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers, evenly apart, from below `low` to above `high`; at most `most` + 2, at least two."""
    span = max(high - low, 1e-3)
    size = next(s for e in range(-4, 5) for s in (10.0**e, 2 * 10.0**e, 5 * 10.0**e) if span / s <= most)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(at * size, 10) for at in range(first, max(last, first + 1) + 1)]


def decades(low: float, high: float) -> list[float]:
    """Powers of ten between the two, with twos and fives in between if there are few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) >= 4:
            break
    return found


def _line(ends: Line, kind: str) -> str:
    x1, y1, x2, y2 = ends
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>' if words else ""


def _svg(width: float, height: float, parts: Sequence[str], description: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(description, quote=True)}">{"".join(parts)}</svg>'
    )
