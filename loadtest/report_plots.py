"""Plots as inline SVG: lines over time and a histogram, readable without colour, at any width, and by a screen reader.

The drawing has 400 units across; the page's style sheet sizes its text. Colours are classes (``s1`` …) of that style
sheet, and each line also has a dash pattern of its own. No template: what is drawn is computed point by point, and its
tags are the last four functions here.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 400, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 16, 26
MOST_COLOURS = 5

TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 21_600, 43_200, 86_400)
MOST_BAR_LABELS = 7

Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A series: seconds since the start, and a value or None where none was measured."""

    name: str
    points: Sequence[tuple[float, float | None]]


@dataclass(frozen=True)
class Level:
    """A value of the vertical axis that is marked all across, as a limit is."""

    name: str
    value: float


def line_plot(
    name: str,
    title: str,
    lines: Sequence[Line],
    shown: Format,
    axis: Format,
    level: Level | None = None,
    binary: bool = False,
) -> str:
    """Return an SVG element of lines over time, from 0 up.

    Args:
        name: unique on the page; ids are made of it.
        title: what a screen reader says first.
        lines: at most five can be told apart.
        shown: makes a value readable, for the description.
        axis: makes the labels of the vertical axis.
        level: drawn unless it would press the lines flat.
        binary: whether round numbers are powers of two, as for bytes.
    """
    values = [value for line in lines for _, value in line.points if value is not None]
    last_s = max((at for line in lines for at, _ in line.points), default=0) or 1
    last_s = math.ceil(last_s / 10) * 10 if last_s > 20 else last_s  # so that the last label is at the end
    highest = max(values, default=0)
    if level and level.value <= 2.5 * highest:
        highest = max(highest, level.value)
    ticks = _ticks(highest or 1, binary)

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at_s / last_s

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]

    step_s = next((step for step in TIME_STEPS_S if last_s / step <= 6), TIME_STEPS_S[-1])
    parts = [_grid([(y(tick), axis(tick)) for tick in ticks])]
    for number in range(int(last_s / step_s) + 1):
        parts.append(_text(x(number * step_s), HEIGHT - 8, time_label(number * step_s, step_s), "middle"))
    if level and level.value <= ticks[-1]:
        parts.append(_path(f"M{LEFT} {y(level.value):.1f}H{WIDTH - RIGHT}", "limit"))
    # The first line is the most telling one and lies on top.
    for number, line in reversed(list(enumerate(lines, start=1))):
        way = _way([(x(at), None if value is None else y(value)) for at, value in line.points])
        parts.append(_path(way, f"s{number}"))
    return _svg(name, title, _described(lines, shown), parts)


def histogram(
    name: str, title: str, bounds: Sequence[float], counts: Sequence[int], shown: Format, marks: Sequence[Level] = ()
) -> str:
    """Return an SVG element of a bar per bucket, from the first that is not empty to the last.

    All bars are equally wide, whatever their bucket spans; ``marks`` are values of the horizontal axis, placed within
    their bucket in proportion.
    """
    first, last = filled(counts)
    bars = counts[first : last + 1]
    edges = [bounds[place - 1] if place else 0.0 for place in range(first, last + 1)]
    edges.append(bounds[last] if last < len(bounds) else math.inf)
    ticks = _ticks(max(bars, default=1) or 1, whole=True)
    width = (WIDTH - LEFT - RIGHT) / max(1, len(bars))

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / ticks[-1]

    parts = [_grid([(y(tick), f"{tick:,.0f}") for tick in ticks])]
    for place, count in enumerate(bars):
        span = bucket(edges[place], edges[place + 1], shown)
        parts.append(
            f'<rect class="bar" x="{LEFT + place * width + 0.5:.1f}" y="{y(count):.1f}" '
            f'width="{max(0.5, width - 1):.1f}" height="{HEIGHT - BOTTOM - y(count):.1f}">'
            f"<title>{escape(span)}: {count:,}</title></rect>"
        )
    every = math.ceil(len(edges) / MOST_BAR_LABELS)
    for place, edge in enumerate(edges):
        if place % every == 0 and math.isfinite(edge):
            parts.append(
                _text(LEFT + place * width, HEIGHT - 8, shown(edge), "end" if place == len(bars) else "middle")
            )
    for mark in marks:
        if (at := _position(mark.value, edges)) is not None:
            parts.append(_path(f"M{LEFT + at * width:.1f} {TOP - 4}V{HEIGHT - BOTTOM}", "mark-line"))
            anchor, shift = ("end", -4) if at > 0.7 * len(bars) else ("start", 4)
            parts.append(_text(LEFT + at * width + shift, TOP - 2, mark.name, anchor, "mark-text"))
    busiest = max(range(len(bars)), key=bars.__getitem__, default=0)
    described = f"{sum(counts):,} in all. " + (
        f"The most, {bars[busiest]:,}: {bucket(edges[busiest], edges[busiest + 1], shown)}." if bars else ""
    )
    return _svg(name, title, described, parts)


