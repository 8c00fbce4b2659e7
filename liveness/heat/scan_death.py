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

MOMENT = 1.0
"""Seconds from the death's discovery to the first look, and to each later one."""

LOOKS = 60
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
        self._watched: dict[str, tuple[int, dict[str, str]]] = {}

    def look(self, deadline: Deadline) -> Outcome:
        """Look at what was in progress at the death. A stack that is as it was at the
        last look is judged; when all are, or are over, it is done."""
        looks, waiting = self._watched.pop(deadline.key, (0, {}))
        with self._fleet.opened() as own:
            fleet = self._fleet.read(own, self._rows.services())
            if self._findings.forbidden(fleet):
                return Done()
            if not looks:
                stacks = {key.partition("/")[0] for key in fleet.timers}
                waiting = dict.fromkeys(sorted(stacks)[:STACKS], "")
            waiting = {
                stack_id: print_
                for stack_id, before in waiting.items()
                if (print_ := self._look(own, fleet, stack_id, before))
            }
        if not waiting or looks >= LOOKS:
            return Done()
        self._watched[deadline.key] = looks + 1, waiting
        return Rearm(MOMENT)

    def _look(self, own: Any, fleet: Fleet, stack_id: str, before: str) -> str:
        """How the stack is, if it is still to be judged."""
        view = self._rows.view(stack_id, data=bool(before))
        if view is None or view.action not in HARMLESS:
            return ""
        print_ = fingerprint(view, fleet.actions, fleet.alive, True)
        if fleet.full or print_ != before:
            return print_
        timer = Timer(view.id, view.traversal, view.action)
        timer = self._fleet.timer(own, timer.key) or timer
        verdict = judge(view, fleet.actions, fleet.alive, timer.abandon)
        if verdict.lost:
            found = Finding(view, verdict, timer, untimed=False, age=MOMENT)
            self._findings.hand_over(fleet, found)
        return ""
