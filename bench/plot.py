"""One drawing for each part: ratios to the floor as bars, the goal as a mark. Plain
SVG, so that it needs nothing and diffs well."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

from bench.report import number
from bench.rounds import Goal, Row

WIDTH, LEFT, RIGHT, LINE = 860, 420, 70, 20
COLOURS = {True: "#2e7d32", False: "#c62828", None: "#546e7a"}


def drawn(rows: Sequence[Row]) -> list[Row]:
    """The rows that have something to be compared with: a floor, or a goal."""
    return [row for row in rows if row.ratio is not None or row.goal is not None]


def share(row: Row) -> tuple[float, float | None]:
    """What the bar shows, and where its goal is: both in units of the floor, or of the
    goal where there is no floor."""
    goal = Goal.parse(row.goal) if row.goal else None
    if row.ratio is not None:
        return row.ratio, goal.limit if goal and goal.of == "ratio" else None
    assert goal is not None
    return (row.value / goal.limit if goal.limit else row.value), 1.0


def svg(title: str, rows: Sequence[Row]) -> str:
    """The drawing; empty without rows that can be drawn."""
    shown = drawn(rows)
    if not shown:
        return ""
    shares = [share(row) for row in shown]
    # A bar that is far beyond the others would make them all invisible.
    most = min(max(max(value, goal or 0.0) for value, goal in shares), 4.0) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / most
    height = LINE * (len(shown) + 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="8" y="16" font-weight="bold">{escape(title)}</text>',
    ]
    for line, (row, (value, goal)) in enumerate(zip(shown, shares, strict=True), 1):
        y = LINE * line + 6
        width = min(value, most) * scale
        name = escape(f"{row.name} ({row.database})")
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 12}" text-anchor="end">{name}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{LINE - 5}"'
            f' fill="{COLOURS[row.met]}"/>',
            f'<text x="{LEFT + width + 4:.1f}" y="{y + 12}">{number(value)}</text>',
        ]
        if goal is not None and goal <= most:
            x = LEFT + goal * scale
            parts.append(
                f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 2}" y2="{y + LINE - 3}"'
                ' stroke="black" stroke-width="2"/>'
            )
    return "\n".join([*parts, "</svg>\n"])
