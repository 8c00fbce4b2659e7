"""What becomes of what a scan finds: deadlines that are due, so that exactly one engine
acts on each, and tries again; or, when nothing may be done, a line in the log."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

from liveness import exceptions
from liveness.heat.names import ACTION, TIMER, Timer
from liveness.heat.scan_fleet import Fleet
from liveness.heat.scan_judge import Verdict
from liveness.heat.scan_rows import View

LOG = logging.getLogger(__name__)

BEGINNING = "stack_beginning"
"""An operation that was found without its beginning. Due at once."""

SHOWN = 10
"""Resources that a line names."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A stack of whose operation nobody takes care. ``untimed``: it has no timer.
    ``age``: seconds that it has been seen like that."""

    view: View
    verdict: Verdict
    timer: Timer
    untimed: bool
    age: float

    def __str__(self) -> str:
        return (
            f"Stack {self.view.name} ({self.view.id}): nobody has been working on its"
            f" {self.view.action} for {self.age:.0f} s"
        )

    @property
    def what(self) -> str:
        """What is to be done about it."""
        if not self.verdict.begun:
            return "it is begun again, or failed"
        lost = [
            f"{action.resource}{'' if action.is_update else ' (clean-up)'}"
            for action in self.verdict.lost
        ]
        if not lost:
            return "its timer is armed"
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        return f"resource {', '.join(lost[:SHOWN])}{more} retriggered"


class Findings:
    """Hands over what one engine finds."""

    def __init__(self, engine: Any) -> None:
        self._live = engine.live
        self._recovery = engine.recovery
        self._acts = engine.settings.acts

    def hand_over(self, fleet: Fleet, found: Finding) -> None:
        """See to it that somebody takes care of the stack."""
        if why := self.forbidden(fleet):
            LOG.warning("%s. Would be done: %s; but %s.", found, found.what, why)
            return
        if found.untimed and self._arm_timer(found.timer) <= 0:
            return  # its time is over: the timer's handler does the rest
        if not found.verdict.begun:
            self._arm(BEGINNING, found.timer.key, 0, found.timer)
        for action in found.verdict.lost:
            self._arm(ACTION, action.found_key, 0, action)
        if not found.verdict.begun or found.verdict.lost:
            LOG.warning("%s: %s.", found, found.what)

    def forbidden(self, fleet: Fleet) -> str:
        """Why nothing may be done, or nothing."""
        if fleet.stock:
            stock = fleet.stock[0]
            return (
                f"engine {stock.engine_id} on {stock.host} runs without this package,"
                " and what it does is written down nowhere"
            )
        return "" if self._acts else "[liveness] mode is report"

    def _arm_timer(self, timer: Timer) -> float:
        left = float(self._recovery.time_left(timer.stack))
        self._arm(TIMER, timer.key, max(left, 0.0), timer)
        return left

    def _arm(self, kind: str, key: str, due_in: float, payload: Any) -> None:
        try:
            self._live.arm(kind, key, due_in=due_in, payload=payload.dump())
        except exceptions.AlreadyArmed:
            LOG.debug("%s/%s is armed already.", kind, key)
