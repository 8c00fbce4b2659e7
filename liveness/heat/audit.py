"""The audit of Heat's own tables: operations that nobody works on, dead locks, and what
would be done about each. It only looks."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping
from typing import Any

from liveness import Liveness
from liveness.audit import REMEDIES, Finding, Severity
from liveness.cmd import audit as core
from liveness.conf import Settings
from liveness.db import report
from liveness.heat.names import Timer
from liveness.heat.scan import KEY, SCAN
from liveness.heat.scan_findings import Finding as Idle
from liveness.heat.scan_fleet import Fleet, FleetReader
from liveness.heat.scan_judge import fingerprint, judge
from liveness.heat.scan_rows import Row, Rows, View
from liveness.model import DeadlineState

MOMENT = 3.0
"""Seconds between the two looks at each stack."""

MOST = 1000
"""Stacks that are looked at twice, and locks that are named."""

HEAT_REMEDIES: dict[str, tuple[Severity, str]] = {
    "stack-idle": (
        Severity.CRITICAL,
        "An engine's scan does it, once it has seen the stack like that for"
        " scan_patience; if no engine is enabled, or mode is report: enable one.",
    ),
    "stack-untimed": (
        Severity.INFO,
        "An engine's scan arms the timer; until then nobody times the stack out if its"
        " engine dies.",
    ),
    "lock-dead": (
        Severity.WARNING,
        "Engines that are enabled do what is said, within seconds of the death or after"
        " scan_patience; if none is: enable one.",
    ),
    "engine-stock": (
        Severity.WARNING,
        "Enable liveness in it and restart it: until then the scan only reports.",
    ),
    "scan-missing": (
        Severity.CRITICAL,
        "Start an engine with liveness enabled; if the scan is parked: deadline retry"
        f" {SCAN} {KEY}.",
    ),
}
"""Every code of Heat's, beside the core's."""

PLANS = {
    "CREATE": "what it made is looked for, then it is finished or made again",
    "ADOPT": "it fails, with a reason: an adoption cannot be repeated",
    "UPDATE": "the update is done again in place",
    "DELETE": "the deletion is done again",
}
"""What is done about a resource that a dead engine had, by the resource's action."""
OTHERWISE = "the action is done again"
UNLOCKED = "the lock is taken away, and the message sent again if it is still wanted"


class Audit(core.Audit):
    __doc__ = core.Audit.__doc__

    def remedies(self) -> Mapping[str, tuple[Severity, str]]:
        return {**REMEDIES, **HEAT_REMEDIES}

    def _look(self, args: argparse.Namespace, settings: Settings) -> list[Finding]:
        found = super()._look(args, settings)
        with core.limited(args.timeout):
            ours = list(HeatAudit(settings).findings())
        return [*found, *(f for f in ours if f.code not in args.ignore)]


class HeatAudit:
    """All checks of Heat's tables."""

    def __init__(self, settings: Settings) -> None:
        live = Liveness(settings)  # for its settings and its clock; never started
        self._clock = live.clock
        self._rows = Rows()
        self._fleet = FleetReader(live, threads=1 << 30)

    def findings(self) -> Iterator[Finding]:
        """:raises DatabaseError: for whatever the database refuses."""
        first = {view.id: view for view in self._views()}
        with self._fleet.opened() as own:
            before = self._fleet.read(own, self._rows.services())
        if first:
            time.sleep(MOMENT)
        with self._fleet.opened() as own:
            fleet = self._fleet.read(own, self._rows.services())
            yield from self._stock(fleet)
            yield from self._scan(own, fleet)
            for stack_id, old in first.items():
                yield from self._stack(own, stack_id, old, before, fleet)
        yield from self._locks(fleet)

    def _views(self) -> Iterator[View]:
        after: str | None = ""
        number = 0
        while after is not None:
            found, after = self._rows.page(after)
            for stack_id in found:
                view = self._rows.view(stack_id)
                number += view is not None
                if number > MOST:
                    return
                if view is not None:
                    yield view

    def _stock(self, fleet: Fleet) -> Iterator[Finding]:
        for service in fleet.stock:
            yield _finding(
                "engine-stock",
                service.engine_id,
                f"It runs on {service.host} without liveness.",
            )

    def _scan(self, own: Any, fleet: Fleet) -> Iterator[Finding]:
        if not fleet.ours:
            return  # that is said already
        found = report.Report(self._clock).deadline(own, SCAN, KEY)
        if found is None:
            yield _finding("scan-missing", KEY, "No engine scans.")
        elif found[0].state == DeadlineState.PARKED:
            yield _finding("scan-missing", KEY, f"It is parked: {found[0].last_error}")

    def _stack(
        self, own: Any, stack_id: str, old: View, before: Fleet, fleet: Fleet
    ) -> Iterator[Finding]:
        view = self._rows.view(stack_id, data=True)
        if view is None:
            return
        timer = Timer(view.id, view.traversal, view.action)
        untimed = timer.key not in fleet.timers
        if untimed:
            text = f"Its {view.action} has no timer."
            yield _finding("stack-untimed", f"{view.name} ({view.id})", text)
        prints = (
            fingerprint(old, before.actions, before.alive, True),
            fingerprint(view, fleet.actions, fleet.alive, True),
        )
        verdict = judge(view, fleet.actions, fleet.alive)
        written = self._fleet.timer(own, timer.key) or timer
        beginner = written.engine is not None and fleet.alive(written.engine)
        if prints[0] != prints[1] or (verdict.begun and not verdict.lost):
            return
        if not verdict.begun and beginner:
            return
        idle = Idle(view, verdict, written, untimed, MOMENT)
        yield _finding(
            "stack-idle",
            f"{view.name} ({view.id})",
            f"Nobody is seen working on its {view.action}. To be done: {idle.what}.",
        )

    def _locks(self, fleet: Fleet) -> Iterator[Finding]:
        after: int | None = 0
        number = 0
        while after is not None and number < MOST:
            rows, after = self._rows.locked(after)
            for row in rows:
                if fleet.alive(row.engine_id or ""):
                    continue
                number += 1
                yield _finding(
                    "lock-dead",
                    f"resource {row.id} ({row.name})",
                    f"It is {row.action}_{row.status}, held by engine {row.engine_id},"
                    f" which is dead. To be done: {_plan(row)}.",
                )


def _plan(row: Row) -> str:
    if row.status != "IN_PROGRESS":
        return UNLOCKED
    return PLANS.get(row.action, OTHERWISE)


def _finding(code: str, subject: str, message: str) -> Finding:
    severity, remedy = HEAT_REMEDIES[code]
    return Finding(code, str(severity), subject, message, remedy)
