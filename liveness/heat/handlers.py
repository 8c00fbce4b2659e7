"""What Heat's kinds of deadline do when they come to a handler."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveness import (
    Deadline,
    Done,
    Handler,
    Outcome,
    Park,
    Rearm,
    WhenOrphaned,
    exceptions,
)
from liveness.heat import names, pause, scan, snapshots, timeouts

if TYPE_CHECKING:
    from liveness.heat.engine import HeatEngine

LOG = logging.getLogger(__name__)


class ResourceAction(Handler):
    """A resource action whose engine died, that the scan found without one, or that
    takes too long."""

    kind = names.ACTION
    when_orphaned = WhenOrphaned.RETRIGGER
    # Keystone or the queue may be away for some minutes.
    max_attempts = 8
    backoff_initial = 2.0
    backoff_max = 60.0

    def __init__(self, engine: HeatEngine) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome:
        action = names.Action.load(deadline.payload)
        if deadline.orphaned or action.found or self._is_dead(action):
            return self._recover(action)
        return timeouts.expired(self._engine, deadline, action)

    def orphaned(self, deadline: Deadline) -> Outcome:
        action = names.Action.load(deadline.payload)
        _look_further(self._engine, action.engine)
        return self._recover(action)

    def _recover(self, action: names.Action) -> Outcome:
        if pause.paused(self._engine.live):
            return Rearm(pause.LOOK_SECONDS)
        if not self._engine.settings.acts:
            return Park(f"report mode: would recover {action.node}")
        return self._engine.recovery.action(action)

    def _is_dead(self, action: names.Action) -> bool:
        """What waited has lost the mark of an orphan."""
        return action.engine is not None and self._engine.is_dead(action.engine)


class SnapshotAction(Handler):
    """A resource's part of a snapshot that was being deleted."""

    kind = names.SNAPSHOT
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: HeatEngine) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome:
        part = names.SnapshotDelete.load(deadline.payload)
        if pause.paused(self._engine.live):
            return Rearm(pause.LOOK_SECONDS)
        if not self._engine.settings.acts:
            return Park(f"report mode: would delete snapshot part {part.node} again")
        snapshots.delete_again(self._engine.recovery, part)
        return Done()


class StackTimer(Handler):
    """A traversal whose time is over, or whose first engine died."""

    kind = names.TIMER
    when_orphaned = WhenOrphaned.RETRIGGER

    def __init__(self, engine: HeatEngine) -> None:
        self._engine = engine

    def expired(self, deadline: Deadline) -> Outcome:
        timer = names.Timer.load(deadline.payload)
        if pause.paused(self._engine.live):
            return Rearm(pause.LOOK_SECONDS)
        if not self._engine.settings.acts:
            return Park(f"report mode: would time out stack {timer.stack}")
        return self._act(timer)

    def orphaned(self, deadline: Deadline) -> Outcome:
        timer = names.Timer.load(deadline.payload)
        if pause.paused(self._engine.live):
            return Rearm(pause.LOOK_SECONDS)
        if not self._engine.settings.acts:
            left = self._engine.recovery.time_left(timer.stack)
            return Rearm(left + self._engine.settings.timer_grace)
        _look_further(self._engine, timer.engine)
        return self._act(timer)

    def _act(self, timer: names.Timer) -> Outcome:
        recovery = self._engine.recovery
        outcome = None
        if timer.engine is not None and self._engine.is_dead(timer.engine):
            outcome = recovery.stack(timer)
        return outcome or recovery.time_out(timer)


class Retriggered(Handler):
    """It only counts, as long as the stack's operation may last."""

    kind = names.RETRIGGER

    def expired(self, deadline: Deadline) -> Outcome:
        return Done()


def _look_further(engine: HeatEngine, dead: str | None) -> None:
    """What waited in the dead engine's queue is in no row of its own."""
    if dead is not None and engine.settings.acts:
        with contextlib.suppress(exceptions.LivenessError):
            scan.after_death(engine, dead)


def handlers(engine: HeatEngine) -> Iterator[Handler]:
    """All of an engine."""
    yield ResourceAction(engine)
    yield SnapshotAction(engine)
    yield StackTimer(engine)
    yield Retriggered()
    yield pause.Pause()
    yield from scan.handlers(engine)
