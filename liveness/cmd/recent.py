"""The last hour, as the history has it: how late claims were, and who took over from
whom. For the page and for ``top``."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from liveness.clock import Clock
from liveness.events import Event, What
from liveness.lateness import Minute, by_minute

if TYPE_CHECKING:
    import sqlalchemy as sa

HOUR = timedelta(hours=1)

WINDOWS = 10
"""Windows of the history that are read at most, from the newest event on."""

LATEST = 20
"""Events that are shown as they are."""

TAKEN = (What.RESTARTED, What.RETRIGGERED, What.EXPIRED, What.PARKED)
ROUTINE = (What.LATENESS, What.FIRED, What.COMPLETED, What.REGISTERED)
"""What does not stand among the latest events."""


@dataclasses.dataclass(slots=True)
class Takeover:
    """What became of the deadlines of one engine; of nobody's, if ``victim`` is None.
    ``moved``: how many, by who has them now and how."""

    victim: str | None
    ended_at: datetime | None = None
    ended: str | None = None
    by: str | None = None
    evidence: str | None = None
    first: datetime | None = None
    last: datetime | None = None
    moved: Counter[tuple[str, str]] = dataclasses.field(default_factory=Counter)

    @property
    def at(self) -> datetime:
        """When it began."""
        known = [moment for moment in (self.ended_at, self.first) if moment]
        return min(known)

    @property
    def heirs(self) -> Counter[str]:
        """How many deadlines each engine took."""
        heirs: Counter[str] = Counter()
        for (heir, _), count in self.moved.items():
            heirs[heir] += count
        return heirs

    @property
    def ways(self) -> Counter[str]:
        """How many deadlines were taken in each way."""
        ways: Counter[str] = Counter()
        for (_, what), count in self.moved.items():
            ways[what] += count
        return ways


@dataclasses.dataclass(frozen=True, slots=True)
class Recent:
    """The last hour, or as much of it as was read: from ``since`` on."""

    since: datetime
    whole: bool
    minutes: dict[datetime, Minute]
    takeovers: list[Takeover]
    events: list[Event]

    @property
    def moved(self) -> int:
        """How many deadlines were taken over."""
        return sum(takeover.moved.total() for takeover in self.takeovers)


def recent(connection: sa.Connection, now: datetime) -> Recent:
    """Read the last hour: at most :data:`WINDOWS` statements."""
    from liveness.db.events import WINDOW, EventLog, Sought

    sought = Sought(since=now - HOUR, what=tuple(What))
    found = list(EventLog(Clock()).newest_first(connection, sought, WINDOWS))
    whole = len(found) < WINDOWS * WINDOW
    oldest = min((e.at for e in found if e.at), default=now)
    return Recent(
        since=now - HOUR if whole else oldest,
        whole=whole,
        minutes=by_minute(e.detail for e in found if e.what == What.LATENESS),
        takeovers=takeovers(found),
        events=[e for e in found if e.what not in ROUTINE][:LATEST],
    )


def takeovers(newest_first: Iterable[Event]) -> list[Takeover]:
    """By whose deadlines they were; who was fenced and had nothing is there too. The
    newest comes first."""
    found: dict[str | None, Takeover] = {}
    stopped: list[Event] = []
    for event in newest_first:
        if event.what == What.FENCED:
            one = found.setdefault(event.about_id, Takeover(event.about_id))
            one.ended_at, one.ended, one.by = event.at, event.what, event.engine_id
            one.evidence = event.detail
        elif event.what == What.STOPPED:
            stopped.append(event)
        elif event.what in TAKEN and event.engine_id and _from_another(event):
            one = found.setdefault(event.about_id, Takeover(event.about_id))
            one.moved[event.engine_id, event.what] += 1
            one.first = event.at
            one.last = one.last or event.at
    for event in stopped:
        if (stop := found.get(event.about_id)) and stop.ended is None:
            stop.ended_at, stop.ended, stop.by = event.at, event.what, event.engine_id
    return sorted(found.values(), key=lambda one: one.at, reverse=True)


def _from_another(event: Event) -> bool:
    """A handler's answer may park a deadline as well, which is no takeover."""
    return event.about_id is not None or event.what != What.PARKED
