"""Deadlines of resource actions that come to a handler while their engine lives."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from heat.rpc import api as rpc_api

from liveness import Deadline, Outcome, Rearm
from liveness.heat.guards import Run
from liveness.heat.names import Action

if TYPE_CHECKING:
    from liveness.heat.engine import HeatEngine

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks whether a cancelled action has ended."""

LOOKS = 10
"""After which it hangs where nothing can cancel it."""


def expired(engine: HeatEngine, deadline: Deadline, action: Action) -> Outcome:
    """An action has had its time, was cancelled for that, or has ended in an error."""
    if action.engine != engine.engine_id:
        return Rearm(LOOK_SECONDS * LOOKS)  # only its own engine can cancel it
    run = engine.guards.get(deadline.key)
    if run is not None:
        return _too_long(engine, run, action)
    return engine.recovery.aftermath(action)


def _too_long(engine: HeatEngine, run: Run, action: Action) -> Outcome:
    run.looks += 1
    if run.looks == 1:
        LOG.warning("%s takes too long: it is cancelled.", action.node)
        if run.queue is not None:
            # Heat's own way, which is for all tasks of a stack: this one's queue only.
            run.queue.put_nowait(rpc_api.THREAD_CANCEL)
    if run.looks > LOOKS:
        return engine.recovery.hangs(action)
    return Rearm(LOOK_SECONDS)
