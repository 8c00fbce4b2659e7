"""Everything at a glance, for the page and for ``top``: one look, in a few statements
which each stop somewhere."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from liveness import model
from liveness.clock import Clock
from liveness.cmd import recent
from liveness.cmd.output import printable

if TYPE_CHECKING:
    import sqlalchemy as sa

    from liveness.conf import Settings
    from liveness.db.report import Listed, ShownEngine

ENGINES, PARKED = 500, 100
"""What is looked at, at most."""

SHORT = 20
"""Characters of an engine's id that are shown where there is little room."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}")


@dataclasses.dataclass(frozen=True)
class Fleet:
    """Everything at a glance. ``overdue``: due for longer than ``grace``, the head
    start of an owner; ``late``: seconds since that was due which is due for longest."""

    now: datetime
    engines: list[ShownEngine]
    counts: dict[str, dict[str, int]]
    parked: list[Listed]
    overdue: int
    late: float | None
    grace: float
    recent: recent.Recent


def fleet(connection: sa.Connection, settings: Settings) -> Fleet:
    """Look at everything."""
    from liveness.db.report import Filter, Report

    report = Report(Clock())
    now = report.now(connection)
    grace = settings.expired_grace + settings.max_clock_skew
    return Fleet(
        now=now,
        engines=list(itertools.islice(report.engines(connection), ENGINES)),
        counts={
            str(state): report.by_kind(connection, state)
            for state in model.DeadlineState
        },
        parked=report.some(
            connection, Filter(states=[model.DeadlineState.PARKED]), PARKED
        ),
        overdue=report.count(connection, Filter(late=grace)),
        late=report.longest_due(connection),
        grace=grace,
        recent=recent.recent(connection, now),
    )


def state_of(shown: ShownEngine) -> str:
    """The state in the row; ``lapsed`` for one alive whose lease there is over."""
    left = shown.lease_left
    return "lapsed" if left is not None and left <= 0 else shown.engine.state


def alive(shown: Iterable[ShownEngine]) -> int:
    """How many of them were not declared dead, and have not resigned."""
    return sum(each.engine.alive for each in shown)


def troubled_first(shown: Iterable[ShownEngine]) -> list[ShownEngine]:
    """Lapsed, draining, live, then those that ended, the latest first."""
    order = ("lapsed", "draining", "live")

    def rank(each: ShownEngine) -> tuple[Any, ...]:
        state, ended = state_of(each), each.engine.ended_at
        place = order.index(state) if state in order else len(order)
        since = (each.now - ended).total_seconds() if ended else 0.0
        return place, since, each.engine.host, each.engine.id

    return sorted(shown, key=rank)


def short(engine_id: str | None) -> str:
    """An engine's id, or as much of it as tells it from others: how it begins, and how
    it ends."""
    if engine_id is None:
        return "nobody"
    if _UUID.fullmatch(engine_id):
        return engine_id[:8]
    text = printable(engine_id)
    return text if len(text) <= SHORT else f"{text[:6]}…{text[7 - SHORT :]}"
