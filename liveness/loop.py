"""The loop around the pass: settle, fire what is due here, sweep when it is time.

It sleeps until the next own due time or the next sweep, whichever is first; an arm in
this process, a handler's answer, or the death of a neighbour wakes it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from oslo_db import exception as db_exc

from liveness import log
from liveness.admission import Admission
from liveness.agenda import Agenda, Entry
from liveness.backlog import Backlog
from liveness.bell import Bell
from liveness.clock import Clock
from liveness.conf import Settings
from liveness.db.connection import is_database_error, one_line
from liveness.firing import Firing
from liveness.model import Deadline
from liveness.runner import Runner
from liveness.settle import Last, Settler
from liveness.sweep import Counts, Sweep
from liveness.trust import Trust

LOG = log.get(__name__)

CONFLICTS = 5
"""Turns in a row that may be lost to other engines before that is a failure."""

REASONS = 5
"""Different reasons of one outage that are logged, each once."""

AHEAD = 0.001
"""Seconds before there is something to do at which the loop wakes up, to have its
connection in hand, and what it runs in the processor's caches, when the time comes."""

LISTEN = 0.05
"""Seconds for which a loop that has no time to sleep keeps its connection, and does not
look whether a neighbour died."""


class Loop:
    """One engine's loop; :meth:`run` is the body of its thread."""

    def __init__(
        self,
        me: str,
        pool: sa.Engine,
        clock: Clock,
        settings: Settings,
        trust: Trust,
        runner: Runner,
        settler: Settler,
        agenda: Agenda,
        suspects: Agenda,
        sweep: Sweep,
        bell: Bell,
        admission: Admission,
        backlog: Backlog,
        firing: Firing,
    ) -> None:
        self.settings = settings
        self.draining = False
        self.stopping = False
        self._me = me
        self._pool = pool
        self._clock = clock
        self._trust = trust
        self._runner = runner
        runner.on_unreadable = self._unreadable
        self._settler = settler
        self._agenda = agenda
        self._suspects = suspects
        self._sweep = sweep
        self._bell = bell
        self._admission = admission
        self._backlog = backlog
        self._firing = firing
        firing.sweep_soon, firing.on_missed = self.sweep_soon, self._missed
        self.turns = 0
        self._failing = False
        self._told: set[str] = set()  # why, in this outage
        self._conflicts = 0
        self._next_sweep = float("-inf")
        self._again_by = float("inf")
        self._fired = False  # in this turn
        self._came_round = clock.monotonic()
        self.on_sweep: Callable[[Counts, float], None] = lambda counts, seconds: None
        self.write_history: Callable[[sa.Connection], None] = lambda connection: None

    def run(self) -> None:
        """Turn until :attr:`stopping` is set or the engine is fenced."""
        while not self._over:
            delay = self.turn(LISTEN)
            self._sleep(delay - AHEAD)

    def _sleep(self, seconds: float) -> None:
        if self._bell.wait(seconds):
            # A neighbour died; the others on this machine were woken as well.
            time.sleep(random.uniform(0.0, self._sweep.herd_seconds))
            self.sweep_soon()

    @property
    def _over(self) -> bool:
        return self.stopping or self._trust.fenced

    def turn(self, busy: float = 0.0) -> float:
        """One turn, and more for up to ``busy`` seconds while there is no time to give
        the connection back; return the seconds to sleep before the next.

        Never raises: whatever happens is logged, and the loop goes on."""
        try:
            with self._pool.connect() as connection:
                return self._turns(connection, self._clock.monotonic() + busy)
        except db_exc.DBDeadlock as error:
            self._lost(error)
        except Exception as error:
            self._failed(error)
        self.came_round()
        self.turns += 1
        return self._delay()

    def _turns(self, connection: sa.Connection, until: float) -> float:
        self.write_history(connection)
        while True:
            self._turn(connection)
            self.write_history(connection)
            self._succeeded()
            self.came_round()
            self.turns += 1
            delay = self._delay()
            # To give the connection back, and to look at the bell, lets the handlers'
            # threads in, which are better served while this one waits for the database.
            if delay > AHEAD or self._over or self._came_round >= until:
                return delay
            if delay > 0:
                self._sleep(delay)

    def came_round(self) -> None:
        """The loop is at work, and not stuck."""
        self._came_round = self._clock.monotonic()

    def sweep_soon(self) -> None:
        """The next turn sweeps, whatever the interval."""
        self._next_sweep = float("-inf")

    def stuck_for(self, seconds: float) -> str | None:
        """Why the engine does no work although it had so many seconds, or None. A turn
        that failed counts as coming round: the database's outage is no fault here."""
        idle = self._clock.monotonic() - self._came_round
        if idle <= seconds:
            return None
        return f"its sweep loop has not come round for {idle:.1f} s"

    def _unreadable(self) -> None:
        self._doubt()
        self._bell.ring()

    def _missed(self) -> None:
        """What was due was not there; it may not be committed yet."""
        self._sweep.doubt()
        soon = self._clock.monotonic() + self.settings.sweep_interval
        self._next_sweep = min(self._next_sweep, soon)

    def _doubt(self) -> None:
        """Something may be claimed by this engine and not held: the next turn looks."""
        self._sweep.doubt()
        self.sweep_soon()

    # --- one turn -------------------------------------------------------------

    def _turn(self, connection: sa.Connection) -> None:
        try:
            behind, self._fired = self._admission.left_behind, False
            claims = self._trust.good and not self.draining
            settled = self._settle(connection, self._fire_after if claims else None)
            if self.draining:
                return
            if settled and behind:
                self.sweep_soon()
            if self._trust.good:
                self._runner.resume()
                if not self._fired:
                    self._firing.fire(connection)
            now = self._clock.monotonic()
            if now >= self._next_sweep or self._ran_dry(now):
                self._sweep_now(connection)
        except db_exc.DBDeadlock:
            # A lost conflict; the connection, and what it has observed, is good. But
            # a node that was left out of its cluster says the same of everything.
            if self._conflicts >= CONFLICTS:
                connection.invalidate()
            raise
        except Exception:
            # What the error left behind on the connection must not be built upon.
            connection.invalidate()
            raise

    def _settle(self, connection: sa.Connection, last: Last | None = None) -> int:
        self._runner.spend_late()
        self._settler.add(self._runner.collect())
        return self._settler.settle(connection, last)

    def _fire_after(
        self, connection: sa.Connection, done: Sequence[Deadline], again: bool
    ) -> set[int] | None:
        self._fired = True
        return self._firing.fire_after(connection, done, again)

    def _sweep_now(self, connection: sa.Connection) -> None:
        self._next_sweep = began = self._clock.monotonic()
        counts = self._sweep.run_pass(connection)
        again = counts.more or self._next_sweep < began  # what fired in it wants one
        counts.expired += self._firing.headed
        self._firing.headed = 0
        self.on_sweep(counts, self._clock.monotonic() - began)
        if text := str(counts):
            LOG.info(
                "Sweep of engine %s: %s.",
                self._me,
                text,
                event="swept",
                engine=self._me,
            )
        rest = 0.0 if again else counts.rest * random.uniform(0.9, 1.1)
        self._next_sweep = self._clock.monotonic() + rest
        self._again_by = counts.again_by

    def _ran_dry(self, now: float) -> bool:
        """What was read ahead is done, and there is more."""
        return self._again_by <= now < self._agenda.next_due

    # --- between turns ----------------------------------------------------------

    def _delay(self) -> float:
        if self._failing:
            return min(1.0, self.settings.sweep_interval) * random.uniform(0.5, 1.0)
        if self._conflicts:
            return 0.01 * 2.0**self._conflicts * random.uniform(0.0, 1.0)
        if self._runner.answered:
            return 0.0
        now = self._clock.monotonic()
        wake = min(self._runner.next_late, self._runner.next_help)
        if not self.draining:
            wake = min(wake, self._next_wake(now))
        return min(max(wake - now, 0.0), self.settings.sweep_interval * 1.5)

    def _next_wake(self, now: float) -> float:
        if not self._trust.good or self._admission.room == 0:
            # Nothing can be claimed before a beat or an answer; observe all the same.
            return max(self._next_sweep, now + self.settings.sweep_interval / 2)
        wake = min(
            self._next_sweep,
            self._again_by,
            self._backlog.next_due,
            self._agenda.next_due,
        )
        if not self._admission.suspect_held:
            wake = min(wake, self._suspects.next_due)
        return wake

    def due_again(self, value: Deadline, due_in: float) -> None:
        """A deadline of this engine has the new ``value``, due in so many seconds."""
        due = self._clock.monotonic() + due_in
        if due_in <= self._sweep.horizon:
            moment = self._sweep.skew.moment(due)
            armed = not value.attempts  # rearmed: a new promise
            value = value._replace(
                due_at=moment,
                expires_at=moment if armed else value.expires_at,
            )
            agenda = self._suspects if value.attempts else self._agenda
            agenda.add([Entry(due, value)])

    def _succeeded(self) -> None:
        if self._failing:
            LOG.info(
                "Engine %s sweeps again.", self._me, event="sweeping", engine=self._me
            )
        self._failing = False
        self._told.clear()
        self._conflicts = 0

    def _lost(self, error: Exception) -> None:
        """Another engine was quicker: usual on Galera, where locks are a node's own.
        Nothing was done; it is looked for again at once."""
        self._conflicts += 1
        if self._conflicts > CONFLICTS:
            self._failed(error)
            return
        self._doubt()
        LOG.debug("Engine %s lost a conflict: %s", self._me, one_line(error))

    def _failed(self, error: Exception) -> None:
        self._doubt()
        text = one_line(error)
        if not is_database_error(error):
            LOG.exception(
                "A turn of engine %s failed; it goes on.",
                self._me,
                event="bug",
                engine=self._me,
            )
        elif text not in self._told and len(self._told) < REASONS:
            self._told.add(text)
            LOG.warning(
                "Engine %s could not sweep: %s. It tries again.",
                self._me,
                text,
                event="unswept",
                engine=self._me,
            )
        self._failing = True
