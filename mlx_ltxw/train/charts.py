"""Line charts as SVG: axes, ticks and their units; no script."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 102, 20, 12, 46
_FAINT = 0.35
"""Opacity of a faint line, and of its mark in the legend."""
COLOURS = ("#1b4f8f", "#b3541e", "#2d7d46", "#7b3f98", "#5b5b5b")

Point = tuple[float, float]
Ticks = Sequence[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: In the legend; '' for none.
        points: (x, y), by x.
        colour: CSS.
        faint: Drawn thin and pale: what another line smooths.
        dots: Whether each point is marked.
    """

    name: str
    points: Sequence[Point]
    colour: str
    faint: bool = False
    dots: bool = False


def smoothed(points: Sequence[Point], keep: float) -> list[Point]:
    """The running mean in which each point weighs `keep` times as much as the next, free of the start's bias."""
    mean, weight, out = 0.0, 0.0, []
    for x, y in points:
        mean, weight = keep * mean + (1 - keep) * y, keep * weight + 1 - keep
        out.append((x, mean / weight))
    return out


def thinned(points: Sequence[Point], most: int = 400) -> list[Point]:
    """At most so many points, each the mean of those it stands for."""
    size = max(1, math.ceil(len(points) / most))
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def chart(lines: Sequence[Line], x_title: str, y_title: str, levels: Sequence[str] = ()) -> str:
    """An SVG of some lines.

    Args:
        lines: At least one point among them.
        x_title, y_title: With units.
        levels: Names of y = 0, 1, ...; without, y is a number, from 0.
    """
    points = [point for line in lines for point in line.points]
    right = max(1.0, *(x for x, _ in points))
    top = float(len(levels) - 1) if levels else max(y for _, y in points) or 1.0
    x_ticks, y_ticks = ticks(right), list(enumerate(levels)) if levels else ticks(top)
    right, top = max(right, x_ticks[-1][0]), max(top, y_ticks[-1][0]) or 1.0
    low = -0.3 if levels else 0.0
    top = top + 0.3 if levels else top

    def point(x: float, y: float) -> str:
        across = _LEFT + (WIDTH - _LEFT - _RIGHT) * x / right
        return f"{across:.1f},{_TOP + (HEIGHT - _TOP - _BOTTOM) * (1 - (y - low) / (top - low)):.1f}"

    parts = [_frame(point, right, low, x_ticks, y_ticks), _titles(x_title, y_title)]
    for line in lines:
        path = " ".join(point(x, y) for x, y in line.points)
        width = f'stroke-width="1" opacity="{_FAINT}"' if line.faint else 'stroke-width="2"'
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" {width}/>')
        if line.dots or len(line.points) == 1:
            centres = [point(x, y).split(",") for x, y in line.points]
            parts += [f'<circle cx="{x}" cy="{y}" r="3.5" fill="{line.colour}"/>' for x, y in centres]
    named = [line for line in lines if line.name]
    legend = " ".join(
        f'<span style="color:{line.colour}"><b style="opacity:{_FAINT if line.faint else 1}">&#9644;</b> '
        f"{html.escape(line.name)}</span>"
        for line in named
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{html.escape(y_title)} over {html.escape(x_title)}">{"".join(parts)}</svg>\n'
        f'<p class="legend">{legend}</p>'
    )


def ticks(top: float) -> Ticks:
    """Round numbers from 0 to `top` or just past it, with their text."""
    rough = top / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [(number * step, f"{number * step:.6g}") for number in range(math.ceil(top / step - 1e-9) + 1)]


def _frame(point: Callable[[float, float], str], right: float, low: float, x_ticks: Ticks, y_ticks: Ticks) -> str:
    lines = []
    for x, text in x_ticks:
        across, down = point(x, low).split(",")
        lines.append(f'<text x="{across}" y="{float(down) + 16:.1f}" text-anchor="middle">{text}</text>')
    for y, text in y_ticks:
        start, end = point(0, y).split(","), point(right, y).split(",")
        lines.append(f'<path d="M{",".join(start)} L{",".join(end)}" stroke="#ddd"/>')
        lines.append(
            f'<text x="{float(start[0]) - 8:.1f}" y="{float(start[1]) + 4:.1f}" text-anchor="end">'
            f"{html.escape(text)}</text>"
        )
    return "".join(lines)


def _titles(x_title: str, y_title: str) -> str:
    middle = _TOP + (HEIGHT - _TOP - _BOTTOM) / 2
    return (
        f'<text x="{(_LEFT + WIDTH - _RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(x_title)}</text>'
        f'<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">{html.escape(y_title)}</text>'
    )
