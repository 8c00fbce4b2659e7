"""The pages of the whole fleet."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from liveness.cmd.glance import ENGINES, PARKED, Fleet, alive, state_of, troubled_first
from liveness.cmd.output import span
from liveness.cmd.recent import Recent, Takeover
from liveness.cmd.web import plots
from liveness.cmd.web.frame import (
    Frame,
    deadline_link,
    events,
    heading,
    legend,
    moment,
    nothing_if,
    page,
    search_link,
)
from liveness.cmd.web.html import count, e, link, listed, named, table
from liveness.cmd.web.look import ROWS

if TYPE_CHECKING:
    from liveness.db.report import ShownEngine

FEW = 20
"""Engines on the first page; the others have one of their own."""


def overview(seen: Fleet, frame: Frame) -> str:
    """Everything at a glance."""
    recent, shown = seen.recent, troubled_first(seen.engines)
    sections = [
        _tiles(seen),
        heading("Engines", _how_many(seen.engines)),
        _engines(shown[:FEW], frame),
        _all_engines(shown),
        heading("Lateness", "of deadlines claimed in the last hour, by minute"),
        _lateness(seen),
        heading("Takeovers", "in the last hour"),
        _takeovers(recent, seen.now, frame),
        heading("Deadlines", "by kind and state"),
        _counts(seen),
        heading("Parked", "given up, kept for the operator"),
        _parked(seen, frame),
        heading("Latest events", "what engines did out of turn"),
        events(recent.events, frame),
        _bounds(recent),
    ]
    title = f"liveness: {alive(seen.engines)} live"
    return page(title, sections, frame, seen.now, "/")


def engines(seen: Fleet, frame: Frame) -> str:
    """Every engine."""
    sections = [
        heading("Engines", _how_many(seen.engines)),
        _engines(troubled_first(seen.engines), frame),
    ]
    return page("liveness: engines", sections, frame, seen.now, "/engines")


def _tiles(seen: Fleet) -> str:
    from liveness.db.report import COUNTED

    totals = {state: sum(kinds.values()) for state, kinds in seen.counts.items()}
    live = alive(seen.engines)
    lapsed = sum(state_of(shown) == "lapsed" for shown in seen.engines)
    parked = totals["parked"]
    late = "nothing" if seen.late is None else span(seen.late)
    tiles = [
        (
            "wrong" if lapsed or not live else "fine",
            "engines live",
            str(live),
            _leases(live, lapsed),
        ),
        (
            "wrong" if seen.overdue else "fine",
            "due and not claimed",
            late,
            f"{count(seen.overdue, COUNTED)} for longer than the head start of"
            f" {span(seen.grace)}",
        ),
        (
            "warn" if seen.recent.moved else "fine",
            "taken over in the last hour",
            count(seen.recent.moved, COUNTED),
            f"from {len(seen.recent.takeovers)} owners",
        ),
        (
            "warn" if parked else "fine",
            "parked",
            count(parked, COUNTED),
            "wait for an operator" if parked else "nothing waits for an operator",
        ),
        (
            "fine",
            "armed",
            count(totals["armed"], COUNTED),
            f"and {count(totals['claimed'], COUNTED)} claimed, in a handler's hands",
        ),
    ]
    items = "".join(
        f'<li class="{how}">{name}<b>{value}</b><small>{more}</small></li>'
        for how, name, value, more in tiles
    )
    return f'<ul class="tiles">{items}</ul>'


def _leases(live: int, lapsed: int) -> str:
    if not live:
        return "nobody does the work"
    return f"{lapsed} of them with a lapsed lease" if lapsed else "every lease is good"


def _how_many(shown: list[ShownEngine]) -> str:
    living = alive(shown)
    text = f"{living} alive, {len(shown) - living} ended"
    return f"{text}; the first {ENGINES} by id" if len(shown) == ENGINES else text


def _engines(shown: Iterable[ShownEngine], frame: Frame) -> str:
    names = ("state", "lease", "left", "engine", "host", "pid", "how it ended")
    rows = [_engine(each, frame) for each in shown]
    return table("Engines", names, rows, "No engine.", ("pid", "left"))


def _engine(shown: ShownEngine, frame: Frame) -> list[str]:
    engine, left, state = shown.engine, shown.lease_left, state_of(shown)
    bar = said = ended = ""
    if left is not None:
        bar = plots.lease(left, engine.ttl)
        said = f"{left:.1f} s"
        if left <= 0:
            said = f'<span class="bad">{said}</span>'
    elif engine.ended_at is not None:
        by = f" by {named(engine.fenced_by)}" if engine.fenced_by else ""
        why = f": {frame.text(engine.fence_evidence)}" if engine.fence_evidence else ""
        ended = f"{moment(engine.ended_at, shown.now)}{by}{why}"
    return [
        f'<span class="state {e(state)}">{e(state)}</span>',
        bar,
        said,
        f'<span class="id">{e(engine.id)}</span>',
        f'<span class="clip" title="{e(engine.host)}">{e(engine.host)}</span>',
        str(engine.pid),
        ended,
    ]


def _all_engines(shown: list[ShownEngine]) -> str:
    if len(shown) <= FEW:
        return ""
    all_of_them = link("/engines", f"All {len(shown)} engines")
    return f"<p>The {FEW} that need a look first. {all_of_them}</p>"


# --- the last hour ------------------------------------------------------------------


def _lateness(seen: Fleet) -> str:
    recent = seen.recent
    marks = legend(
        ('<rect class="half" width="12" height="12"/>', "half of them within"),
        ('<rect class="most" width="12" height="12"/>', "the latest"),
        (
            '<path class="now" d="M6 0 l6 6 l-6 6 l-6 -6 z"/>',
            "due now and not claimed yet",
        ),
        (
            '<line class="limit" x1="0" x2="14" y1="6" y2="6"/>',
            f"other engines may claim it ({span(seen.grace)})",
        ),
    )
    rows = [
        [
            f"{start:%H:%M}",
            f"{minute.claimed}",
            span(minute.within(0.5)),
            span(minute.within(0.99)),
            span(minute.most),
        ]
        for start, minute in sorted(recent.minutes.items(), reverse=True)
    ]
    names = ("minute", "claimed", "half within", "99 % within", "the latest")
    figures = table("Lateness by minute", names, rows, "Nothing.", names[1:])
    return (
        plots.lateness(recent, seen.now, seen.late, seen.grace)
        + marks
        + nothing_if(not recent.minutes, "Nothing was claimed in the last hour.")
        + f"<details><summary>The same as a table</summary>{figures}</details>"
    )


def _takeovers(recent: Recent, now: datetime, frame: Frame) -> str:
    if not recent.takeovers:
        return '<p class="nothing">None.</p>'
    marks = legend(
        ('<path class="fenced" d="M2 2 L11 11 M2 11 L11 2"/>', "fenced"),
        ('<path class="stopped" d="M3 1 V12 M9 1 V12"/>', "stopped in good order"),
        (
            '<circle class="taken" cx="6" cy="6" r="6"/>',
            "deadlines taken over, the larger the more",
        ),
    )
    names = ("when", "whose", "what befell it", "moved", "to", "how", "took")
    rows = [_takeover(each, now, frame) for each in recent.takeovers[:ROWS]]
    left = len(recent.takeovers) - plots.LANES
    more = f"<p>And {left} more, in the table.</p>" if left > 0 else ""
    figures = table("Takeovers", names, rows, "None.", ("moved", "took"))
    return plots.timeline(recent, now) + marks + more + figures


def _takeover(one: Takeover, now: datetime, frame: Frame) -> list[str]:
    heirs = [f"{n} to {named(heir)}" for heir, n in one.heirs.most_common(3)]
    if len(one.heirs) > 3:
        heirs.append(f"{len(one.heirs) - 3} others")
    ways = [f"{n} {e(what)}" for what, n in one.ways.most_common()]
    within = (one.last - one.at).total_seconds() if one.last else None
    return [
        moment(one.at, now),
        named(one.victim) if one.victim else "no owner (handed back)",
        _befell(one, frame),
        str(one.moved.total()),
        listed(heirs),
        listed(ways),
        "" if within is None else span(max(within, 0.0)),
    ]


def _befell(one: Takeover, frame: Frame) -> str:
    if one.ended == "fenced":
        by = named(one.by) if one.by else "an operator"
        return f"fenced by {by}: {frame.text(one.evidence)}"
    if one.ended == "stopped":
        return "stopped in good order"
    return "" if one.victim is None else "it let them lie, or ended before"


def _bounds(recent: Recent) -> str:
    if recent.whole:
        return ""
    return (
        '<p class="note">More happened than is read here: the last hour is shown from'
        f" {moment(recent.since)} on. 'liveness-manage history' has all of it.</p>"
    )


# --- deadlines ----------------------------------------------------------------------


def _counts(seen: Fleet) -> str:
    from liveness.db.report import COUNTED

    kinds = sorted({kind for counts in seen.counts.values() for kind in counts})
    rows = [
        [
            link(search_link(kind=kind), e(kind)),
            *(
                link(search_link(kind=kind, state=state), count(number, COUNTED))
                if (number := counts.get(kind, 0))
                else "0"
                for state, counts in seen.counts.items()
            ),
        ]
        for kind in kinds
    ]
    names = ("kind", *seen.counts)
    found = table("Deadlines by kind and state", names, rows, "No deadline.", names[1:])
    return found + f"<p>{link('/deadlines', 'Find deadlines')}</p>"


def _parked(seen: Fleet, frame: Frame) -> str:
    rows = [
        [
            e(row.kind),
            deadline_link(row.kind, row.key, row.key),
            moment(row.updated_at, seen.now),
            str(row.attempts),
            frame.text(row.last_error),
        ]
        for row in seen.parked
    ]
    names = ("kind", "key", "since", "attempts", "reason")
    more = f'<p class="note">{PARKED} of them.</p>' if len(rows) == PARKED else ""
    return table("Parked", names, rows, "Nothing.", ("attempts",)) + more
