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
import logging
import threading
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from liveness import Deadline, Handler, Outcome, Rearm, WhenOrphaned, exceptions
from liveness.heat.names import ACTION, TIMER, Timer, timer_key
from liveness.heat.scan_fleet import Fleet, FleetReader
from liveness.heat.scan_judge import Verdict, fingerprint, judge
from liveness.heat.scan_rows import Rows, View
from liveness.model import DeadlineState

LOG = logging.getLogger(__name__)

SCAN = "heat_scan"
"""The one deadline whose owner scans."""

BEGINNING = "stack_beginning"
"""An operation that was found without its beginning. Due at once."""

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
    return [Scan(Scanner(engine)), Beginning(engine.recovery)]


def begin(engine: Any) -> None:
    """See to it that some engine of the fleet scans."""
    live = engine.live
    try:
        live.arm(SCAN, KEY, due_in=0)
    except exceptions.AlreadyArmed:
        found = live.find(SCAN, KEY)
        if found is not None and found.state == DeadlineState.PARKED:
            live.unpark(SCAN, KEY)


class Scan(Handler):
    """Whoever owns this deadline scans. Of a scan that fails nothing is lost: the next
    begins anew."""

    kind = SCAN
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner

    def expired(self, deadline: Deadline) -> Outcome:
        return Rearm(self._scanner.scan())


class Beginning(Handler):
    """Begins again, or fails, what an engine had not begun when it died."""

    kind = BEGINNING
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, recovery: Any) -> None:
        self._recovery = recovery

    def expired(self, deadline: Deadline) -> Outcome | None:
        outcome: Outcome | None = self._recovery.stack(Timer.load(deadline.payload))
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

    def __init__(self, engine: Any) -> None:
        self._live = engine.live
        self._recovery = engine.recovery
        self._settings = engine.settings
        self._rows = Rows()
        self._fleet = FleetReader(engine.live, _threads())
        self._sightings: dict[str, Sighting] = {}
        self._after: str | None = ""
        self._next_pass = 0.0
        self._busy = threading.Lock()

    def scan(self) -> float:
        """Read some pages, look at some stacks; the seconds until it is to go on."""
        if not self._busy.acquire(blocking=False):
            return float(self._settings.scan_interval)  # the last one hangs
        try:
            return self._scan(self._live.clock.monotonic())
        except Exception as error:
            LOG.warning(
                "The scan of Heat's stacks was broken off, and goes on in %g s: %s",
                self._settings.scan_interval,
                error,
                exc_info=not isinstance(error, exceptions.LivenessError),
            )
            return float(self._settings.scan_interval)
        finally:
            self._busy.release()

    def _scan(self, now: float) -> float:
        self._turn_pages(now)
        due = [i for i, seen in self._sightings.items() if seen.next_look <= now]
        if due:
            with self._fleet.opened() as own:
                fleet = self._fleet.read(own, self._rows.services())
                for stack_id in due[:LOOKS]:
                    self._look(own, fleet, stack_id, now)
        if len(due) > LOOKS or self._after is not None:
            return SOON
        looks = [seen.next_look for seen in self._sightings.values()]
        return max(min([self._next_pass, *looks]) - now, SOON)

    def _turn_pages(self, now: float) -> None:
        if self._after is None and now >= self._next_pass:
            self._after = ""
        if self._after == "":
            self._next_pass = now + self._settings.scan_interval
        for _ in range(PAGES):
            if self._after is None:
                return
            found, self._after = self._rows.page(self._after)
            for stack_id in found:
                self._sightings.setdefault(stack_id, Sighting())

    def _look(
        self, own: sa.Connection, fleet: Fleet, stack_id: str, now: float
    ) -> None:
        patience = self._settings.scan_patience
        seen = self._sightings[stack_id]
        seen.next_look = now + patience
        old_enough = bool(seen.print) and now - seen.since >= patience
        view = self._rows.view(stack_id, data=old_enough)
        if view is None:
            del self._sightings[stack_id]
            return
        key = timer_key(view.id, view.traversal)
        print_ = fingerprint(view, fleet.actions, fleet.alive, key in fleet.timers)
        if print_ != seen.print or fleet.full:
            seen.print, seen.since = print_, now
        elif old_enough:
            timer = self._fleet.timer(own, key) or Timer(
                stack=view.id, traversal=view.traversal, action=view.action
            )
            verdict = judge(view, fleet.actions, fleet.alive, timer.abandon)
            self._conclude(fleet, view, verdict, timer, seen, now - seen.since)

    # --- what follows from it -------------------------------------------------

    def _conclude(
        self,
        fleet: Fleet,
        view: View,
        verdict: Verdict,
        timer: Timer,
        seen: Sighting,
        age: float,
    ) -> None:
        beginner = timer.engine is not None and fleet.alive(timer.engine)
        if not verdict.begun and beginner and age < BEGINNER * self._patience:
            return
        untimed = timer.key not in fleet.timers
        if not untimed and verdict.begun and not verdict.lost:
            return
        if fleet.stock or not self._settings.acts:
            self._say_only(fleet, view, verdict, seen)
            return
        if untimed and self._arm_timer(timer) <= 0:
            return  # its time is over: the timer's handler does the rest
        if not verdict.begun:
            self._arm(BEGINNING, timer.key, 0, timer)
        for action in verdict.lost:
            self._arm(ACTION, action.found_key, 0, action)
        if not verdict.begun or verdict.lost:
            LOG.warning(
                "Stack %s (%s): nobody has been working on its %s for %.0f s; %s.",
                view.name,
                view.id,
                view.action,
                age,
                _what(verdict),
            )

    def _arm_timer(self, timer: Timer) -> float:
        left = float(self._recovery.time_left(timer.stack))
        self._arm(TIMER, timer.key, max(left, 0.0), timer)
        return left

    def _arm(self, kind: str, key: str, due_in: float, payload: Any) -> None:
        try:
            self._live.arm(kind, key, due_in=due_in, payload=payload.dump())
        except exceptions.AlreadyArmed:
            LOG.debug("%s/%s is armed already.", kind, key)

    def _say_only(
        self, fleet: Fleet, view: View, verdict: Verdict, seen: Sighting
    ) -> None:
        if seen.reported == seen.print:
            return
        seen.reported = seen.print
        why = "[liveness] mode is report"
        if fleet.stock:
            stock = fleet.stock[0]
            why = (
                f"engine {stock.engine_id} on {stock.host} runs without this package,"
                " and what it does is written down nowhere"
            )
        LOG.warning(
            "Stack %s (%s): nobody is seen working on its %s. Would be done: %s; but"
            " %s.",
            view.name,
            view.id,
            view.action,
            _what(verdict),
            why,
        )

    @property
    def _patience(self) -> float:
        return float(self._settings.scan_patience)


def _what(verdict: Verdict) -> str:
    if not verdict.begun:
        return "it is begun again, or failed"
    if not verdict.lost:
        return "its timer is armed"
    nodes = ", ".join(
        f"{action.resource}{'' if action.is_update else ' (cleanup)'}"
        for action in verdict.lost[:10]
    )
    more = f" and {len(verdict.lost) - 10} more" if len(verdict.lost) > 10 else ""
    return f"resource {nodes}{more} retriggered"


def _threads() -> int:
    try:
        return int(cfg.CONF.executor_thread_pool_size)
    except cfg.NoSuchOptError:
        return 64  # oslo.messaging's default
