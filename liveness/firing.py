"""What is due is claimed and run: own deadlines by their key, a long line from its
head; own ones first, each at its time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Container, Iterable, Sequence

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import log
from liveness.admission import Admission
from liveness.agenda import Agenda, Entry
from liveness.backlog import Backlog
from liveness.clock import Clock
from liveness.db.claims import Claims
from liveness.db.heads import Ask, Heads, Line
from liveness.db.rows import EPOCH_LIMIT
from liveness.events import Event
from liveness.model import Deadline
from liveness.pace import Pace
from liveness.runner import Runner
from liveness.skew import Skew
from liveness.trust import Trust

LOG = log.get(__name__)

SUSPECTS = 20
"""Own deadlines that were claimed before, looked at in one turn to choose one."""

EACH, AIM, LEAST = 0.0001, 0.002, 50
"""The pace of a line: see :mod:`liveness.pace`. (All that is in a line is due: more
small batches cost it less than they would a walk.)"""

WAIT = 0.01
"""Seconds for which a batch waits for one own deadline at most."""


class Firing:
    """Claims what is due and hands it to the runner. Used by the loop's thread.

    ``headed``: rows of nobody's claimed from a head; whoever counts them takes them
    off."""

    def __init__(
        self,
        me: str,
        clock: Clock,
        skew: Skew,
        trust: Trust,
        claims: Claims,
        heads: Heads,
        runner: Runner,
        admission: Admission,
        agenda: Agenda,
        suspects: Agenda,
        backlog: Backlog,
        kinds: Iterable[str],
    ) -> None:
        self.headed = 0
        self._me = me
        self._clock = clock
        self._skew = skew
        self._trust = trust
        self._claims = claims
        self._heads = heads
        self._runner = runner
        self._admission = admission
        self._agenda = agenda
        self._suspects = suspects
        self._backlog = backlog
        self._kinds = kinds
        self._pace = Pace(EACH, AIM, LEAST)
        self.sleep: Callable[[float], None] = time.sleep
        self.sweep_soon: Callable[[], None] = lambda: None
        self.on_missed: Callable[[], None] = lambda: None
        """Told of an own deadline that was not there at its time, and is not tried any
        more."""
        self.on_fired: Callable[[Sequence[Deadline]], None] = lambda values: None
        self.of_nobodys: Callable[[], Event | None] = lambda: None
        self.untold: Callable[[Exception], None] = lambda error: None
        self.on_nobodys: Callable[[Sequence[Deadline], bool], None] = (
            lambda values, told: None
        )

    def fire(self, connection: sa.Connection) -> None:
        """Claim and run what is due now, own deadlines first."""
        if self._backlog.line(self._clock.monotonic()):
            self._make_way(connection, LEAST)
        if line := self._line():
            self._from_head(connection, line, (), False)
        else:
            self._fire_known(connection)

    def fire_due(self, connection: sa.Connection) -> None:
        """The same in the middle of a pass, if anything own is due."""
        now = self._clock.monotonic()
        due = min(
            self._agenda.next_due, self._suspects.next_due, self._backlog.own_from
        )
        if due <= now and self._trust.good:
            self.fire(connection)

    def fire_after(
        self, connection: sa.Connection, done: Sequence[Deadline], again: bool
    ) -> set[int] | None:
        """The same, in the transaction that completes the last batch, of which the ids
        that were stale are returned. None: nothing was claimed, nothing completed."""
        if len(done) >= LEAST or self._backlog.line(self._clock.monotonic()):
            self._make_way(connection, len(done) + LEAST)
        if line := self._line():
            return self._from_head(connection, line, done, again)
        ready = self._ready(connection)
        if not ready:
            return None
        with self._admission.claiming():
            found = [entry.value for entry in ready]
            stale, claimed = self._claims.chain(
                connection, self._me, done, again, found
            )
            self._run(ready, claimed)
        return stale

    def park(
        self,
        connection: sa.Connection,
        value: Deadline,
        reason: str,
        grace: float | None,
    ) -> bool:
        """Leave ``value`` to the operator; see :meth:`liveness.db.claims.Claims.park`.
        False: it is not as it was found."""
        parked = self._claims.park(connection, value, reason, grace)
        if parked:
            LOG.error(
                "%s is parked for the operator: %s",
                value,
                reason,
                event="parked",
                engine=self._me,
            )
        return parked

    def _make_way(self, connection: sa.Connection, rows: int) -> None:
        """Before so many ``rows`` are claimed or completed: a few own deadlines that
        are due are fired; so is the next, if it would be due before those are done.
        (Not the one after it: there would always be another.)"""
        self._fire_few(connection)
        left = self.free_for()
        if 0 < left < min(self._pace.seconds(rows), WAIT):
            self.sleep(left)
            self._fire_few(connection)

    def _fire_few(self, connection: sa.Connection) -> None:
        if self._agenda.few_due(self._clock.monotonic()):
            self._fire_known(connection)

    def _fire_known(self, connection: sa.Connection) -> None:
        ready = self._ready(connection)
        with self._admission.claiming():
            found = [entry.value for entry in ready]
            claimed = self._claims.claim_own(connection, self._me, found)
            self._run(ready, claimed)

    def _line(self) -> Line | None:
        """The line to claim from, when all that is known by its key is claimed."""
        now = self._clock.monotonic()
        return self._backlog.line(now) if self._next_known > now else None

    @property
    def _next_known(self) -> float:
        """When the next own deadline is due that may be claimed by its key then."""
        known = self._agenda.next_due
        if not self._admission.suspect_held:
            known = min(known, self._suspects.next_due)
        return known

    def free_for(self, line: Line | None = None) -> float:
        """Seconds until an own deadline is due that can be claimed then, and is not in
        the ``line`` that is claimed now; infinity for none."""
        if not self._admission.room:
            return float("inf")
        due = self._next_known
        if line is not Line.OWN:
            due = min(due, self._backlog.own_from)
        return due - self._clock.monotonic()

    def _from_head(
        self,
        connection: sa.Connection,
        line: Line,
        done: Sequence[Deadline],
        again: bool,
    ) -> set[int] | None:
        """Claim what has been due longest in a ``line``, and complete what is done.
        None: neither."""
        room = self._admission.room_for_fresh()
        if not room:
            if not self._runner.working:
                self.sweep_soon()  # one that wants to be alone is, or is gone
                self._backlog.ends(line)
            return None
        event = self.of_nobodys() if line is Line.NOBODYS else None
        rows = self._pace.rows(self.free_for(line), room, len(done))
        ask = Ask(self._me, line, tuple(self._kinds), rows, event)
        began = self._clock.monotonic()
        with self._admission.claiming():
            try:
                stale, claimed = self._heads.claim(connection, ask, done, again)
            except Exception as error:
                if isinstance(error, db_exc.DBDeadlock):
                    self._backlog.rest()
                if event is not None:
                    self.untold(error)
                raise
            told = event is not None
            told_of = functools.partial(self._claimed_from, line, told=told)
            self._runner.run_packed(claimed, claimed.ids, told_of)
        if claimed:
            seconds = self._clock.monotonic() - began
            self._pace.took(len(claimed) + len(done), seconds)
        if len(claimed) < rows:
            self._backlog.ends(line)
            if line is Line.OWN:
                self.sweep_soon()  # to read ahead again
        if line is Line.NOBODYS:
            self.headed += len(claimed)
        return stale

    def _claimed_from(self, line: Line, values: Sequence[Deadline], told: bool) -> None:
        if line is Line.OWN:
            self.on_fired(values)
        else:
            self.on_nobodys(values, told)

    def _ready(self, connection: sa.Connection) -> list[Entry]:
        """Own deadlines that are due and may be claimed now; off the agenda."""
        now = self._clock.monotonic()
        room = self._admission.room
        due = self._agenda.take_due(now, room)
        due += self._suspects.take_due(now, min(room, SUSPECTS))
        ready: list[Entry] = []
        for entry in due:
            if reason := hopeless(entry.value, known=True):
                self.park(connection, entry.value, reason, grace=0.0)
            else:
                ready.append(entry)
        ready = _latest(ready)
        chosen = self._admission.admit([entry.value for entry in ready])
        if ready and not chosen and not self._runner.working:
            self.sweep_soon()  # one that wants to be alone is, or is gone
        ready, left = _split(ready, {value.id for value in chosen})
        self._agenda.put_back(e for e in left if not e.value.attempts)
        self._suspects.put_back(e for e in left if e.value.attempts)
        return ready

    def _run(self, ready: list[Entry], claimed: list[Deadline]) -> None:
        """Run what was ``claimed`` of the ``ready``; the rest is tried again soon."""
        now = self._clock.monotonic()
        values = (self._with_reason(value, now) for value in claimed)
        self._runner.run(values, punctual=len(claimed) < self._runner.batch_size)
        self.on_fired(claimed)
        _, missed = _split(ready, {value.id for value in claimed})
        fresh = self._agenda.postpone([e for e in missed if not e.value.attempts], now)
        rest = self._suspects.postpone([e for e in missed if e.value.attempts], now)
        if not (fresh and rest):
            self.on_missed()

    def _with_reason(self, value: Deadline, now: float) -> Deadline:
        """Due is due to the promise, or to a retry before it."""
        expired = (
            value.expires_at <= value.due_at
            or self._skew.monotonic(value.expires_at) <= now
        )
        if (value.expired, value.orphaned) == (expired, not expired):
            return value
        return value._replace(expired=expired, orphaned=not expired)


def _latest(entries: list[Entry]) -> list[Entry]:
    """One for each row. (An arm whose answer was lost may come back after its deadline
    was handled, and be beside the newer value: a claim of both would count as two.)"""
    if len({entry.value.id for entry in entries}) == len(entries):
        return entries
    newest = {e.value.id: e for e in sorted(entries, key=lambda e: e.value.epoch)}
    return [entry for entry in entries if newest[entry.value.id] is entry]


def _split(
    entries: list[Entry], ids: Container[int]
) -> tuple[list[Entry], list[Entry]]:
    """Those whose rows are among ``ids``, and the others."""
    inside = [entry for entry in entries if entry.value.id in ids]
    if len(inside) == len(entries):
        return inside, []
    return inside, [entry for entry in entries if entry.value.id not in ids]


def hopeless(value: Deadline, known: bool) -> str | None:
    """Why no handler can be given this deadline, or None."""
    if not known:
        return (
            f"no engine with a handler for kind {value.kind!r} took it: install one,"
            " then retry it"
        )
    if value.problem:
        return value.problem
    if value.epoch >= EPOCH_LIMIT:
        return f"its epoch ({value.epoch}) is out of range"
    if value.attempts >= value.max_attempts:
        return (
            f"gave up after {value.attempts} attempts, of which none came back: its"
            " handler may kill its engine"
            + (f" (last error: {value.last_error})" if value.last_error else "")
        )
    return None
