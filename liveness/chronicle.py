"""What one engine writes into the history, and never waits for.

What is taken over is recorded in the transaction of the claim; everything else is
collected, and written at the beginning and end of a turn. A table that cannot be
written is left alone for a while: the claim comes first.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

import sqlalchemy as sa

from liveness import log
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.connection import is_passing, one_line
from liveness.db.events import EventLog
from liveness.events import BATCH, Event, History, What
from liveness.lateness import Counted
from liveness.model import (
    Deadline,
    Done,
    Engine,
    Outcome,
    Park,
    Rearm,
    Release,
    Retry,
)

LOG = log.get(__name__)

PAUSE = 60.0
"""Seconds for which a table is left alone that could not be written."""

KEPT = 10_000
"""Events kept while they cannot be written, and takeovers whose end is recorded."""

PURGED = 1000
"""Events deleted at once."""

NO_OWNER = "it had no owner"

OUTCOMES = {Done: What.COMPLETED, Rearm: What.REARMED, Release: What.RELEASED}


class Chronicle:
    """The history as one engine sees it. Thread-safe."""

    def __init__(
        self, log: EventLog, me: str, clock: Clock, settings: Settings
    ) -> None:
        self.settings = settings
        self._log = log
        self._me = me
        self._clock = clock
        self._lock = threading.Lock()
        self._pending: list[Event] = []
        self._claimed = Counted()
        self.database_now: Callable[[], datetime | None] = lambda: None
        """The database's UTC, as well as this engine knows it without asking."""
        self._recovered: dict[int, bool] = {}  # a set in order
        self._writable = False
        """The table took what was last written to it: a claim may rely on it."""
        self._paused_until = float("-inf")

    # --- what happened ----------------------------------------------------------

    def registered(self, engine: Engine) -> None:
        """This engine has begun."""
        detail = f"host {engine.host}, pid {engine.pid}, {engine.binary}"
        self._note([Event(What.REGISTERED, self._me, self._me, detail=detail)])

    def stopped(self) -> None:
        """This engine has resigned."""
        self._note_lateness(None)
        self._note([Event(What.STOPPED, self._me, self._me)])

    def fenced(self, connection: sa.Connection, victim: Engine, evidence: str) -> None:
        """This engine has fenced another. Written at once: before what it had is taken
        over."""
        where = f"host {victim.host}, pid {victim.pid}: {evidence}"
        self._note([Event(What.FENCED, self._me, victim.id, detail=where)])
        self.flush(connection)

    def taken(
        self,
        connection: sa.Connection | None,
        how: str,
        before: Sequence[Deadline],
        after: Sequence[Deadline],
        reason: str | None,
    ) -> None:
        """This engine took ``before``, which is now ``after``. With a connection, in
        its transaction: an error there is the claim's.

        :raises Exception: the database's.
        """
        if how != "park":
            self._remember([value for value in before if value.owner_id is not None])
        inside = connection if self._writable and self._on else None
        stories = [_story(how, value, reason) for value in before]
        if inside is not None and len(set(stories)) == 1:
            what, owner, detail = stories[0]
            event = Event(what, self._me, owner, detail=detail)
            ids = [value.id for value in after]
            self._write(lambda: self._log.add_alike(inside, event, ids))
            return
        events = [
            Event.of(what, self._me, new, owner, detail)
            for (what, owner, detail), new in zip(stories, after, strict=True)
        ]
        if inside is None:
            self._note(events)
        else:
            self._write(lambda: self._log.add(inside, events))

    def _remember(self, values: Sequence[Deadline]) -> None:
        """These were taken from somebody: their end is worth telling."""
        with self._lock:
            self._recovered.update((value.id, True) for value in values)
            most = max(0, len(self._recovered) - KEPT)
            for row_id in list(itertools.islice(self._recovered, most)):
                del self._recovered[row_id]

    def _write(self, write: Callable[[], None]) -> None:
        """In the transaction of a claim, which an error here undoes."""
        try:
            write()
        except Exception as error:
            self._failed(error)
            raise

    def claimed(self, values: Iterable[Deadline]) -> None:
        """This engine claimed these, committed, from whomever; it counts how late."""
        now = self.database_now()
        if now is not None and self.settings.history != History.OFF:
            with self._lock:
                self._claimed.add(now, (value.due_at for value in values))

    def of_nobodys(self) -> Event | None:
        """What is to be told of each deadline that is claimed from the head of nobody's
        line, with the claim; None if it is told afterwards, or not at all."""
        if not (self._writable and self._on):
            return None
        return Event(What.EXPIRED, self._me, detail=NO_OWNER)

    def untold(self, error: Exception) -> None:
        """A claim failed that had such an event with it, which may be why."""
        self._failed(error)

    def nobodys(self, values: Sequence[Deadline], told: bool) -> None:
        """This engine claimed these from the head of nobody's line."""
        self.claimed(values)
        if not told:
            self._note(
                [
                    Event.of(What.EXPIRED, self._me, value, detail=NO_OWNER)
                    for value in values
                ]
            )

    def fired(self, values: Sequence[Deadline]) -> None:
        """This engine claimed own deadlines in their time."""
        self.claimed(values)
        if self.settings.history == History.ALL:
            self._note([Event.of(What.FIRED, self._me, value) for value in values])

    def settled(self, settled: Iterable[tuple[Deadline, Outcome]]) -> None:
        """These outcomes of deadlines of this engine counted."""
        if not self._recovered and self.settings.history != History.ALL:
            # The usual end of most deadlines is worth no word, and no time.
            settled = [pair for pair in settled if type(pair[1]) is not Done]
        events = []
        for value, outcome in settled:
            with self._lock:
                recovered = self._ends(value.id, outcome)
            if what := self._worth_telling(outcome, recovered):
                detail = getattr(outcome, "reason", None)
                events.append(Event.of(what, self._me, value, detail=detail))
        self._note(events)

    def _ends(self, row_id: int, outcome: Outcome) -> bool:
        """True if the deadline was taken over; a retry is not its end."""
        if isinstance(outcome, Retry):
            return row_id in self._recovered
        return self._recovered.pop(row_id, False)

    def _worth_telling(self, outcome: Outcome, recovered: bool) -> What | None:
        if isinstance(outcome, Retry):
            return What.RETRIED
        if isinstance(outcome, Park):
            return What.PARKED
        if recovered or self.settings.history == History.ALL:
            return OUTCOMES.get(type(outcome), What.RELEASED)
        return None

    # --- writing it -------------------------------------------------------------

    def flush(self, connection: sa.Connection) -> None:
        """Write what was collected. Whatever goes wrong is logged, and no more."""
        if (now := self.database_now()) is not None:
            self._note_lateness(now)
        if not self._pending or not self._on:
            return
        with self._lock:
            events, self._pending = self._pending, []
        try:
            while events:
                self._log.add(connection, events[:BATCH])
                events = events[BATCH:]
            self._writable = True
        except Exception as error:
            self._failed(error)
            with self._lock:
                self._pending = (events + self._pending)[-KEPT:]

    def purge(self, connection: sa.Connection) -> None:
        """Delete some of what is too old, if any, whoever wrote it. Errors as in
        :meth:`flush`."""
        if self._clock.monotonic() < self._paused_until:
            return
        try:
            self._log.purge(connection, self.settings.history_retention, PURGED)
        except Exception as error:
            self._failed(error)

    @property
    def _on(self) -> bool:
        return (
            self.settings.history != History.OFF
            and self._clock.monotonic() >= self._paused_until
        )

    def _note_lateness(self, now: datetime | None) -> None:
        with self._lock:
            lines = self._claimed.over(now)
        self._note(
            [Event(What.LATENESS, self._me, self._me, detail=line) for line in lines]
        )

    def _note(self, events: list[Event]) -> None:
        if events and self.settings.history != History.OFF:
            with self._lock:
                self._pending = (self._pending + events)[-KEPT:]

    def _failed(self, error: Exception) -> None:
        self._writable = False
        if is_passing(error):
            return
        self._paused_until = self._clock.monotonic() + PAUSE
        LOG.warning(
            "The history cannot be written: %s. Engine %s goes on without, and tries"
            " again in %g s.",
            one_line(error),
            self._me,
            PAUSE,
            event="history-unwritable",
            engine=self._me,
        )


def _story(
    how: str, old: Deadline, reason: str | None
) -> tuple[What, str | None, str | None]:
    """What befell ``old``, who had it, and why."""
    match how:
        case "adopt":
            what = What.RESTARTED
        case "orphans":
            what = What.EXPIRED if old.expired else What.RETRIGGERED
        case "park":
            what = What.PARKED
        case _:
            what = What.EXPIRED
            reason = "its owner let it lie"
    if reason is None and old.owner_id is None:
        reason = NO_OWNER
    return what, old.owner_id, reason
