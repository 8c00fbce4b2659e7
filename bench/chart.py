"""Curves and bars as plain SVG, on axes of powers of ten."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

from bench.report import number

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 380, 70, 190, 34, 44
COLOURS = ("#1565c0", "#c62828", "#2e7d32", "#ef6c00", "#6a1b9a", "#00838f", "#546e7a")


class _Axis:
    """From a value to where it is, by its logarithm."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        logs = [math.log10(value) for value in values]
        self.first, self.last = math.floor(min(logs)), math.ceil(max(logs))
        self._begin = begin
        self._scale = (end - begin) / (self.last - self.first or 1)

    def at(self, value: float) -> float:
        return self._begin + (math.log10(value) - self.first) * self._scale

    @property
    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self.first, self.last + 1)]


def curves(
    title: str,
    across: str,
    series: Mapping[str, Points],
    marks: Mapping[str, float],
) -> str:
    """A curve for each of the series; ``marks`` are values with a line across."""
    shown = {
        name: [(x, y) for x, y in points if y > 0] for name, points in series.items()
    }
    shown = {name: points for name, points in shown.items() if points}
    every = [point for points in shown.values() for point in points]
    x = _Axis([x for x, _ in every], LEFT, WIDTH - RIGHT)
    values = [max(y, 1e-4) for _, y in every]
    y = _Axis([*values, *marks.values()], HEIGHT - BOTTOM, TOP)
    parts = [*_frame(title, WIDTH, HEIGHT), *_grid(x, y, across)]
    for name, value in marks.items():
        at = y.at(value)
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"'
            ' stroke="black" stroke-dasharray="6 3"/>',
            f'<text x="{LEFT + 6}" y="{at - 5:.1f}">{escape(name)}</text>',
        ]
    for number_, (name, points) in enumerate(shown.items()):
        colour = COLOURS[number_ % len(COLOURS)]
        path = " ".join(f"{x.at(a):.1f},{y.at(max(b, 1e-4)):.1f}" for a, b in points)
        key = TOP + 40 + 18 * number_
        parts += [
            f'<polyline points="{path}" fill="none" stroke="{colour}"'
            ' stroke-width="2"/>',
            f'<rect x="{WIDTH - RIGHT + 10}" y="{key - 9}" width="10" height="10"'
            f' fill="{colour}"/>',
            f'<text x="{WIDTH - RIGHT + 26}" y="{key}">{escape(name)}</text>',
        ]
    return "\n".join([*parts, "</svg>\n"])


def bars(title: str, values: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Groups of bars, each with its value at its end."""
    line, left, right = 18, 380, 90
    names = list(dict.fromkeys(name for group in values.values() for name in group))
    count = sum(len(group) for group in values.values())
    height = 50 + line * count + 8 * len(values)
    most = max((v for group in values.values() for v in group.values()), default=1.0)
    scale = (WIDTH - left - right) / (most or 1.0)
    parts = _frame(title, WIDTH, height)
    for number_, name in enumerate(names):
        parts.append(
            f'<text x="{left + 120 * number_}" y="34"'
            f' fill="{COLOURS[number_ % len(COLOURS)]}">{escape(name)}</text>'
        )
    y = 42.0
    for group, members in values.items():
        parts.append(
            f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">'
            f"{escape(group)}</text>"
        )
        for name, value in members.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            width = value * scale
            parts += [
                f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{line - 4}"'
                f' fill="{colour}"/>',
                f'<text x="{left + width + 4:.1f}" y="{y + 12}">{number(value)}'
                f" {escape(unit)}</text>",
            ]
            y += line
        y += 8
    return "\n".join([*parts, "</svg>\n"])


def _frame(title: str, width: float, height: float) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-weight="bold">{escape(title)}</text>',
    ]


def _grid(x: _Axis, y: _Axis, across: str) -> list[str]:
    parts = []
    for tick in x.ticks:
        at = f"{x.at(tick):.1f}"
        parts += [
            f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"'
            ' stroke="#ddd"/>',
            f'<text x="{at}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">'
            f"{tick:,.0f}</text>",
        ]
    for tick in y.ticks:
        at = f"{y.at(tick):.1f}"
        parts += [
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"'
            ' stroke="#ddd"/>',
            f'<text x="{LEFT - 6}" y="{at}" text-anchor="end">{tick:g}</text>',
        ]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}'
        "</text>"
    )
    return parts
