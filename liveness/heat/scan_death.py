"""The short scan after a death, for messages that died with their engine.

An engine acknowledges messages and then lets them wait for a thread; they are in no
row. To send one again that is merely in a queue does harm only where the resource may
be replaced: by two messages, twice. So what is being created or deleted need not wait
as long as the scan's patience, only until the queues have had a moment.
"""

from __future__ import annotations

from typing import Any

from liveness import Deadline, Done, Outcome, Rearm
from liveness.heat.names import Timer
from liveness.heat.scan_findings import Finding, Findings
from liveness.heat.scan_fleet import Fleet, FleetReader
from liveness.heat.scan_judge import fingerprint, judge
from liveness.heat.scan_rows import Rows

PREFIX = "after/"
"""Of the key; the dead engine's id follows."""

MOMENT = 1.5
"""Seconds from the death's discovery to the first look, and to each later one."""

LOOKS = 40
"""Looks, while the engines have their hands full; then the ordinary scan does it."""

STACKS = 500
"""Stacks that are looked at, of those in progress."""

HARMLESS = ("CREATE", "DELETE")
"""Actions of a stack in which nothing is replaced."""


class AfterDeath:
    """What one engine remembers from one look to the next, by dead engine."""

    def __init__(self, rows: Rows, fleet: FleetReader, findings: Findings) -> None:
        self._rows = rows
        self._fleet = fleet
        self._findings = findings
        self._seen: dict[str, tuple[int, dict[str, str]]] = {}

    def look(self, deadline: Deadline) -> Outcome:
        """Look at what is in progress. What is as it was at the last look, and in
        nobody's hands, is handed over; then it is done."""
        looks, before = self._seen.pop(deadline.key, (0, {}))
        prints: dict[str, str] = {}
        with self._fleet.opened() as own:
            fleet = self._fleet.read(own, self._rows.services())
            if self._findings.forbidden(fleet):
                return Done()
            for key in sorted(fleet.timers)[:STACKS]:
                stack_id, _, _ = key.partition("/")
                found = self._judged(own, fleet, stack_id, before, prints)
                if found is not None:
                    self._findings.hand_over(fleet, found)
        if (looks and not fleet.full) or looks >= LOOKS:
            return Done()
        self._seen[deadline.key] = looks + 1, prints
        return Rearm(MOMENT)

    def _judged(
        self,
        own: Any,
        fleet: Fleet,
        stack_id: str,
        before: dict[str, str],
        prints: dict[str, str],
    ) -> Finding | None:
        view = self._rows.view(stack_id, data=stack_id in before)
        if view is None or view.action not in HARMLESS:
            return None
        prints[stack_id] = fingerprint(view, fleet.actions, fleet.alive, True)
        if fleet.full or prints[stack_id] != before.get(stack_id):
            return None
        timer = Timer(view.id, view.traversal, view.action)
        timer = self._fleet.timer(own, timer.key) or timer
        verdict = judge(view, fleet.actions, fleet.alive, timer.abandon)
        if not verdict.lost:
            return None
        return Finding(view, verdict, timer, untimed=False, age=MOMENT)
