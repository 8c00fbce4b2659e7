"""What happened: the words of the history.

An event is a copy for people. No engine reads one: what is true stands in the rows of
engines and deadlines.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Iterator
from datetime import datetime

from liveness.model import Deadline

BATCH = 500
"""Events in one statement."""


class What(enum.StrEnum):
    """What an event says. Its ``engine_id`` did it; nobody's: an operator."""

    REGISTERED = "registered"
    FENCED = "fenced"
    STOPPED = "stopped"

    RESTARTED = "restarted"
    """Taken over, to be handled when it was promised."""

    RETRIGGERED = "retriggered"
    """Taken over, and handled at once."""

    EXPIRED = "expired"
    """Taken over after the promise had passed, or because its owner let it lie."""

    COMPLETED = "completed"
    REARMED = "rearmed"
    RETRIED = "retried"
    RELEASED = "released"
    PARKED = "parked"
    UNPARKED = "unparked"
    DISARMED = "disarmed"

    FIRED = "fired"
    """An own deadline, claimed in its time: only with ``history = all``."""

    LATENESS = "lateness"
    """How late the deadlines were that an engine claimed within a minute."""


class History(enum.StrEnum):
    """What is recorded."""

    OFF = "off"
    RECOVERY = "recovery"
    ALL = "all"


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``about_id``: the engine that was fenced, or from whom
    a deadline was taken. ``at`` is the database's UTC, set when it is written."""

    what: str
    engine_id: str | None = None
    about_id: str | None = None
    kind: str | None = None
    key: str | None = None
    epoch: int | None = None
    attempts: int | None = None
    detail: str | None = None
    id: int = 0
    at: datetime | None = None

    @classmethod
    def of(
        cls,
        what: str,
        engine_id: str | None,
        deadline: Deadline,
        about_id: str | None = None,
        detail: str | None = None,
    ) -> Event:
        """An event of a deadline, as it is afterwards."""
        return cls(
            what,
            engine_id,
            about_id,
            deadline.kind,
            deadline.key,
            deadline.epoch,
            deadline.attempts,
            detail,
        )


def story(
    newest_first: Iterable[Event], kind: str | None, key: str | None
) -> Iterator[Event]:
    """Of those events: what happened to that deadline, and the end of each owner that
    it was taken from. (An owner ends before.)"""
    owners: set[str] = set()
    for event in newest_first:
        if event.key == key and kind in (None, event.kind):
            if event.about_id is not None:
                owners.add(event.about_id)
            yield event
        elif event.what in (What.FENCED, What.STOPPED) and event.about_id in owners:
            yield event
