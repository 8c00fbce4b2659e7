"""What is drawn, as SVG: no script, no style in it, and words for who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from liveness.cmd.output import span
from liveness.cmd.recent import HOUR, Recent, Takeover
from liveness.cmd.web.html import e, short

LEFT, WIDTH, RIGHT = 64, 960, 36
"""Of a plot: the axis, an hour, and what is so now."""

MINUTE = WIDTH / 60
LANE = 30
LANES = 10
"""Takeovers that are drawn."""

# --- a lease ------------------------------------------------------------------------

BAR = 120


def lease(left: float, ttl: float) -> str:
    """What is left of a lease, as a bar that is full when it is whole."""
    part = min(max(left / ttl, 0.0), 1.0)
    how = "good" if part > 0.5 else "low" if part > 0 else "over"
    said = f"{left:.1f} s of {ttl:g} s left" if left > 0 else "over"
    return (
        f'<svg class="bar" width="{BAR}" height="12" role="img" aria-label="{said}">'
        f'<rect class="track" width="{BAR}" height="12" rx="2"/>'
        f'<rect class="{how}" width="{part * BAR:.1f}" height="12" rx="2"/></svg>'
    )


# --- lateness -----------------------------------------------------------------------

HIGH = 170
LEAST = 0.005
TICKS = {
    0.01: "10 ms",
    0.1: "0.1 s",
    1: "1 s",
    10: "10 s",
    100: "100 s",
    1000: "17 min",
}


def lateness(recent: Recent, now: datetime, late: float | None, grace: float) -> str:
    """How late claims were in each minute, and on the right how late is what is not
    claimed yet. The scale is logarithmic."""
    worst = max([grace, late or 0.0, *(m.most for m in recent.minutes.values())])
    top = next((tick for tick in TICKS if tick >= worst), worst * 1.2)
    top = max(top, 10)

    def y(value: float) -> float:
        part = math.log(max(value, LEAST) / LEAST) / math.log(top / LEAST)
        return HIGH - part * (HIGH - 14)

    marks = [
        f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH + RIGHT}" y1="{y(at):.1f}"'
        f' y2="{y(at):.1f}"/><text class="axis" x="{LEFT - 8}" y="{y(at) + 4:.1f}"'
        f' text-anchor="end">{name}</text>'
        for at, name in TICKS.items()
        if at <= top
    ]
    marks += _time_axis(now, HIGH)
    if LEAST < grace <= top:
        marks.append(
            f'<line class="limit" x1="{LEFT}" x2="{LEFT + WIDTH + RIGHT}"'
            f' y1="{y(grace):.1f}" y2="{y(grace):.1f}"><title>others may claim after'
            f" {span(grace)}</title></line>"
        )
    for start, minute in sorted(recent.minutes.items()):
        x = _x(start, now)
        if x < LEFT or x > LEFT + WIDTH or not minute.claimed:
            continue
        half, most = minute.within(0.5), minute.most
        marks.append(
            f"<g><title>{start:%H:%M}: {minute.claimed} claimed, half within"
            f" {span(half)}, the latest {span(most)}</title>"
            f'<rect class="most" x="{x:.1f}" y="{y(most):.1f}" width="{MINUTE - 2:.1f}"'
            f' height="{HIGH - y(most):.1f}"/>'
            f'<rect class="half" x="{x:.1f}" y="{y(half):.1f}" width="{MINUTE - 2:.1f}"'
            f' height="{HIGH - y(half):.1f}"/></g>'
        )
    if late is not None:
        x, up = LEFT + WIDTH + RIGHT / 2, y(late)
        marks.append(
            f'<path class="now" d="M{x} {up - 7:.1f} l7 7 l-7 7 l-7 -7 z"><title>'
            f"due for {span(late)} and not claimed</title></path>"
        )
    return _figure(HIGH + 26, _said(recent, late), marks)


def _said(recent: Recent, late: float | None) -> str:
    claimed = sum(minute.claimed for minute in recent.minutes.values())
    worst = max((minute.most for minute in recent.minutes.values()), default=0.0)
    words = f"{claimed} deadlines claimed in the last hour"
    words += f", the latest {span(worst)} after it was due" if claimed else ""
    now = "nothing is due" if late is None else f"one is due for {span(late)}"
    return f"Lateness by minute: {words}; now {now}."


# --- takeovers ----------------------------------------------------------------------


def timeline(recent: Recent, now: datetime) -> str:
    """A lane for each engine whose deadlines moved, with a cross where it ended and a
    disc where others took them."""
    shown = recent.takeovers[:LANES]
    high = LANE * len(shown) + 8
    marks = _time_axis(now, high)
    for row, takeover in enumerate(shown):
        marks += _lane(takeover, LANE * row + LANE / 2 + 4, now)
    said = "; ".join(told(takeover) for takeover in shown)
    return _figure(high + 26, f"Takeovers in the last hour: {said}.", marks, 100)


def told(takeover: Takeover) -> str:
    """A takeover in a sentence, as plain text."""
    words = [f"{takeover.victim or 'nobody'}"]
    if takeover.ended:
        words.append(f"{takeover.ended} at {takeover.ended_at:%H:%M:%S}")
    if takeover.ended == "fenced":
        words.append(f"by {takeover.by or 'an operator'}")
    heirs = ", ".join(f"{n} to {heir}" for heir, n in takeover.heirs.most_common(3))
    more = ", and others" if len(takeover.heirs) > 3 else ""
    return " ".join(words) + (f": {heirs}{more}" if heirs else ": had nothing")


def _lane(takeover: Takeover, y: float, now: datetime) -> list[str]:
    begin = _x(takeover.at, now)
    end = max(begin, _x(takeover.last or takeover.at, now))
    name = short(takeover.victim) if takeover.victim else "no owner"
    marks = [
        f'<line class="grid" x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y}" y2="{y}"/>',
        f'<text class="lane" x="{LEFT - 8}" y="{y + 4}" text-anchor="end">'
        f"{name}</text>",
        f'<line class="span" x1="{begin:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}"/>',
    ]
    if takeover.ended_at:
        x = _x(takeover.ended_at, now)
        shape = (
            "M-5 -5 L5 5 M-5 5 L5 -5"
            if takeover.ended == "fenced"
            else "M-4 -5 V5 M4 -5 V5"
        )
        marks.append(
            f'<path class="{takeover.ended}" transform="translate({x:.1f} {y})"'
            f' d="{shape}"/>'
        )
    number = takeover.moved.total()
    if number and takeover.first:
        x = max(_x(takeover.first, now), begin + (12 if takeover.ended_at else 0))
        size = min(4 + math.log10(number) * 2, 11)
        marks.append(f'<circle class="taken" cx="{x:.1f}" cy="{y}" r="{size:.1f}"/>')
        end = max(end, x + size)
    marks.append(_label(takeover, begin, end, y))
    return [f"<g><title>{e(told(takeover))}</title>{''.join(marks)}</g>"]


def _label(takeover: Takeover, begin: float, end: float, y: float) -> str:
    """Beside the marks, on the side with more room."""
    heirs = takeover.heirs.most_common(2)
    parts = [f"{n} to {short(heir)}" for heir, n in heirs]
    if len(takeover.heirs) > 2:
        parts.append(f"{takeover.moved.total() - sum(n for _, n in heirs)} to others")
    text = ", ".join(parts) or "had nothing"
    if begin - LEFT > LEFT + WIDTH - end:
        where = f'x="{begin - 12:.1f}" text-anchor="end"'
    else:
        where = f'x="{end + 12:.1f}"'
    return f'<text class="lane" {where} y="{y + 4}">{text}</text>'


# --- what they share ----------------------------------------------------------------


def _x(at: datetime, now: datetime) -> float:
    """Where a moment of the last hour is; the present is on the right."""
    ago = min(max((now - at) / HOUR, 0.0), 1.0 + 1 / 60)
    return LEFT + WIDTH * (1 - ago)


def _time_axis(now: datetime, high: float) -> list[str]:
    marks = []
    for minutes in range(60, -1, -10):
        at = now - timedelta(minutes=minutes)
        x = LEFT + WIDTH - minutes * MINUTE
        marks.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{high}"/>'
            f'<text class="axis" x="{x:.1f}" y="{high + 18}" text-anchor="middle">'
            f"{at:%H:%M}</text>"
        )
    return marks


def _figure(high: float, said: str, marks: Sequence[str], left: int = 0) -> str:
    """``left``: room for names, besides that for numbers."""
    wide = left + LEFT + WIDTH + RIGHT
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="plot"><svg'
        f' class="plot" viewBox="{-left} 0 {wide} {high}" role="img"'
        f' aria-label="{e(said)}">' + "".join(marks) + "</svg></div>"
    )