def filled(counts: Sequence[int]) -> tuple[int, int]:
    """Return the first and the last place with a count, (0, -1) when all are empty."""
    places = [place for place, count in enumerate(counts) if count]
    return (places[0], places[-1]) if places else (0, -1)


def bucket(lower: float, upper: float, shown: Format) -> str:
    """Say which values a bucket holds."""
    return f"{shown(lower)} to {shown(upper)}" if math.isfinite(upper) else f"above {shown(lower)}"


def time_label(at_s: float, step_s: float = 1) -> str:
    """Return a moment of the run, in the unit that suits the step between labels."""
    if step_s >= 3_600 and at_s:
        return f"{at_s / 3_600:g} h"
    if step_s >= 60 and at_s:
        return f"{at_s / 60:g} min"
    return f"{at_s:g} s"


def _ticks(highest: float, binary: bool = False, whole: bool = False) -> list[float]:
    """Return three to six round values from 0 to at least ``highest``."""
    base = 2 if binary else 10
    power = base ** math.floor(math.log(highest / 5, base))
    step = next(
        power * factor for factor in ((1, 2) if binary else (1, 2, 2.5, 5, 10)) if highest / power / factor <= 5
    )
    step = max(1, math.ceil(step)) if whole else step
    return [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]


def _position(value: float, edges: Sequence[float]) -> float | None:
    for place in range(len(edges) - 1):
        if edges[place] <= value <= edges[place + 1]:
            span = edges[place + 1] - edges[place]
            return place + ((value - edges[place]) / span if math.isfinite(span) else 0.5)
    return None


def _described(lines: Sequence[Line], shown: Format) -> str:
    sentences = []
    for line in lines:
        measured = [(value, at) for at, value in line.points if value is not None]
        if measured:
            highest, at = max(measured)
            sentences.append(f"{line.name}: from {shown(min(measured)[0])} to {shown(highest)}, highest at {at:g} s.")
        else:
            sentences.append(f"{line.name}: not measured.")
    return " ".join(sentences)


def _way(points: Sequence[tuple[float, float | None]]) -> str:
    """Return a path that is interrupted where there is no value; a lone point becomes a dot by its round ends."""
    way, drawing = [], False
    for at, (x, y) in enumerate(points):
        if y is not None:
            alone = not drawing and (at + 1 == len(points) or points[at + 1][1] is None)
            way.append(f"{'L' if drawing else 'M'}{x:.1f} {y:.1f}" + ("h.01" if alone else ""))
        drawing = y is not None
    return "".join(way)


def _grid(ticks: Sequence[tuple[float, str]]) -> str:
    return "".join(
        _path(f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", "grid" if number else "axis") + _text(LEFT - 6, y + 4, label, "end")
        for number, (y, label) in enumerate(ticks)
    )


def _path(way: str, style: str) -> str:
    return f'<path class="{style}" d="{way}"/>'


def _text(x: float, y: float, text: str, anchor: str, style: str = "label") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(name: str, title: str, description: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-desc">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )
