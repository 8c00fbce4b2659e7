"""The scan: operations in progress that nobody is working on.

Deadlines say what an engine was doing when it died. What no row says is found here:
messages that were acknowledged and never run, word that never came to the next
resource, engines that died before they wrote anything down, stacks that were stuck
before this package came. One engine of the fleet scans, under a deadline that arms
itself again; what it finds it writes down as deadlines that are due, so that exactly
one engine acts, and it is tried again.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from liveness import Deadline, Handler, Outcome, Rearm, WhenOrphaned, exceptions
from liveness.db.connection import is_database_error
from liveness.heat import pause
from liveness.heat.names import Timer, timer_key
from liveness.heat.scan_death import MOMENT, PREFIX, AfterDeath
from liveness.heat.scan_findings import BEGINNING, Finding, Findings
from liveness.heat.scan_fleet import Fleet, FleetReader, broker_delivers
from liveness.heat.scan_judge import fingerprint, judge
from liveness.heat.scan_rows import Rows
from liveness.model import DeadlineState

LOG = logging.getLogger(__name__)

SCAN = "heat_scan"
"""Whose owner scans: one deadline for ever, and one for a while after each death."""

KEY = "scan"
PAGES = 20
"""Pages of Heat's stacks that are read in one go, and"""
LOOKS = 100
"""stacks that are looked at."""
SOON = 0.2
"""Seconds until the next go when there is more to do."""
BEGINNER = 10
"""Times the patience that an engine may take to begin an operation, if it lives."""


def handlers(engine: Any) -> list[Handler]:
    """The handlers of the scan's kinds, for ``engine`` (a HeatEngine)."""
    return [Scan(engine), Beginning(engine)]


def begin(engine: Any) -> None:
    """See to it that some engine of the fleet scans.

    :raises LivenessError: it could not be.
    """
    live = engine.live
    try:
        live.arm(SCAN, KEY, due_in=0)
    except exceptions.AlreadyArmed:
        found = live.find(SCAN, KEY)
        if found is not None and found.state == DeadlineState.PARKED:
            live.unpark(SCAN, KEY)


def after_death(engine: Any, dead: str) -> None:
    """See to it that some engine looks for the messages that died with engine ``dead``.

    :raises LivenessError: it could not be; the scan finds them, later.
    """
    try:
        engine.live.arm(SCAN, f"{PREFIX}{dead}", due_in=MOMENT)
    except exceptions.AlreadyArmed:
        LOG.debug("What was lost with engine %s is looked for already.", dead)


class Scan(Handler):
    """Whoever owns this deadline scans. Of a scan that fails nothing is lost: the next
    begins anew. So does another engine, at once: the dead one's may have been due in
    an hour."""

    kind = SCAN
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: Any) -> None:
        rows = Rows()
        fleet = FleetReader(engine.live, _threads())
        findings = Findings(engine)
        delivers = functools.partial(
            broker_delivers, engine.engine_id, engine.live.clock
        )
        self._scanner = Scanner(engine, rows, fleet, findings, delivers)
        self._after_death = AfterDeath(rows, fleet, findings)

    def expired(self, deadline: Deadline) -> Outcome:
        if deadline.key.startswith(PREFIX):
            return self._after_death.look(deadline)
        return Rearm(self._scanner.scan())


class Beginning(Handler):
    """Begins again, or fails, what an engine had not begun when it died."""

    kind = BEGINNING
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome | None:
        if pause.paused(self._engine.live):
            return Rearm(pause.LOOK_SECONDS)
        timer = Timer.load(deadline.payload)
        outcome: Outcome | None = self._engine.recovery.stack(timer)
        return outcome


@dataclasses.dataclass(slots=True)
class Sighting:
    """A stack in progress, and since when it has been as it is."""

    print: str = ""
    since: float = 0.0
    next_look: float = 0.0
    reported: str = ""


class Scanner:
    """What one engine remembers from one go to the next. Another that takes over
    begins with nothing, and waits as long again."""

    def __init__(
        self,
        engine: Any,
        rows: Rows,
        fleet: FleetReader,
        findings: Findings,
        delivers: Callable[[], bool],
    ) -> None:
        """``delivers()``: the broker does so, now."""
        self._delivers = delivers
        self._clock = engine.live.clock
        self._interval = float(engine.settings.scan_interval)
        self._patience = float(engine.settings.scan_patience)
        self._rows = rows
        self._fleet = fleet
        self._findings = findings
        self._sightings: dict[str, Sighting] = {}
        self._after: str | None = ""
        self._next_pass = 0.0
        self._busy = threading.Lock()

    def scan(self) -> float:
        """Read some pages, look at some stacks; the seconds until it is to go on."""
        if not self._busy.acquire(blocking=False):
            return self._interval  # the last one hangs
        try:
            return self._scan(self._clock.monotonic())
        except Exception as error:
            LOG.warning(
                "The scan of Heat's stacks was broken off, and goes on in %g s: %s",
                self._interval,
                error,
                exc_info=not isinstance(error, exceptions.LivenessError),
            )
            return self._interval
        finally:
            self._busy.release()

    def _scan(self, now: float) -> float:
        self._turn_pages(now)
        due = [i for i, seen in self._sightings.items() if seen.next_look <= now]
        if due:
            with self._fleet.opened() as own:
                fleet = self._fleet.read(own, self._rows.services())
                for stack_id in due[:LOOKS]:
                    self._look_safely(own, fleet, stack_id, now)
        if len(due) > LOOKS or self._after is not None:
            return SOON
        looks = [seen.next_look for seen in self._sightings.values()]
        return max(min([self._next_pass, *looks]) - now, SOON)

    def _turn_pages(self, now: float) -> None:
        if self._after is None and now >= self._next_pass:
            self._after = ""
        if self._after == "":
            self._next_pass = now + self._interval
        for _ in range(PAGES):
            if self._after is None:
                return
            found, self._after = self._rows.page(self._after)
            for stack_id in found:
                self._sightings.setdefault(stack_id, Sighting())

    def _look_safely(
        self, own: sa.Connection, fleet: Fleet, stack_id: str, now: float
    ) -> None:
        """Whatever is odd about one stack, the others come next."""
        try:
            self._look(own, fleet, stack_id, now)
        except exceptions.LivenessError:
            raise
        except Exception as error:
            if is_database_error(error):
                raise
            LOG.exception("Stack %s cannot be judged, and is left alone.", stack_id)

    def _look(
        self, own: sa.Connection, fleet: Fleet, stack_id: str, now: float
    ) -> None:
        seen = self._sightings[stack_id]
        seen.next_look = now + self._patience
        view = self._rows.view(stack_id, data=bool(seen.print))
        if view is None:
            del self._sightings[stack_id]
            return
        key = timer_key(view.id, view.traversal)
        timed = key in fleet.timers
        print_ = fingerprint(view, fleet.actions, fleet.alive, timed)
        if print_ != seen.print or fleet.full:
            seen.print, seen.since = print_, now
            return
        timer = self._fleet.timer(own, key) or Timer(
            stack=view.id, traversal=view.traversal, action=view.action
        )
        verdict = judge(view, fleet.actions, fleet.alive, timer.abandon)
        age = now - seen.since
        if verdict.begun:
            wrong = bool(verdict.lost)
        else:
            beginner = timer.engine is not None and fleet.alive(timer.engine)
            wrong = not beginner or age >= BEGINNER * self._patience
        if wrong and not self._delivers():
            seen.print = ""  # what nobody has may wait there: begin again
        elif not timed or wrong:
            found = Finding(view, verdict, timer, untimed=not timed, age=age)
            self._hand_over(fleet, found, seen)

    def _hand_over(self, fleet: Fleet, found: Finding, seen: Sighting) -> None:
        if self._findings.forbidden(fleet):
            if seen.reported == seen.print:
                return
            seen.reported = seen.print
        self._findings.hand_over(fleet, found)


def _threads() -> int:
    try:
        return int(cfg.CONF.executor_thread_pool_size)
    except cfg.NoSuchOptError:
        return 64  # oslo.messaging's default
