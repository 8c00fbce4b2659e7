"""What Heat's kinds of deadline do when they come to a handler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveness import Deadline, Done, Handler, Outcome, Park, Rearm, WhenOrphaned
from liveness.heat import names, scan

if TYPE_CHECKING:
    from liveness.heat.engine import HeatEngine

LOG = logging.getLogger(__name__)


class ResourceAction(Handler):
    """A resource action whose engine died, or that the scan found without one."""

    kind = names.ACTION
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: HeatEngine) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome:
        action = names.Action.load(deadline.payload)
        if not self._engine.settings.acts:
            return Park(f"report mode: would recover {action.node}")
        return self._engine.recovery.action(action)


class StackTimer(Handler):
    """A traversal whose time is over, or whose first engine died."""

    kind = names.TIMER
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: HeatEngine) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome:
        timer = names.Timer.load(deadline.payload)
        if not self._engine.settings.acts:
            return Park(f"report mode: would time out stack {timer.stack}")
        return self._engine.recovery.time_out(timer)

    def orphaned(self, deadline: Deadline) -> Outcome:
        timer = names.Timer.load(deadline.payload)
        recovery = self._engine.recovery
        outcome = recovery.stack(timer) if self._engine.settings.acts else None
        if outcome is not None:
            return outcome
        left = recovery.time_left(timer.stack)
        return Rearm(left + self._engine.settings.timer_grace)


class Retriggered(Handler):
    """It only counts, as long as the stack's operation may last."""

    kind = names.RETRIGGER

    def expired(self, deadline: Deadline) -> Outcome:
        return Done()


def handlers(engine: HeatEngine) -> Iterator[Handler]:
    """All of an engine."""
    yield ResourceAction(engine)
    yield StackTimer(engine)
    yield Retriggered()
    yield from scan.handlers(engine)
